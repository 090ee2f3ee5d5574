"""Conformance and times on the GPU at hand, in a few minutes; whoever has one can run it.

    python benchmarks/gpu.py --minutes 8 [--device gpu|cpu] [--backend torch jax] [--out FOLDER]

On the GPU that PyTorch or JAX sees: conformance of some cells there, then cells over batches,
lengths and widths, by the engine that cellkit takes, by every other one, and by what else does the
same work (Keras' layers, `torch.nn`, Flax, a loop by hand), in float32 with and without TF32 and in
mixed bfloat16, with the peak of memory. The most telling cases come first. What is measured is
written at once, to `gpu-DEVICE.json` and a page beside it: a run that is cut off keeps what it has.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
CELLS = ("lstm", "gru", "min_gru", "layer_norm_lstm")
ENGINES = {"torch": ("fused", "loop"), "jax": ("fused", "loop")}
CONFORMANCE = ("lstm", "gru", "min_gru", "mamba2")
SHARE = 0.25
"""The part of the time of a backend that conformance may take."""

SHAPES = (
    (32, 64, 128),
    (256, 512, 512),
    (1, 512, 128),
    (32, 512, 1024),
    (256, 64, 1024),
    (32, 4096, 128),
    (1, 4096, 512),
    (256, 4096, 256),
)
"""Rows, steps and widths, the most telling ones first."""

SMALL = ((4, 8, 16), (4, 16, 16))
"""What a processor can do in seconds, to rehearse the run."""

DTYPES = ("float32", "tf32", "mixed_bfloat16")
TURN, ROUNDS = 0.6, 5


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu")
    parser.add_argument("--backend", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        for found in work(options.worker, options.device, options.until):
            print(json.dumps(found), flush=True)
        return 0
    report = Report(options.out, options.device)
    until = time.time() + 60 * options.minutes
    for number, backend in enumerate(options.backend):
        left = len(options.backend) - number
        end = time.time() + (until - time.time()) / left
        report.add({"event": "backend", "backend": backend})
        conform(report, backend, options.device, time.time() + SHARE * (end - time.time()))
        measure(report, backend, options.device, end)
    report.add({"event": "end"})
    print(f"Wrote {report.path} and {report.page}")
    return 0 if report.measured else 1


class Report:
    """What was found, in a file that is whole at every moment.

    Args:
        folder: Where the files go.
        device: "gpu" or "cpu".
    """

    def __init__(self, folder: Path, device: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"gpu-{device}.json"
        self.data: dict[str, Any] = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "device": device,
            "events": [],
        }

    @property
    def page(self) -> Path:
        """The path of the page."""
        return self.path.with_suffix(".md")

    @property
    def measured(self) -> bool:
        """True if there is at least one time."""
        return any(event["event"] == "times" for event in self.data["events"])

    def add(self, event: dict[str, Any]) -> None:
        """Take what was found, and write it down."""
        self.data["events"].append(event)
        if event["event"] == "facts":
            name = re.sub(r"[^A-Za-z0-9]+", "-", event["name"]).strip("-").lower()
            for path in (self.path, self.page):
                path.unlink(missing_ok=True)
            self.path = self.path.with_name(f"gpu-{name}.json")
        _write(self.path, json.dumps(self.data, indent=1) + "\n")
        _write(self.page, "\n".join(page_of(self.data)) + "\n")


def _write(path: Path, text: str) -> None:
    """Put a file in the place of an older one, at once."""
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def environment(backend: str, device: str) -> dict[str, str]:
    """Return the environment of a process on this backend and device."""
    folders = [str(ROOT), str(ROOT / "conformance"), str(ROOT / "plugins")]
    variables = {**os.environ, "KERAS_BACKEND": backend}
    variables["PYTHONPATH"] = os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])
    if device == "cpu":
        variables.update(CUDA_VISIBLE_DEVICES="", JAX_PLATFORMS="cpu")
    return variables


def conform(report: Report, backend: str, device: str, end: float) -> None:
    """Run the quick profile of some cells on the device, as far as the time goes."""
    place = "gpu:0" if device == "gpu" else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "report.json")
        budget = max(1, int(end - time.time()))
        command = [sys.executable, "-m", "cellkit", "conform", *CONFORMANCE, "-q", "-n", "1"]
        command += ["--backend", backend, "--device", place, "--budget", str(budget)]
        command += ["--select", "NUM,SEQ,STA,MSK,GRD,DEV", "--json", str(path)]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                command,
                env=environment(backend, device),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=budget + 60,
            )
        if not path.exists():
            report.add({"event": "conformance", "backend": backend, "counts": {}, "broken": []})
            return
        results = json.loads(path.read_text(encoding="utf-8"))["results"]
    counts: dict[str, dict[str, int]] = {}
    for result in results:
        of_cell = counts.setdefault(result["cell"], {})
        of_cell[result["outcome"]] = of_cell.get(result["outcome"], 0) + 1
    broken = [
        f"{r['requirement']} {r['cell']}: {r['message']}"
        for r in results
        if r["outcome"] in ("fail", "error", "timeout", "crash")
    ]
    report.add({"event": "conformance", "backend": backend, "counts": counts, "broken": broken})


def measure(report: Report, backend: str, device: str, end: float) -> None:
    """Let a process of the backend measure until `end`, and take what it says line by line."""
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", backend]
    command += ["--device", device, "--until", str(end)]
    process = subprocess.Popen(
        command, env=environment(backend, device), stdout=subprocess.PIPE, text=True
    )
    try:
        for line in process.stdout or ():
            if line.startswith("{"):
                report.add(json.loads(line))
    finally:
        process.kill()
        process.wait()


def work(backend: str, device: str, until: float) -> Iterator[dict[str, Any]]:
    """Measure case after case, in a process of one backend.

    Args:
        backend: The backend.
        device: "gpu" or "cpu".
        until: The time after which no case begins but the first.
    """
    from cellkit_bench.plan import Work

    yield facts(backend, device)
    shapes = SMALL if device == "cpu" else SHAPES
    cases = itertools.product(shapes, CELLS, DTYPES)
    for number, (shape, cell, dtype) in enumerate(cases):
        if number and time.time() > until:
            return
        if device == "cpu" and dtype == "tf32":
            continue  # only GPUs have it
        case = {"backend": backend, "dtype": dtype, "work": vars(Work(cell, *shape))}
        try:
            yield from times(backend, device, Work(cell, *shape), dtype, case)
        except Exception as error:  # one case may be too large for the device: the next may not
            text = f"{type(error).__name__}: {error}"[:500]
            yield {"event": "failed", **case, "reason": text}


def facts(backend: str, device: str) -> dict[str, Any]:
    """Name the device and the versions.

    Raises:
        SystemExit: There is no GPU.
    """
    import keras

    found = {"event": "facts", "backend": backend, "keras": keras.__version__}
    if backend == "torch":
        import torch

        if device == "gpu" and not torch.cuda.is_available():
            sys.exit("PyTorch sees no GPU: install a build for it, or rehearse with --device cpu")
        name = torch.cuda.get_device_name() if device == "gpu" else "cpu"
        cudnn = str(torch.backends.cudnn.version()) if device == "gpu" else ""
        return {**found, "name": name, "torch": torch.__version__, "cudnn": cudnn}
    import jax

    first = jax.devices()[0]
    if device == "gpu" and first.platform != "gpu":
        sys.exit("JAX sees no GPU: install jax[cuda13], or rehearse with --device cpu")
    return {**found, "name": str(first.device_kind), "jax": jax.__version__}


@contextlib.contextmanager
def computing_in(backend: str, dtype: str) -> Iterator[None]:
    """Compute products in a dtype: float32 as it is, by TF32, or by Keras' mixed bfloat16."""
    import keras

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if dtype == "mixed_bfloat16" else "float32")
    if backend == "torch":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
        torch.backends.cudnn.allow_tf32 = dtype == "tf32"
        scope: Any = contextlib.nullcontext()
    else:
        import jax

        scope = jax.default_matmul_precision("tensorfloat32" if dtype == "tf32" else "highest")
    try:
        with scope:
            yield
    finally:
        keras.config.set_dtype_policy(policy)


