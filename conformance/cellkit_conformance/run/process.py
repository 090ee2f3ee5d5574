"""A worker process as the parent sees it: ask, wait so long, and learn what became of it."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from cellkit_conformance.places import backend_of
from cellkit_conformance.run import lifeline

START_TIMEOUT = 300.0
"""Seconds that importing a backend may take, on a slow and busy machine."""

TAIL_LINES = 40
"""Lines of standard error that are kept for the report of a crash."""

MEMORY_SHARE = 0.8
"""The share of the machine's memory with which a worker is ended; cells under test are tiny."""

MEMORY_TO_GO_ON = 0.5
"""The share of all workers with which the next cell gets new ones: compiled functions add up."""

# Cells under test are tiny, and several workers share the machine: threads only get in the way.
QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "PYTHONFAULTHANDLER": "1",
    "PYTHONUNBUFFERED": "1",
    # Several workers share a GPU, and none may take all of its memory.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    # Two processors for JAX, so that placement can be checked; TensorFlow is told in the worker.
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
}


class WorkerGone(Exception):
    """The worker did not answer; `kind` is "timeout" or "crash"."""

    def __init__(self, kind: str, reason: str, tail: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.tail = tail

    def __reduce__(self) -> tuple[type[WorkerGone], tuple[str, str, str]]:
        return type(self), (self.kind, self.reason, self.tail)


class Process:
    """One worker process.

    Args:
        place: The backend, which is set as `KERAS_BACKEND`, and its device; see `places`.
        options: Options of the worker beside its backend.
        environment: Further environment variables.

    Raises:
        WorkerGone: It did not get ready.
    """

    def __init__(
        self,
        place: str,
        options: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.place = place
        chosen = {"KERAS_BACKEND": backend_of(place)}
        variables = {**QUIET, **os.environ, **chosen, **(environment or {})}
        start = time.perf_counter()
        self._process = launch(json.dumps({"place": place, **options}), variables)
        self._stdin, self._stdout, self._stderr = _pipes(self._process)
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._readers = [
            threading.Thread(target=self._read_answers, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        try:
            self.hello = self._receive(START_TIMEOUT)
        except BaseException:
            self.close()
            raise
        self.start_seconds = time.perf_counter() - start
        if self.hello["event"] != "ready":
            self.close()
            raise WorkerGone("crash", self.hello.get("reason", "did not start"), self.tail())

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Args:
            request: See `worker.Server.answer`.
            timeout: Seconds.

        Returns:
            The answer.

        Raises:
            WorkerGone: There was none; the process is dead then.
        """
        line = json.dumps({**request, "timeout": timeout}) + "\n"
        try:
            self._stdin.write(line.encode())
            self._stdin.flush()
        except OSError:  # it is gone, or going
            return self._receive(5.0)
        return self._receive(timeout)

    @property
    def is_alive(self) -> bool:
        """Say whether the process runs."""
        return self._process.poll() is None

    def tail(self) -> str:
        """Give the last lines that the process wrote to standard error."""
        return "\n".join(self._tail)

    def is_large(self, workers: int) -> bool:
        """Say whether it holds so much memory that the next cell should have a new one.

        Args:
            workers: Number of workers at a time.
        """
        return resident(self._process.pid) * workers > MEMORY_TO_GO_ON * machine_memory()

    def close(self) -> None:
        """End the process and what it started."""
        if self._process.poll() is None:
            self._kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(timeout=1.0)
        if any(reader.is_alive() for reader in self._readers):  # a child of it keeps a pipe open
            self._kill()
            for reader in self._readers:
                reader.join(timeout=5.0)
        with contextlib.suppress(BrokenPipeError):  # a request that nobody read any more
            self._stdin.close()
        self._stdout.close()
        self._stderr.close()

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (OSError, AttributeError):  # no such group, or no groups on this system
            self._process.kill()

    def _receive(self, timeout: float) -> dict[str, Any]:
        line = self._wait(timeout)
        if line is None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it may still be on its way out
                self._process.wait(timeout=20.0)
            self.close()
            code = self._process.returncode
            raise WorkerGone("crash", f"the worker ended with {_exit(code)}", self.tail())
        return json.loads(line)

    def _wait(self, timeout: float) -> str | None:
        """Wait for a line, with an eye on the process; None means that no more will come."""
        end = time.monotonic() + max(timeout, 0.1)
        while True:
            with contextlib.suppress(queue.Empty):
                return self._answers.get(timeout=min(1.0, max(0.01, end - time.monotonic())))
            if time.monotonic() >= end:
                self.close()
                raise WorkerGone("timeout", f"no answer within {timeout:.0f} s", self.tail())
            if self._process.poll() is not None and not self._readers[0].is_alive():
                continue  # its last words are in the queue
            if self._process.poll() is not None:
                return self._last_words()
            used = resident(self._process.pid)
            if used > MEMORY_SHARE * machine_memory():
                self.close()
                reason = f"ended because it used {used / 2**30:.1f} GB of memory"
                raise WorkerGone("crash", reason, self.tail())

    def _last_words(self) -> str | None:
        """Take what a dead process left; a child of it may keep the pipe open for ever."""
        with contextlib.suppress(queue.Empty):
            return self._answers.get(timeout=1.0)
        return None

    def _read_answers(self) -> None:
        for line in self._stdout:
            self._answers.put(line.decode("utf-8", "replace"))
        self._answers.put(None)

    def _read_errors(self) -> None:
        # Read in blocks, because a line may be endless; a block may also end within a line.
        rest = b""
        while block := self._stderr.read1(65536):
            *lines, rest = (rest + block).split(b"\n")
            self._tail.extend(line[:500].decode("utf-8", "replace") for line in lines)
            rest = rest[:500]
        if rest:
            self._tail.append(rest.decode("utf-8", "replace"))


def launch(options: str, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the process of a worker.

    Args:
        options: Of the worker, as JSON.
        variables: The environment variables.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "cellkit_conformance.run.worker", options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=variables,
        **lifeline.OF_A_WORKER,
    )


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], io.BufferedReader]:
    """Give the pipes to a process that was started with all three."""
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    if stdin is None or stdout is None or not isinstance(stderr, io.BufferedReader):
        raise RuntimeError("a worker has to be started with three pipes")
    return stdin, stdout, stderr


def resident(pid: int) -> int:
    """Say how many bytes of memory a process holds; 0 where the system does not tell.

    Args:
        pid: Of the process.
    """
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def machine_memory() -> float:
    """Say how many bytes of memory the machine has; infinitely many where it does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # no such question on this system
        return float("inf")


def _exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
    more = " (the system sends it where memory runs out)" if name == "SIGKILL" else ""
    return f"signal {name}{more}"
