"""Time a small call at inference beside the same call of others, in one run.

    python tools/time_small_call.py            # beside torch.nn.LSTM (PyTorch only)
    python tools/time_small_call.py ../before  # and beside another checkout of cellkit

The call is that of an `lstm` of 32 units over 2 rows of 5 steps with 16 features, on one thread.
Those that are compared run in turns, a process for each checkout. Counted is the processor's time,
and a ratio is the median of the ratios of the turns: what else the machine does counts little.

KERAS_BACKEND chooses the backend (default: torch).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROWS, STEPS, FEATURES, UNITS = 2, 5, 16, 32
TURNS, CALLS = 40, 40


def main() -> int:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", nargs="?", type=Path, help="another checkout")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        return serve(given.work)
    backend = os.environ.setdefault("KERAS_BACKEND", "torch")
    workers = {"now": Worker(ROOT, "cellkit")}
    if backend == "torch":
        workers["torch.nn.LSTM"] = Worker(ROOT, "torch.nn.LSTM")
    if given.before:
        workers["before"] = Worker(given.before, "cellkit")
    times: dict[str, list[float]] = {name: [] for name in workers}
    for turn in range(TURNS):
        # Forwards and back, so that none always comes after the same other one.
        for name in list(workers)[:: -1 if turn % 2 else 1]:
            times[name].append(workers[name].turn())
    for worker in workers.values():
        worker.end()
    print(f"{backend}: {statistics.median(times['now']):.0f} us a call")
    for name in list(workers)[1:]:
        ratios = [a / b for a, b in zip(times["now"], times[name], strict=True)]
        print(f"  {statistics.median(ratios):.2f} times {name}, best {best(times, name):.2f}")
    return 0


def best(times: dict[str, list[float]], name: str) -> float:
    """Return the ratio of the fastest turns, which nothing disturbed."""
    return min(times["now"]) / min(times[name])


class Worker:
    """A process that makes calls when it is asked to.

    Args:
        checkout: The checkout whose cellkit it imports.
        subject: "cellkit" or "torch.nn.LSTM".
    """

    def __init__(self, checkout: Path, subject: str) -> None:
        root = checkout.resolve()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment["PYTHONPATH"] = os.pathsep.join([str(root), str(root / "plugins")])
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work", subject],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._ask()  # it is ready

    def _ask(self) -> str:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("a process ended before its time")
        return answer

    def turn(self) -> float:
        """Return the microseconds that a call takes now."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._ask())

    def end(self) -> None:
        """End the process."""
        self._process.communicate()


def serve(subject: str) -> int:
    """Make calls for each line that is read, and write how long one takes."""
    call = small_call() if subject == "cellkit" else rival()
    for _ in range(60):  # TensorFlow traces calls that repeat
        call()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        for _ in range(CALLS):
            call()
        print((time.process_time() - start) / CALLS * 1e6, flush=True)
    return 0


def small_call() -> Callable[[], Any]:
    """Return a call of a layer."""
    import keras

    import cellkit

    layer = cellkit.RNN(cellkit.create("lstm", units=UNITS))
    x = keras.ops.convert_to_tensor(inputs())
    if keras.backend.backend() == "torch":
        return inferring(lambda: layer(x))
    if keras.backend.backend() == "jax":
        import jax

        return lambda: jax.block_until_ready(layer(x))
    return lambda: layer(x).numpy()


def rival() -> Callable[[], Any]:
    """Return a call of `torch.nn.LSTM`."""
    import torch

    layer, x = torch.nn.LSTM(FEATURES, UNITS, batch_first=True), torch.tensor(inputs())
    return inferring(lambda: layer(x)[0][:, -1])


def inputs() -> Any:
    """Return inputs `(batch, time, features)`."""
    import numpy as np

    return np.random.default_rng(0).normal(size=(ROWS, STEPS, FEATURES)).astype("float32")


def inferring(call: Callable[[], Any]) -> Callable[[], Any]:
    """Return a call without gradients, on one thread."""
    import torch

    torch.set_num_threads(1)

    def run() -> Any:
        with torch.no_grad():
            return call()

    return run


if __name__ == "__main__":
    sys.exit(main())
