"""Workers on a Dask cluster: each is an actor, which holds the process on its machine.

What the backends of a cell leave for each other (see `checks.exchange`) travels with requests and
answers, so that the machines need no folder in common.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster

from cellkit.errors import problem
from cellkit_conformance.run.process import START_TIMEOUT, Process, WorkerGone

log = logging.getLogger(__name__)

WAIT = 30.0
"""Seconds that an answer may take on its way, beyond what the worker has for it."""

Files = dict[str, bytes]
"""What was left for other backends, by path below the folder of the exchange."""


class Remote:
    """The actor: one worker process, on the machine that Dask has chosen.

    Args:
        place: Its backend and device.
        options: See `worker.Server`.

    Raises:
        WorkerGone: It did not get ready.
    """

    def __init__(self, place: str, options: Mapping[str, Any]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="cellkit-"))
        self._known: set[str] = set()
        try:
            self._process = Process(place, {**options, "exchange": str(self._folder)})
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    async def about(self) -> tuple[dict[str, Any], float]:
        """Give what the worker said when it was ready, and how many seconds it took."""
        return self._process.hello, self._process.start_seconds

    async def ask(
        self, request: Mapping[str, Any], timeout: float, files: Files
    ) -> tuple[dict[str, Any], Files]:
        """Send a request, and wait beside Dask's own work.

        Args:
            request: See `worker.Server.answer`.
            timeout: Seconds.
            files: Files that other backends have left since the last request.

        Returns:
            The answer, and what this backend has left. The event "gone" says that there was none.
        """
        for name, content in files.items():
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            self._known.add(name)
        try:
            answer = await asyncio.to_thread(self._process.ask, request, timeout)
        except WorkerGone as gone:
            reason = {"kind": gone.kind, "reason": gone.reason, "tail": gone.tail}
            answer = {"event": "gone", **reason}
        return answer, self._left()

    def _left(self) -> Files:
        found = {}
        for path in self._folder.rglob("*"):
            name = path.relative_to(self._folder).as_posix()
            if path.is_file() and name not in self._known and "unfinished-" not in name:
                found[name] = path.read_bytes()
        self._known.update(found)
        return found

    async def state(self, workers: int) -> tuple[bool, bool]:
        """Say whether the process runs, and whether it is large.

        Args:
            workers: Number of workers at a time.
        """
        return self._process.is_alive, self._process.is_large(workers)

    async def close(self) -> None:
        """End the process."""
        await asyncio.to_thread(self._process.close)
        shutil.rmtree(self._folder, ignore_errors=True)


class DaskWorker:
    """A worker as the runner sees it, see `executor.Worker`.

    Args:
        cluster: Cluster that started it.
        address: Of the Dask worker that it runs beside.
        place: Its backend and device.
        options: See `worker.Server`.

    Raises:
        WorkerGone: It did not get ready.
    """

    def __init__(
        self, cluster: DaskCluster, address: str, place: str, options: Mapping[str, Any]
    ) -> None:
        self.place = place
        self._cluster = cluster
        self._address = address
        self._sent: set[str] = set()
        self._is_open = True
        try:
            self._future = cluster.client.submit(
                Remote, place, dict(options), actor=True, workers=[address], pure=False
            )
            self._actor = self._future.result(timeout=START_TIMEOUT + WAIT)
            self.hello, self.start_seconds = self._result(self._actor.about(), WAIT)
        except WorkerGone:
            raise
        except Exception as error:  # noqa: BLE001 (Dask's errors have no common class)
            raise self._lost(error) from error

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Args:
            request: See `worker.Server.answer`.
            timeout: Seconds.

        Raises:
            WorkerGone: There was none.
        """
        files = self._cluster.left_by_others(self._sent)
        self._sent.update(files)
        answer, left = self._result(self._actor.ask(dict(request), timeout, files), timeout + WAIT)
        self._sent.update(left)
        self._cluster.keep(left)
        if answer["event"] == "gone":
            self.close()
            raise WorkerGone(answer["kind"], answer["reason"], answer["tail"])
        return dict(answer)

    @property
    def is_alive(self) -> bool:
        """Say whether the process runs."""
        return self._is_open and bool(self._state(1)[0])

    def is_large(self, workers: int) -> bool:
        """Say whether it holds much memory.

        Args:
            workers: Number of workers at a time.
        """
        return bool(self._state(workers)[1])

    def close(self) -> None:
        """End the process; where its machine is gone, it has ended."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            self._actor.close().result(timeout=WAIT)
        except Exception:  # noqa: BLE001 (Dask's errors have no common class)
            log.warning("%s does not answer; its worker ends with it", self._address, exc_info=True)
        self._cluster.release(self._address)

    def _state(self, workers: int) -> tuple[bool, bool]:
        try:
            return self._result(self._actor.state(workers), WAIT)
        except WorkerGone:
            return False, True

    def _result(self, future: Any, timeout: float) -> Any:
        try:
            return future.result(timeout=timeout)
        except Exception as error:  # noqa: BLE001 (Dask's errors have no common class)
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> WorkerGone:
        """Make the error of a machine that does not answer any more."""
        self._is_open = False
        self._cluster.release(self._address)
        reason = f"Dask's worker {self._address} is gone: {type(error).__name__}"
        return WorkerGone("crash", reason, str(error))


class DaskCluster:
    """Starts workers on a Dask cluster, as many as it has threads.

    Args:
        address: Of the scheduler; None starts a cluster of processes on this machine.
        workers: Number of processes of such a cluster.

    Raises:
        ValueError: No scheduler answers.
    """

    def __init__(self, address: str | None, workers: int) -> None:
        self._own: Any = None
        self._lock = threading.Lock()
        self._files: Files = {}
        self._used: Counter[str] = Counter()
        if address is None:
            self._own = LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=None
            )
            address = self._own.scheduler_address
        try:
            self.client = Client(address, timeout=WAIT)
        except (OSError, ValueError) as error:
            raise problem(
                "No Dask scheduler answers.",
                received=f"--executor {address}: {type(error).__name__}: {error}",
                expected="the address of a scheduler, such as tcp://host:8786",
                fix="start one with `dask scheduler`, and workers with `dask worker ADDRESS`",
            ) from error

    def slots(self, wanted: int) -> int:
        """Say how many workers may run at a time: as many as the cluster has threads.

        Args:
            wanted: Number that the plan asks for; a cluster has its own size.
        """
        self.client.wait_for_workers(1, timeout=WAIT)
        return sum(self.client.nthreads().values())

    def start(self, place: str, options: Mapping[str, Any]) -> DaskWorker:
        """Start a worker on the machine that is used least.

        Args:
            place: Its backend and device.
            options: See `worker.Server`; every machine has a folder of its own for the exchange.

        Raises:
            WorkerGone: It did not get ready, or the cluster has no machine left.
        """
        with self._lock:
            sizes = self.client.nthreads()
            if not sizes:
                raise WorkerGone("crash", "the Dask cluster has no worker left", "")
            address = min(sizes, key=lambda name: (self._used[name] / sizes[name], name))
            self._used[address] += 1
        return DaskWorker(self, address, place, options)

    def release(self, address: str) -> None:
        """Note that a worker has ended.

        Args:
            address: Address that was tried.
        """
        with self._lock:
            self._used[address] -= 1

    def keep(self, files: Files) -> None:
        """Keep what a backend has left for others.

        Args:
            files: By path.
        """
        with self._lock:
            self._files.update(files)

    def left_by_others(self, known: set[str]) -> Files:
        """Give what a worker does not have yet.

        Args:
            known: Versions that it has.
        """
        with self._lock:
            return {name: data for name, data in self._files.items() if name not in known}

    def close(self) -> None:
        """Leave the cluster; one on this machine ends."""
        self.client.close()
        if self._own is not None:
            self._own.close()
