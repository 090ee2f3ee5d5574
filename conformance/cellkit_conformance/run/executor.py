"""Executors: where the workers of a run are started.

The runner hands out checks and judges what becomes of them; an executor only starts workers, on
this machine or on others. A worker is one process with one backend, see `run.worker`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, Protocol

from cellkit._distribution import install_command
from cellkit.errors import problem
from cellkit_conformance.run.process import Process

LOCAL, DASK = "local", "dask"


class Worker(Protocol):
    """One worker, wherever it runs; `Process` is the one on this machine."""

    place: str
    hello: dict[str, Any]
    start_seconds: float

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Args:
            request: See `worker.Server.answer`.
            timeout: Seconds.

        Raises:
            WorkerGone: There was no answer; the worker is dead then.
        """

    @property
    def is_alive(self) -> bool:
        """Say whether it runs."""

    def is_large(self, workers: int) -> bool:
        """Say whether it holds so much memory that the next cell should have a new one.

        Args:
            workers: Number of workers at a time.
        """

    def close(self) -> None:
        """End it, and what it has started."""


class Executor(Protocol):
    """Starts workers."""

    def slots(self, wanted: int) -> int:
        """Say how many workers may run at a time.

        Args:
            wanted: Number of workers that the plan asks for.
        """

    def start(self, place: str, options: Mapping[str, Any]) -> Worker:
        """Start a worker and wait until it is ready; called by several threads.

        Args:
            place: Its backend and device, see `places`.
            options: See `worker.Server`; "exchange" is a folder of this machine.

        Raises:
            WorkerGone: It did not get ready.
        """

    def close(self) -> None:
        """Give back what was taken; workers are closed by then."""


class LocalPool:
    """Starts workers on this machine."""

    def slots(self, wanted: int) -> int:
        """Say how many workers may run at a time.

        Args:
            wanted: Number of workers that the plan asks for.
        """
        return max(1, wanted)

    def start(self, place: str, options: Mapping[str, Any]) -> Worker:
        """Start a worker and wait until it is ready.

        Args:
            place: Its backend and device.
            options: See `worker.Server`.
        """
        return Process(place, options)

    def close(self) -> None:
        """Do nothing: all there was were the workers."""


def make_executor(name: str, workers: int) -> Executor:
    """Make an executor from what was asked for.

    Args:
        name: "local", "dask" for a Dask cluster of processes on this machine, or the address of a
            Dask scheduler, such as "tcp://host:8786".
        workers: Number of workers of a cluster on this machine.

    Raises:
        ValueError: There is no such executor, Dask is not installed, or no scheduler answers.
    """
    if name == LOCAL:
        return LocalPool()
    if name != DASK and "://" not in name:
        raise problem(
            f"There is no executor {name!r}.",
            received=f"--executor {name}",
            expected=f"{LOCAL}, {DASK}, or the address of a Dask scheduler",
            fix="leave it out to run on this machine, or write it as tcp://host:8786",
        )
    if importlib.util.find_spec("distributed") is None:
        raise problem(
            "Dask is not installed.",
            received=f"--executor {name}",
            expected="the package `distributed`",
            fix=install_command("distributed"),
        )
    from cellkit_conformance.run.dask import DaskCluster  # it imports Dask, which takes a second

    return DaskCluster(None if name == DASK else name, workers)
