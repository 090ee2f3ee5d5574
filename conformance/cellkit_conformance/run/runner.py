"""The parent process: hands checks to workers, survives what they do, and collects results.

It imports no backend and no plugin. A thread has at most one worker, which an executor starts, here
or on another machine. It takes a cell and a backend, prefers the backend whose worker it has, and
asks for check after check. A thread that finds no cell helps with one that others are at. A worker
that crashes or hangs is a result, and another worker takes over the remaining checks.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cellkit_conformance.edition import requirements
from cellkit_conformance.outcome import Outcome, Result, one_line, shorten
from cellkit_conformance.places import BACKENDS, backend_of
from cellkit_conformance.run.executor import Executor, LocalPool, Worker
from cellkit_conformance.run.plan import LEAST_TIMEOUT, RunPlan
from cellkit_conformance.run.process import WorkerGone

GIVE_UP_AFTER = 3
"""Timeouts or crashes in a row after which the rest of a cell is not run any more."""

STEP = "STR-03"
"""The check that runs a single step: where not even that comes back, nothing else does."""

WITHOUT_STEP = frozenset({"STR-01", "STR-02", "STR-04", "STR-07", "STR-08", "SER-02", "SER-11"})
"""Requirements whose checks never call the cell."""

WORTH_A_WORKER = 20
"""Checks that a cell must have for another worker to be started for it."""

WORTH_A_HAND = 8
"""Checks that must be left for a worker of the right backend that has nothing else to do."""

MOST_WORKERS = 4
"""Where nobody says how many; each takes up to a gigabyte of memory."""


@dataclass
class Unit:
    """All checks of one cell on one backend.

    Attributes:
        cell: The cell.
        backend: The backend.
        results: By id, in the order of the edition.
        traits: Traits that the cell is checked for, once a worker has said so.
        claims: Those that its spec claims; a cell without a spec claims none.
        notes: Assumptions about the cell.
        problem: Reason why the cell could not be checked at all, or "".
        seconds: Wall time, without the start of the worker.
        ids: The requirements to run.
        source: File and line of the class, as "file:line", once a worker has said so; "" where it
            has none.
    """

    cell: str
    backend: str
    results: list[Result] = field(default_factory=list)
    traits: list[str] = field(default_factory=list)
    claims: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problem: str = ""
    seconds: float = 0.0
    ids: list[str] = field(default_factory=list)
    source: str = ""

    def counts(self, result: Result) -> bool:
        """Say whether a result ends the run with exit code 1.

        That is a broken must, and whatever is broken about a trait that the spec claims: who
        claims something has to keep it.

        Args:
            result: One of the unit.
        """
        requirement = requirements()[result.requirement]
        must = requirement.level == "must" or not set(self.claims).isdisjoint(requirement.traits)
        return result.outcome.is_bad and must


@dataclass
class Backend:
    """Facts about a backend in this run.

    Attributes:
        name: The Keras backend, or one of its devices.
        installed: True if its package is there.
        versions: Of the packages, once a worker has said so.
        start_seconds: Seconds that its first worker took to start.
        problem: Reason why it could not be used, or "".
        devices: All that it reports, once a worker has said so.
    """

    name: str
    installed: bool
    versions: dict[str, str] = field(default_factory=dict)
    devices: list[str] = field(default_factory=list)
    start_seconds: float = 0.0
    problem: str = ""


@dataclass
class Remaining:
    """The checks of a unit that are still to come, of which one thread or several take.

    The thread that began takes them from the front, and those that join it from the back, because
    neighbours share what they compile.

    Attributes:
        unit: The cell, the backend and the results.
        left: The requirements still to run.
        known: Set when it is known whether the cell can be made.
        no_step: Reason why no check that calls the cell can run, or "".
        asked: True once a failure has made sure that the cell can be made, built and stepped.
        start: Time at which the cell was begun, after the start of the first worker.
    """

    unit: Unit
    left: deque[str]
    known: threading.Event = field(default_factory=threading.Event)
    no_step: str = ""
    asked: bool = False
    start: float = field(default_factory=time.perf_counter)

    def take(self, joined: bool = False) -> str | None:
        """Take the next check, if there is one.

        Args:
            joined: True if another thread began.
        """
        try:
            return self.left.pop() if joined else self.left.popleft()
        except IndexError:
            return None

    def wants(self, place: str | None) -> bool:
        """Say whether another thread would be of use.

        Args:
            place: Of the worker that the thread has.
        """
        if place == self.unit.backend:
            return len(self.left) >= WORTH_A_HAND
        # A worker that starts now, beside the first one, is there when the first one is.
        return len(self.left) >= WORTH_A_WORKER and not self.known.is_set()


def installed_backends() -> dict[str, bool]:
    """Say which backends are installed, without importing one."""
    return {name: importlib.util.find_spec(module) is not None for name, module in BACKENDS.items()}


class Runner:
    """Runs a plan.

    Args:
        plan: The plan.
        on_result: Called with every result as it comes, from one thread at a time.
        executor: Starts the workers; on this machine unless given. Whoever made it closes it.
        stops: Says of a result whether no further check is started after it.
    """

    def __init__(
        self,
        plan: RunPlan,
        on_result: Callable[[Result], None] | None = None,
        executor: Executor | None = None,
        stops: Callable[[Unit, Result], bool] | None = None,
    ) -> None:
        self.plan = plan
        self._executor: Executor = executor or LocalPool()
        self._stops = stops
        self._stopped = ""
        self.units = [Unit(*key, ids=ids) for key, ids in plan.work().items()]
        there = installed_backends()
        self.backends = {
            name: Backend(name, there.get(backend_of(name), False)) for name in plan.backends
        }
        self._waiting = list(self.units)
        self._begun: list[Remaining] = []
        self._on_result = on_result
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._alive: list[Worker] = []
        self._exchange = ""
        self._deadline = float("inf")

    def run(self) -> list[Unit]:
        """Run everything.

        Returns:
            The units with their results.
        """
        if self.plan.budget is not None:
            self._deadline = time.monotonic() + self.plan.budget
        with tempfile.TemporaryDirectory(prefix="cellkit-") as self._exchange:
            return self._run()

    def _run(self) -> list[Unit]:
        threads = [
            threading.Thread(target=self._work, daemon=True)
            for _ in range(self._executor.slots(self.plan.workers))
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():  # in steps, so that Ctrl-C is heard
                    thread.join(timeout=0.2)
        except BaseException:
            # A worker has a session of its own, so Ctrl-C does not reach it.
            with self._lock:
                self._waiting.clear()
                for remaining in self._begun:
                    remaining.left.clear()
            for process in list(self._alive):
                process.close()
            raise
        if self._failure is not None:
            raise self._failure
        for unit in self.units:  # two threads deliver in any order
            unit.results.sort(key=lambda result: unit.ids.index(result.requirement))
            unit.notes = list(dict.fromkeys(unit.notes))
            tell_once(unit)
        return self.units

    def _work(self) -> None:
        process: Worker | None = None
        try:
            while found := self._next(process.place if process else None):
                remaining, joined = found
                if process is not None and process.place != remaining.unit.backend:
                    process.close()
                    process = None
                try:
                    process = self._run_unit(remaining, process, joined)
                finally:
                    if not joined:
                        remaining.known.set()  # nobody may wait for a thread that is gone
        except BaseException as error:  # noqa: BLE001 (raised again by `run`)
            self._failure = error
        finally:
            if process is not None:
                process.close()

    def _next(self, place: str | None) -> tuple[Remaining, bool] | None:
        """Find something to do for a thread.

        Args:
            place: Of the worker that the thread has, or None.

        Returns:
            A unit of the backend at hand, else of the backend that has most left, else one that
            another thread is at; and whether it is that. None where nobody needs help.
        """
        with self._lock:
            if self._failure is not None:
                return None
            if self._waiting:
                names = [unit.backend for unit in self._waiting]
                chosen = place if place in names else max(names, key=names.count)
                unit = self._waiting.pop(names.index(chosen))
                self._begun.append(Remaining(unit, deque(unit.ids)))
                return self._begun[-1], False
            wanting = [remaining for remaining in self._begun if remaining.wants(place)]
            return (max(wanting, key=lambda c: len(c.left)), True) if wanting else None

    def _run_unit(
        self, remaining: Remaining, process: Worker | None, joined: bool
    ) -> Worker | None:
        """Run checks of a unit until there are none, and return the worker, if it lives.

        Args:
            remaining: The unit and what is left of it.
            process: A worker of its backend, or None.
            joined: True if another thread has begun with it.
        """
        unit, lost = remaining.unit, 0
        if joined:
            try:
                process = process or self._start(unit.backend)
            except WorkerGone as gone:
                unit.notes.append(f"a worker that was to help did not start: {gone.reason}")
                return None
            remaining.known.wait()
        while (identifier := remaining.take(joined)) is not None:
            if time.monotonic() >= self._deadline:
                reason = f"the budget of {self.plan.budget:g} s was spent"
                self._give_up(remaining, reason, identifier)
                break
            if self._stopped:
                self._give_up(remaining, self._stopped, identifier)
                break
            if lost >= GIVE_UP_AFTER:
                reason = f"{lost} checks in a row ended in a timeout or crash"
                self._give_up(remaining, reason, identifier)
                break
            if remaining.no_step and identifier not in WITHOUT_STEP:
                self._skip(unit, identifier, remaining.no_step, Outcome.BLOCKED)
                continue
            try:
                worker = process = process or self._start(unit.backend)
                if not remaining.known.is_set():
                    remaining.start = time.perf_counter()
                    kind = self._describe(unit, process)
                    process = None if kind in (Outcome.TIMEOUT, Outcome.CRASH) else process
                    if unit.problem:
                        self._record(unit, self._unusable(unit, identifier, kind))
                        self._give_up(remaining, unit.problem, why=Outcome.BLOCKED)
                        break
                    remaining.known.set()
                result = self._check(unit, worker, identifier)
                lost = 0
                found = None
                if result.outcome.is_bad and not remaining.asked:
                    remaining.asked = True
                    found = self._find_trouble(unit, worker)
                    process = worker if worker.is_alive else None
                if found is None:
                    self._record(unit, result)
                    continue
                told = {key: found[key] for key in ("place", "hint") if found[key]}
                result.extra = {**result.extra, **told, "blocks": True}
                self._record(unit, result)
                if found["stage"] == "step":
                    remaining.no_step = found["reason"]
                else:
                    self._give_up(remaining, found["reason"], why=Outcome.BLOCKED)
            except WorkerGone as gone:
                started, process = process is not None, None
                if not started:
                    unit.problem = f"the backend {unit.backend} does not start: {gone.reason}"
                    self.backends[unit.backend].problem = shorten(f"{gone.reason}\n{gone.tail}")
                    self._give_up(remaining, unit.problem, identifier)
                    break
                lost += 1
                self._record(unit, self._lost(unit, identifier, gone))
                if lost == 1 and identifier not in WITHOUT_STEP and not remaining.no_step:
                    remaining.no_step = self._try_step(unit, identifier, gone)
                    if remaining.no_step:
                        unit.notes.append(f"{remaining.no_step}: what calls it is not run")
        unit.seconds = time.perf_counter() - remaining.start
        return self._leave(unit, process)

    def _find_trouble(self, unit: Unit, worker: Worker) -> dict[str, str] | None:
        """Ask why a cell cannot be made, built or stepped, where something has failed.

        Returns:
            A `judge.causes.Trouble` as a dict, or None where the failure was the check's alone.
        """
        try:
            request = {"op": "trouble", "target": unit.cell}
            found = worker.ask(request, self.plan.seconds_to_find).get("found")
        except WorkerGone:  # the checks will say so, each of what it did
            return None
        return found if isinstance(found, dict) else None

    def _try_step(self, unit: Unit, identifier: str, gone: WorkerGone) -> str:
        """Say why no check that calls the cell can run, or "" where the trouble was another.

        Args:
            unit: The cell and the backend.
            identifier: The check that was lost.
            gone: The end of its worker.
        """
        try:
            if identifier != STEP:
                process = self._start(unit.backend)
                request = {"op": "check", "target": unit.cell, "id": STEP}
                try:
                    process.ask(request, self.plan.seconds_to_step)
                finally:
                    process.close()
                return ""
        except WorkerGone as again:
            gone = again
        return f"a single step of the cell does not come back: {gone.reason}"

    def _leave(self, unit: Unit, process: Worker | None) -> Worker | None:
        """Take leave of a cell: what it has changed must not reach the next one."""
        if process is None:
            return None
        try:
            answer = process.ask({"op": "leave"}, LEAST_TIMEOUT)
        except WorkerGone:
            return None
        # Where even the question cannot be answered any more, much has changed.
        changes = answer.get("changes", ["the modules that are imported"])
        if changes:
            unit.notes.append(f"it has changed what other cells share: {', '.join(changes)}")
        if changes or process.is_large(self.plan.workers):
            process.close()
            return None
        return process

    def _start(self, name: str) -> Worker:
        options = {
            "profile": self.plan.profile,
            "seed": self.plan.seed,
            "layer": self.plan.layer,
            "exchange": self._exchange,
            "spec": self.plan.spec,
            "edition": self.plan.edition,
        }
        process = self._executor.start(name, options)
        self._alive = [*self._alive, process]
        backend = self.backends[name]
        backend.versions = process.hello["versions"]
        backend.devices = process.hello["devices"]
        backend.start_seconds = backend.start_seconds or process.start_seconds
        return process

    def _describe(self, unit: Unit, process: Worker) -> Outcome:
        """Have the cell imported and made; what goes wrong there becomes the unit's problem."""
        steps = {
            "find": f"importing the module of {unit.cell}",
            "describe": f"making {unit.cell} (its `__init__`, `build` or first step)",
        }
        for operation, said in steps.items():
            try:
                request = {"op": operation, "target": unit.cell}
                answer = process.ask(request, self.plan.seconds_to_find)
            except WorkerGone as gone:
                unit.problem = shorten(f"{said}: {gone.reason}\n{gone.tail}")
                return Outcome(gone.kind)
            if answer["event"] == "error":
                own = "Received:" in answer["reason"]  # it says what to do
                unit.problem = answer["reason"] + ("" if own else f"\n{said}\n{answer['trace']}")
                return Outcome.ERROR
        unit.traits, unit.claims = answer["traits"], answer["claims"]
        unit.source = answer["source"]
        unit.notes = [*answer["notes"], *unit.notes]
        return Outcome.PASS

    def _check(self, unit: Unit, process: Worker, identifier: str) -> Result:
        request = {"op": "check", "target": unit.cell, "id": identifier}
        answer = process.ask(request, self.plan.seconds)
        if answer["event"] == "result":
            return Result.from_json(answer["result"])
        return Result(
            unit.cell,
            unit.backend,
            identifier,
            Outcome.ERROR,
            message=one_line(answer["reason"]),
            detail=answer.get("trace", ""),
        )

    def _unusable(self, unit: Unit, identifier: str, kind: Outcome) -> Result:
        """Make the one result that stands for a cell which cannot even be made."""
        text = unit.problem
        return Result(unit.cell, unit.backend, identifier, kind, one_line(text), shorten(text))

    def _lost(self, unit: Unit, identifier: str, gone: WorkerGone) -> Result:
        return Result(
            unit.cell,
            unit.backend,
            identifier,
            Outcome(gone.kind),
            message=gone.reason,
            detail=shorten(gone.tail),
            seconds=self.plan.seconds if gone.kind == "timeout" else 0.0,
        )

    def _give_up(
        self, remaining: Remaining, reason: str, first: str = "", why: Outcome = Outcome.NOT_RUN
    ) -> None:
        """Say of the remaining checks that they were not run, and why."""
        if first:
            self._skip(remaining.unit, first, reason, why)
        while (identifier := remaining.take()) is not None:
            self._skip(remaining.unit, identifier, reason, why)

    def _skip(self, unit: Unit, identifier: str, reason: str, why: Outcome) -> None:
        """Say of a check that it was not run, and why."""
        denied = requirements()[identifier].denied_by(unit.traits) if unit.traits else None
        outcome = Outcome.NOT_APPLICABLE if denied else why
        text = one_line(reason)
        self._record(unit, Result(unit.cell, unit.backend, identifier, outcome, text, reason))

    def _record(self, unit: Unit, result: Result) -> None:
        result.seed = self.plan.seed
        if result.outcome.is_bad or result.outcome is Outcome.NOT_RUN:
            result.reproduce = self.plan.command(unit.cell, unit.backend, result.requirement)
        with self._lock:
            unit.results.append(result)
            if self._stops is not None and self._stops(unit, result):
                self._stopped = f"stopped after {result.requirement} of {unit.cell}, which failed"
            if self._on_result is not None:
                self._on_result(result)