def times(
    backend: str, device: str, of: Any, dtype: str, case: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Time all contestants of one case in turns, at inference and in training."""
    import importlib

    from cellkit_bench.plan import MODES
    from cellkit_bench.timing import alternate, summarize
    from cellkit_bench.worker import peak_memory

    module = importlib.import_module(f"cellkit_bench.contestants.{backend}")
    with computing_in(backend, dtype):
        found = {}
        for contestant in module.make(of, ENGINES[backend]):
            # What is no layer of Keras knows nothing of a dtype policy.
            if dtype != "mixed_bfloat16" or contestant.layer is not None:
                found[contestant.name] = contestant
        for mode in MODES:
            calls, memory = {}, {}
            for name, contestant in found.items():
                call = getattr(contestant, mode)
                try:
                    call()  # compiles
                    with peak_memory(backend) as peak:
                        call()
                except Exception as error:  # an engine that does not apply, or too little memory
                    text = f"{type(error).__name__}: {error}"[:300]
                    yield {"event": "failed", **case, "mode": mode, "by": name, "reason": text}
                    continue
                calls[name], memory[name] = call, peak
            for name, rounds in alternate(calls, TURN, ROUNDS).items():
                flat = [value for taken in rounds for value in taken]
                layer = found[name].layer
                engine = layer.engine_report().engine if hasattr(layer, "engine_report") else ""
                yield {
                    "event": "times",
                    **case,
                    "mode": mode,
                    "by": name,
                    "engine": engine,
                    "seconds": summarize(flat).to_json(),
                    "peak_bytes": memory[name].get("bytes"),
                    "counter": memory[name].get("counter"),
                }


def page_of(data: dict[str, Any]) -> Iterator[str]:
    """Write the page: what ran where, conformance, and the times beside each other."""
    events = data["events"]
    known = [event for event in events if event["event"] == "facts"]
    names = ", ".join(dict.fromkeys(event["name"] for event in known)) or data["device"]
    yield f"# Measured on {names}"
    yield ""
    whole = any(event["event"] == "end" for event in events)
    yield f"{data['date']}. " + ("" if whole else "The run was cut off; this is what it has. ")
    for event in known:
        versions = [
            f"{key} {event[key]}" for key in ("torch", "jax", "cudnn", "keras") if event.get(key)
        ]
        yield f"- {', '.join(versions)}"
    yield ""
    for event in events:
        if event["event"] == "conformance":
            for cell, counts in event["counts"].items():
                said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
                yield f"- Conformance of `{cell}` on {event['backend']}: {said}."
            yield from (f"- Broken: {text}" for text in event["broken"])
    yield ""
    yield "| Backend | Cell | Rows x steps x width | In | Mode | By | Milliseconds | Peak MiB |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for event in events:
        if event["event"] != "times":
            continue
        of = event["work"]
        shape = f"{of['batch']} x {of['length']} x {of['width']}"
        by = event["by"] + (f" ({event['engine']})" if event["engine"] else "")
        memory = "" if event["peak_bytes"] is None else f"{event['peak_bytes'] / 2**20:.1f}"
        cells = [event["backend"], of["cell"], shape, event["dtype"], event["mode"], by]
        yield f"| {' | '.join(cells)} | {1e3 * event['seconds']['median']:.3f} | {memory} |"
    failed = [event for event in events if event["event"] == "failed"]
    if failed:
        yield ""
        yield "Not measured:"
        yield ""
    for event in failed:
        reason = " ".join(event["reason"].split())
        yield f"- {event['work']['cell']}, {event.get('by', 'all')}, {event['dtype']}: {reason}"


if __name__ == "__main__":
    sys.exit(main())
