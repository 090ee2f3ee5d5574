"""Compare the engines on random cells, on every backend, for as long as is asked for.

    python tools/fuzz.py                              five minutes on each backend, a new seed
    python tools/fuzz.py --seed 7 --minutes 60        an hour on each
    python tools/fuzz.py --backend jax --seed 7 --cell 1234     one cell again, with its source

Every cell runs on every engine that accepts it, and each is compared with a fresh layer that runs
the plain loop: values, gradients, effects of Python, over several calls between which the cell is
changed. A refusal is fine. A difference or a crash is a failure: it is shown with the cell, made
smaller where that goes, and the exit code is 1. Each backend runs in a process of its own; where
that dies or hangs, the cell it was at is a failure as well, and the next one follows.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
BACKENDS = ("tensorflow", "torch", "jax")
HANG = 300
"""Seconds after which a cell that is not done counts as a failure."""
EVERY = 10
"""Seconds between two lines of progress."""
CHUNK = 400
"""Cells after which a new process begins: what backends compile, they keep."""


@dataclasses.dataclass
class Report:
    """Results of a backend so far.

    Args:
        cells: Number of cells that were compared.
        failing: Numbers of the cells that failed.
        unrunnable: Number of cells that the plain loop could not run, by the reason.
        counts: Of calls, and of engines that ran or refused.
    """

    cells: int = 0
    failing: list[int] = dataclasses.field(default_factory=list)
    unrunnable: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


class Worker:
    """The process of one backend."""

    def __init__(self, backend: str, arguments: list[str]) -> None:
        self.errors: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")
        self.events: queue.Queue[str | None] = queue.Queue()
        paths = [str(ROOT / "tests"), str(ROOT), str(ROOT / "plugins")]
        threads = dict.fromkeys(
            ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"
        )
        environment = {
            "CUDA_VISIBLE_DEVICES": "",
            "JAX_PLATFORMS": "cpu",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            **threads,
            **os.environ,
            "KERAS_BACKEND": backend,
            "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fuzz.run", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None  # noqa: S101 - it is a pipe
        for line in self.process.stdout:
            self.events.put(line)
        self.events.put(None)

    def next(self) -> dict[str, Any] | None:
        """Return the next event, or None where the process has ended.

        Raises:
            TimeoutError: If there is none for too long.
        """
        try:
            line = self.events.get(timeout=HANG)
        except queue.Empty:
            raise TimeoutError from None
        return None if line is None else json.loads(line)

    def close(self) -> tuple[int, str]:
        """End the process; return its exit code and the last lines of its errors."""
        if self.process.poll() is None and self.events.empty():
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        code = self.process.wait()
        self.errors.seek(0)
        return code, "".join(self.errors.readlines()[-15:])


def fuzz(backend: str, options: argparse.Namespace, end: float) -> Report:
    """Run random cells on one backend, and show each failure as it comes."""
    report = Report()
    first = options.first if options.cell is None else options.cell
    last = first + (options.cells or sys.maxsize)
    shown = time.monotonic()
    while first < last and (time.monotonic() < end or not report.cells):
        seconds = max(1.0, end - time.monotonic())
        worker = Worker(
            backend,
            [
                f"--seed={options.seed}",
                f"--first={first}",
                f"--cells={min(last - first, CHUNK)}",
                f"--seconds={seconds}",
                f"--shrink={options.shrink}",
                *(["--show"] if options.cell is not None else []),
            ],
        )
        begun, hung = None, False
        try:
            while (event := worker.next()) is not None:
                begun = take(event, backend, options, report, begun)
                first = event["number"] + (event["event"] == "end")
                if time.monotonic() - shown > EVERY:
                    shown = time.monotonic()
                    print(f"{backend}: {told(report)}", flush=True)
        except TimeoutError:
            hung = True
            worker.process.send_signal(signal.SIGKILL)
        except KeyboardInterrupt:
            worker.process.kill()
            raise
        code, errors = worker.close()
        if begun is None and code == 0:
            continue
        # The process died, or hung, at a cell; without one it could not even begin.
        what = f"no answer for {HANG} s" if hung else f"the process ended with code {code}"
        print(f"\n{backend}, cell {begun}: {what}\n{textwrap.indent(errors, '  ')}", flush=True)
        if begun is None:
            sys.exit(70)
        print(again(backend, options, begun), flush=True)
        if begun not in report.failing:
            report.failing.append(begun)
        first = begun + 1
    return report


def take(
    event: dict[str, Any],
    backend: str,
    options: argparse.Namespace,
    report: Report,
    begun: int | None,
) -> int | None:
    """Take one event of a worker; return the number of the cell that it is at."""
    number = event["number"]
    if event["event"] == "begin":
        return number
    if event["event"] == "failure":
        if number not in report.failing:
            report.failing.append(number)
        print(f"\n{backend}, cell {number}: {event['what']}", flush=True)
    elif event["event"] in ("source", "smaller"):
        if event["event"] == "smaller":
            print("  A smaller cell that fails:", flush=True)
        print(textwrap.indent(event["text"], "    "), flush=True)
        if options.cell is None:
            print(again(backend, options, number), flush=True)
    else:
        report.counts.update(event["counts"])
        if event["unrunnable"]:
            report.unrunnable[event["unrunnable"]] += 1
        else:
            report.cells += 1
        return None
    return begun


def again(backend: str, options: argparse.Namespace, number: int) -> str:
    """Return the command that runs a cell again."""
    return (
        f"  again: {os.path.relpath(sys.executable)} tools/fuzz.py --backend {backend} "
        f"--seed {options.seed} --cell {number}\n"
    )


def told(report: Report) -> str:
    """Return a line about a report."""
    line = f"{report.cells} cells, {report.counts['calls']} calls compared"
    return f"{line}, {len(report.failing)} cells failed"


def summarise(reports: dict[str, Report], seed: int) -> int:
    """Print what was compared and what was refused; return the exit code."""
    print(f"\nSummary (seed {seed})")
    for backend, report in reports.items():
        print(f"  {'FAILED' if report.failing else 'ok    '}  {backend:<11}{told(report)}")
        for kind in ("ran", "refused"):
            found = {k.split(" ", 1)[1]: n for k, n in report.counts.items() if k.startswith(kind)}
            listed = ", ".join(f"{k} {n}" for k, n in sorted(found.items()))
            print(f"            {kind + ':':<9}{listed or 'none'}")
        rest = sum(report.unrunnable.values())
        print(
            f"            {rest} cells that the plain loop cannot run, "
            f"{report.counts['ill-conditioned']} comparisons left to rounding"
        )
        if report.failing:
            print(f"            failed: {', '.join(map(str, report.failing))}")
    return 1 if any(r.failing or not r.cells for r in reports.values()) else 0


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="all", help="all, or names separated by commas")
    parser.add_argument("--seed", type=int, help="of the cells; a new one is drawn and shown")
    parser.add_argument("--minutes", type=float, default=5.0, help="for each backend")
    parser.add_argument("--seconds", type=float, help="the same in seconds")
    parser.add_argument("--first", type=int, default=0, help="number of the first cell")
    parser.add_argument("--cells", type=int, help="number of cells, however long they take")
    parser.add_argument("--cell", type=int, help="run this cell alone and show its source")
    parser.add_argument("--shrink", type=int, default=200, help="tries to make a cell smaller")
    options = parser.parse_args()
    chosen = list(BACKENDS) if options.backend == "all" else options.backend.split(",")
    unknown = sorted(set(chosen) - set(BACKENDS))
    if unknown:
        parser.error(f"no such backend: {', '.join(unknown)}; choose from {', '.join(BACKENDS)}")
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6)
    if options.cell is not None:
        options.cells = 1
    seconds = options.minutes * 60 if options.seconds is None else options.seconds
    limit = float("inf") if options.cells else seconds
    print(f"Random cells, seed {options.seed}")
    reports = {b: fuzz(b, options, time.monotonic() + limit) for b in chosen}
    return summarise(reports, options.seed)


if __name__ == "__main__":
    sys.exit(main())