def tell_once(unit: Unit) -> None:
    """Tell once what keeps a cell from being checked, though several workers have met it.

    Args:
        unit: A cell and its results, in the order of the edition. The first result of the trouble
            stays, the others are blocked.
    """
    said = one_line(unit.problem)
    bad = [result for result in unit.results if result.outcome.is_bad]
    blockers = [result for result in bad if result.extra.get("blocks")]
    causes = {result.extra["cause"] for result in blockers if "cause" in result.extra}
    same = [
        result
        for result in bad
        if result.extra.get("blocks")
        or result.extra.get("cause") in causes
        or (unit.problem and result.message == said)
    ]
    for blocker in blockers[:1]:
        told = {"blocks": True}
        told |= {key: blocker.extra[key] for key in ("place", "hint") if key in blocker.extra}
        same[0].extra = {**same[0].extra, **told}
    for result in same[1:]:
        result.outcome, result.script, result.reproduce = Outcome.BLOCKED, "", ""


def usual_workers() -> int:
    """Say how many processes run at a time where nobody says how many."""
    allowed = getattr(os, "sched_getaffinity", None)  # there is no such question elsewhere
    processors = len(allowed(0)) if allowed else os.cpu_count() or 1
    return min(processors, MOST_WORKERS)


def all_results(units: Iterable[Unit]) -> list[Result]:
    """List the results of all units.

    Args:
        units: The return value of `Runner.run`.
    """
    return [result for unit in units for result in unit.results]
