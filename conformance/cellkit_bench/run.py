"""The parent: starts one worker per backend, one after the other, and collects what they send."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cellkit import __version__
from cellkit_bench.plan import BenchPlan, Work
from cellkit_conformance.run import lifeline

MEMORY_CONTESTANTS = {
    "torch": ("cellkit.RNN", "keras.layers.RNN", "by hand", "torch.nn.LSTM", "torch.nn.GRU"),
    "jax": ("cellkit.RNN", "keras.layers.RNN", "by hand"),
    "tensorflow": ("cellkit.RNN", "keras.layers.RNN", "by hand"),
}

TAIL = 1500
"""Characters of a failed worker's standard error that are shown."""

_THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
_SETTINGS = (*_THREADS, "TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES")


def environment(backend: str, memory: bool = False) -> dict[str, str]:
    """Return the environment of a worker.

    Compiled functions aren't taken from a cache: how long compiling takes is a result.

    Args:
        backend: Its backend.
        memory: True if it measures memory. What is freed then goes back to the system at once, or
            it would be counted as still in use.
    """
    variables = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "KERAS_BACKEND": backend}
    if memory:
        variables.update(MALLOC_MMAP_THRESHOLD_="1048576", MALLOC_TRIM_THRESHOLD_="1048576")
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    return variables


def machine() -> dict[str, Any]:
    """Describe the machine and the settings that the times depend on."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {
        "cpu": _cpu(),
        "cpus": usable,
        "load_at_start": load,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "settings": {name: os.environ[name] for name in _SETTINGS if name in os.environ},
    }


def measure(
    plan: BenchPlan, backends: list[str], show: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Run the plan on every backend.

    Args:
        plan: The work to measure.
        backends: Names of the backends, in the order of the run.
        show: Called with every event of the workers.

    Returns:
        The results, as plain values: `cellkit`, `date`, `machine`, `plan`, and lists `backends`,
        `times`, `memory` and `failed`.
    """
    now = datetime.datetime.now(datetime.UTC)
    results: dict[str, Any] = {
        "cellkit": __version__,
        "date": now.isoformat(timespec="seconds"),
        "machine": machine(),
        "plan": plan.to_json(),
        "backends": [],
        "times": [],
        "memory": [],
        "failed": [],
    }
    lists = {"ready": "backends", "times": "times", "memory": "memory", "failed": "failed"}

    def take(event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind in lists:
            results[lists[kind]].append({k: v for k, v in event.items() if k != "event"})
        show(event)

    for backend in backends:
        _work(backend, {"plan": plan.to_json()}, take)
        for work, contestant in memory_tasks(plan, backend):
            _work(backend, {"memory": vars(work), "contestant": contestant}, take)
            take({"event": "done", "backend": backend, "work": vars(work)})
    return results


def memory_tasks(plan: BenchPlan, backend: str) -> list[tuple[Work, str]]:
    """Return what is measured in a process of its own."""
    return [
        (work, name)
        for work in plan.memory
        for name in MEMORY_CONTESTANTS[backend]
        if not name.startswith("torch.nn.") or name == f"torch.nn.{work.cell.upper()}"
    ]


def _work(backend: str, request: dict[str, Any], take: Callable[[dict[str, Any]], None]) -> None:
    command = [sys.executable, "-m", "cellkit_bench.worker"]
    command.append(json.dumps({"backend": backend, **request}))
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment(backend, "memory" in request),
            **lifeline.OF_A_WORKER,
        )
        assert process.stdout and process.stdin  # noqa: S101 - they are pipes
        try:
            for line in process.stdout:
                take(json.loads(line))
            code = process.wait()
        finally:
            process.kill()  # after an interruption; it has ended otherwise
            process.wait()
            process.stdout.close()
            process.stdin.close()
        if code:
            errors.seek(0)
            tail = errors.read().decode("utf-8", "replace")[-TAIL:]
            reason = f"the worker ended with exit code {code}:\n{tail}"
            work = request.get("memory")
            take(
                {
                    "event": "failed",
                    "backend": backend,
                    "work": work,
                    "mode": None,
                    "contestant": request.get("contestant"),
                    "reason": reason,
                }
            )


def _cpu() -> str:
    """Return the model of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
