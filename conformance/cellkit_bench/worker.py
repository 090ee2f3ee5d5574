"""The worker: one process, one backend.

It is started with a request (JSON) as its argument, writes one JSON object per line on standard
output, and sends what anybody prints to standard error.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from cellkit_bench.plan import MODES, BenchPlan, Work
from cellkit_bench.timing import alternate, summarize
from cellkit_conformance.run.lifeline import end_with_parent

STEPS = 50
"""Steps of a stream that are timed at once."""

SHOWN_ERRORS = 300
"""Characters of an error that the results keep."""


def main() -> int:
    """Answer the request given as the argument.

    Returns:
        The exit code of the process.
    """
    end_with_parent()
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    request = json.loads(sys.argv[1])
    worker = Worker(request["backend"], channel)
    if "memory" in request:
        worker.memory(Work(**request["memory"]), request["contestant"])
    else:
        worker.run(BenchPlan.from_json(request["plan"]))
    return 0


class Worker:
    """Measures on one backend and writes down what it finds.

    Args:
        backend: The backend of this process.
        channel: Connection that takes the results.
    """

    def __init__(self, backend: str, channel: TextIO) -> None:
        self.backend = backend
        self.channel = channel
        if backend == "tensorflow":
            with contextlib.suppress(ImportError):
                # Before TensorFlow: in the other order the two crash in one process.
                import torch  # noqa: F401
        self.module = importlib.import_module(f"cellkit_bench.contestants.{backend}")

    def run(self, plan: BenchPlan) -> None:
        """Measure everything but memory."""
        self._send(
            event="ready",
            device=self._device(),
            versions=self._versions(),
            settings=self._settings(),
        )
        tasks = [(work, self._measure_all) for work in plan.main]
        tasks += [(work, self._measure_few) for work in plan.curves]
        tasks += [(work, self._stream) for work in plan.streaming]
        for work, task in tasks:
            self._send(event="work", work=vars(work))
            try:
                task(work, plan)
            except ValueError as error:  # a cell that can't be measured; the others can
                self._failed(work, None, None, error)
            self._send(event="done", work=vars(work))

    def memory(self, work: Work, contestant: str) -> None:
        """Measure how much memory one contestant needs at its peak, by mode."""
        found = next((c for c in self._make(work, ()) if c.name == contestant), None)
        if found is None:
            return
        for mode in MODES:
            call = getattr(found, mode)
            call()  # compiles, and lets libraries take the memory that they keep
            with peak_memory(self.backend) as peak:
                call()
            self._send(
                event="memory",
                work=vars(work),
                mode=mode,
                contestant=contestant,
                bytes=peak["bytes"],
                counter=peak["counter"],
            )

    def _measure_all(self, work: Work, plan: BenchPlan) -> None:
        self._measure(work, plan, self._make(work, plan.engines))

    def _measure_few(self, work: Work, plan: BenchPlan) -> None:
        self._measure(work, plan, [c for c in self._make(work, ()) if _on_curves(c.name)])

    def _measure(self, work: Work, plan: BenchPlan, found: list[Any]) -> None:
        from cellkit_bench import contestants

        operations = contestants.operations(contestants.make_cell(work), work)
        expected: Any = None
        for mode in MODES:
            calls, first = {}, {}
            for contestant in found:
                call = getattr(contestant, mode)
                start = time.perf_counter()
                try:
                    result = call()
                except Exception as error:
                    self._failed(work, mode, contestant.name, error)
                    continue
                first[contestant.name] = time.perf_counter() - start
                calls[contestant.name] = call
                if mode == "inference" and contestant.comparable:
                    numbers = _numbers(result)
                    expected = numbers if expected is None else expected
                    difference = float(abs(numbers - expected).max())
                    if not difference < 1e-3:
                        del calls[contestant.name]
                        text = f"its outputs differ by {difference:.2g} from the others'"
                        self._failed(work, mode, contestant.name, ValueError(text))
            calls[contestants.PRODUCT] = self.module.product(work)
            calls[contestants.PRODUCT]()
            gc.collect()
            times = alternate(calls, plan.seconds, plan.rounds)
            for name, rounds in times.items():
                flat = [value for taken in rounds for value in taken]
                self._send(
                    event="times",
                    work=vars(work),
                    mode=mode,
                    contestant=name,
                    seconds=summarize(flat).to_json(),
                    rounds=[summarize(taken).median for taken in rounds],
                    first=first.get(name),
                    operations=_product_operations(work)
                    if name == contestants.PRODUCT
                    else operations[mode],
                    engine=_engine(found, name),
                )

    def _stream(self, work: Work, plan: BenchPlan) -> None:
        calls: dict[str, Callable[[], Any]] = {}
        for name, run in self.module.streams(work):
            try:
                run(2)
            except Exception as error:
                self._failed(work, "stream", name, error)
                continue
            calls[name] = functools.partial(run, STEPS)
        for name, rounds in alternate(calls, plan.seconds, plan.rounds).items():
            flat = [value / STEPS for taken in rounds for value in taken]
            self._send(
                event="times",
                work=vars(work),
                mode="stream",
                contestant=name,
                seconds=summarize(flat).to_json(),
                rounds=[summarize(taken).median / STEPS for taken in rounds],
                first=None,
                operations=None,
                engine="",
            )

    def _make(self, work: Work, engines: tuple[str, ...]) -> list[Any]:
        return list(self.module.make(work, engines))

    def _failed(
        self, work: Work, mode: str | None, contestant: str | None, error: Exception
    ) -> None:
        text = f"{type(error).__name__}: {error}"[:SHOWN_ERRORS]
        self._send(event="failed", work=vars(work), mode=mode, contestant=contestant, reason=text)

    def _send(self, **event: Any) -> None:
        self.channel.write(json.dumps({"backend": self.backend, **event}) + "\n")

    def _device(self) -> str:
        if self.backend == "jax":
            import jax

            return str(jax.devices()[0].device_kind)
        if self.backend == "tensorflow":
            import tensorflow as tf

            devices = tf.config.list_physical_devices("GPU")
            return str(devices[0].name) if devices else "cpu"
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"

    def _settings(self) -> dict[str, str]:
        """Say what the times on a processor depend on beside the machine."""
        if self.backend == "torch":
            import torch

            return {"threads": str(torch.get_num_threads())}
        if self.backend == "jax":
            return {"threads": str(os.cpu_count())}
        from cellkit.engines.tensorflow import products

        onednn = "on" if products.has_onednn() else "off"
        return {"threads": str(products.threads()), "oneDNN": onednn}

    def _versions(self) -> dict[str, str]:
        modules = ("keras", "numpy", self.backend, "torch", "flax", "torchrecurrent")
        loaded = {name: sys.modules.get(name) for name in modules}
        return {name: str(getattr(m, "__version__", "?")) for name, m in loaded.items() if m}


@contextlib.contextmanager
def peak_memory(backend: str) -> Iterator[dict[str, Any]]:
    """Measure how far memory grows inside, at its peak.

    On a CUDA device with PyTorch the allocator counts. Elsewhere it is the resident memory of the
    process: on Linux its peak since the block began, on other systems since the process began.
    """
    result: dict[str, Any] = {}
    torch = sys.modules.get("torch") if backend == "torch" else None
    gc.collect()
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        rest = torch.cuda.memory_allocated()
        yield result
        result.update(
            bytes=torch.cuda.max_memory_allocated() - rest,
            counter="torch.cuda.max_memory_allocated",
        )
        return
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5", encoding="ascii")
        rest = _status("VmRSS")
        yield result
        result.update(bytes=_status("VmHWM") - rest, counter="VmHWM - VmRSS")
        return
    import resource  # which Windows has not

    rest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield result
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rest
    unit = 1 if sys.platform == "darwin" else 1024
    result.update(bytes=grown * unit, counter="growth of ru_maxrss")


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return 0 if found is None else int(found.group(1)) * 1024


def _on_curves(name: str) -> bool:
    from cellkit_bench import contestants

    return name in (contestants.CELLKIT, contestants.KERAS) or name.startswith("torch.nn.")


def _engine(found: list[Any], name: str) -> str:
    """Return which engine the layer of cellkit has chosen, where it says so."""
    layer = next((c.layer for c in found if c.name == name), None)
    report = getattr(layer, "engine_report", None)
    return "" if report is None else str(getattr(report(), "engine", ""))


def _numbers(result: Any) -> Any:
    import numpy as np

    detached = result.detach().cpu() if hasattr(result, "detach") else result
    return np.asarray(detached)


def _product_operations(work: Work) -> int:
    from cellkit_bench import contestants

    (rows, inner), (_, columns) = contestants.product_shapes(work)
    return 2 * rows * inner * columns


if __name__ == "__main__":
    raise SystemExit(main())
