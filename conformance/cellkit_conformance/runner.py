"""The parent process: hands checks to workers, survives what they do, and collects results.

It imports no backend and no plugin. One slot is one thread with at most one worker process; a slot
takes a cell and a backend, prefers the backend whose worker it has, and asks for check after check.
A worker that crashes or hangs is a result, and another worker takes over the remaining checks.
"""

from __future__ import annotations

import importlib.util
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cellkit_conformance.edition import requirements
from cellkit_conformance.outcome import Outcome, Result, one_line, shorten
from cellkit_conformance.places import CPU, backend_of, device_of
from cellkit_conformance.process import MODULES, Process, WorkerGone
from cellkit_conformance.profiles import PROFILES

GIVE_UP_AFTER = 3
"""Timeouts or crashes in a row after which the rest of a cell is not run any more."""

STEP = "STR-03"
"""The check that runs a single step: where not even that comes back, nothing else does."""

WITHOUT_STEP = frozenset({"STR-01", "STR-02", "STR-04", "STR-07", "STR-08", "SER-02", "SER-11"})
"""Requirements whose checks never call the cell."""

FIND_TIMEOUT = 60.0
"""Seconds that importing a cell's module, or making the cell, may take; less than a check may."""

LEAST_TIMEOUT = 20.0
"""What a module may take to import even where checks are given less."""


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        cells: As named on the command line.
        backends: Keras backends, those that don't run on the processor with their device
            (`torch@gpu:0`, see `places`).
        ids: Requirements.
        profile: The name of a profile.
        seed: Of all that is drawn.
        layer: The layer under test: "cellkit", "keras" or `module:Class`.
        workers: How many processes at a time.
        timeout: Seconds per check, or None for the profile's.
        shard: (i, n) runs the i-th of n parts, counted from one; None runs everything.
        budget: Seconds after which no further check is started, or None.
        only: The requirements of each cell and backend where they differ, or None for `ids`.
    """

    cells: Sequence[str]
    backends: Sequence[str]
    ids: Sequence[str]
    profile: str = "quick"
    seed: int = 0
    layer: str = "cellkit"
    workers: int = 1
    timeout: float | None = None
    shard: tuple[int, int] | None = None
    budget: float | None = None
    only: Mapping[tuple[str, str], Sequence[str]] | None = None

    def work(self) -> dict[tuple[str, str], list[str]]:
        """List the requirements to run by cell and backend; what has none is left out."""
        keys = [(cell, backend) for backend in self.backends for cell in self.cells]
        chosen = {
            key: list(self.ids if self.only is None else self.only.get(key, ())) for key in keys
        }
        if self.shard is not None:
            number, count = self.shard
            chosen = divide(chosen, count)[number - 1]
        return {key: ids for key, ids in chosen.items() if ids}

    @property
    def seconds(self) -> float:
        """Seconds that one check may take."""
        return PROFILES[self.profile].timeout if self.timeout is None else self.timeout

    @property
    def seconds_to_find(self) -> float:
        """Seconds that importing a module or making a cell may take."""
        given = min(FIND_TIMEOUT, self.seconds) if self.timeout is None else self.timeout
        return max(LEAST_TIMEOUT, given)

    def command(self, cell: str, backend: str, identifier: str) -> str:
        """Write the command that runs one check alone.

        Args:
            cell: The cell.
            backend: The backend.
            identifier: The requirement.
        """
        words = ["cellkit", "conform", cell, "--backend", backend_of(backend)]
        if device_of(backend) != CPU:
            words += ["--device", device_of(backend)]
        words += ["--select", identifier]
        words += ["--profile", self.profile, "--seed", str(self.seed)]
        if self.layer != "cellkit":
            words += ["--layer", self.layer]
        return shlex.join(words)


WEIGHTS = {"torch": 1.0, "tensorflow": 2.0, "jax": 3.0}
"""How long the same check takes on a backend, about; JAX and TensorFlow compile."""


def divide(
    work: Mapping[tuple[str, str], Sequence[str]], count: int
) -> list[dict[tuple[str, str], list[str]]]:
    """Divide checks into parts of about equal cost, the same on every machine.

    Whole cells are kept together as long as there are enough of them, because the checks of a cell
    share what was compiled; otherwise the groups of requirements are dealt out.

    Args:
        work: Requirements by cell and backend.
        count: How many parts.

    Returns:
        The parts: together they are the whole, and no two share a check.
    """
    pieces: list[tuple[tuple[str, str], list[str]]] = []
    for key, ids in work.items():
        if len(work) >= 2 * count:
            pieces.append((key, list(ids)))
            continue
        groups = dict.fromkeys(requirements()[id].group for id in ids)
        pieces += [(key, [i for i in ids if requirements()[i].group == g]) for g in groups]
    parts: list[dict[tuple[str, str], list[str]]] = [{} for _ in range(count)]
    loads = [0.0] * count
    for key, ids in sorted(pieces, key=lambda piece: (-_cost(*piece), piece)):
        lightest = loads.index(min(loads))
        parts[lightest].setdefault(key, []).extend(ids)
        loads[lightest] += _cost(key, ids)
    order = {id: number for number, id in enumerate(requirements())}
    keys = list(work)
    return [
        {key: sorted(part[key], key=order.__getitem__) for key in sorted(part, key=keys.index)}
        for part in parts
    ]


def _cost(key: tuple[str, str], ids: Sequence[str]) -> float:
    # A requirement's cost of 1, 2, 3 means milliseconds, tenths of a second, seconds.
    return WEIGHTS.get(backend_of(key[1]), 2.0) * sum(4.0 ** requirements()[id].cost for id in ids)


@dataclass
class Unit:
    """All checks of one cell on one backend.

    Attributes:
        cell: The cell.
        backend: The backend.
        results: By id, in the order of the edition.
        traits: What the cell claims, once a worker has said so.
        notes: What was assumed about the cell.
        problem: Why the cell could not be checked at all, or "".
        seconds: Wall time, without the start of the worker.
        ids: What is to run.
    """

    cell: str
    backend: str
    results: list[Result] = field(default_factory=list)
    traits: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problem: str = ""
    seconds: float = 0.0
    ids: list[str] = field(default_factory=list)


@dataclass
class Backend:
    """What is known about a backend in this run.

    Attributes:
        name: The Keras backend, or one of its devices.
        installed: Whether its package is there.
        versions: Of the packages, once a worker has said so.
        start_seconds: How long its first worker took to start.
        problem: Why it could not be used, or "".
        devices: All that it reports, once a worker has said so.
    """

    name: str
    installed: bool
    versions: dict[str, str] = field(default_factory=dict)
    devices: list[str] = field(default_factory=list)
    start_seconds: float = 0.0
    problem: str = ""


def installed_backends() -> dict[str, bool]:
    """Say which backends are installed, without importing one."""
    return {name: importlib.util.find_spec(module) is not None for name, module in MODULES.items()}


class Runner:
    """Runs a plan.

    Args:
        plan: What to run.
        on_result: Called with every result as it comes, from one thread at a time.
    """

    def __init__(self, plan: Plan, on_result: Callable[[Result], None] | None = None) -> None:
        self.plan = plan
        self.units = [Unit(*key, ids=ids) for key, ids in plan.work().items()]
        there = installed_backends()
        self.backends = {
            name: Backend(name, there.get(backend_of(name), False)) for name in plan.backends
        }
        self._waiting = list(self.units)
        self._on_result = on_result
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._alive: list[Process] = []
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
        count = max(1, min(self.plan.workers, len(self.units)))
        slots = [threading.Thread(target=self._slot, daemon=True) for _ in range(count)]
        for slot in slots:
            slot.start()
        try:
            for slot in slots:
                while slot.is_alive():  # in steps, so that Ctrl-C is heard
                    slot.join(timeout=0.2)
        except BaseException:
            # A worker has a session of its own, so Ctrl-C does not reach it.
            with self._lock:
                self._waiting.clear()
            for process in list(self._alive):
                process.close()
            raise
        if self._failure is not None:
            raise self._failure
        return self.units

    def _slot(self) -> None:
        process: Process | None = None
        try:
            while unit := self._next(process.place if process else None):
                if process is not None and process.place != unit.backend:
                    process.close()
                    process = None
                process = self._run_unit(unit, process)
        except BaseException as error:  # noqa: BLE001 (raised again by `run`)
            self._failure = error
        finally:
            if process is not None:
                process.close()

    def _next(self, backend: str | None) -> Unit | None:
        """Take a unit of the backend at hand, else of the backend that has most left."""
        with self._lock:
            if not self._waiting or self._failure is not None:
                return None
            names = [unit.backend for unit in self._waiting]
            chosen = backend if backend in names else max(names, key=names.count)
            return self._waiting.pop(names.index(chosen))

    def _run_unit(self, unit: Unit, process: Process | None) -> Process | None:
        """Run all checks of a unit and return the worker, if it lives."""
        start, lost, kind, no_step = time.perf_counter(), 0, Outcome.PASS, ""
        for number, identifier in enumerate(unit.ids):
            if time.monotonic() >= self._deadline:
                reason = f"the budget of {self.plan.budget:g} s was spent"
                self._give_up(unit, number, reason)
                break
            if lost >= GIVE_UP_AFTER:
                self._give_up(unit, number, f"{lost} checks in a row ended in a timeout or crash")
                break
            if no_step and identifier not in WITHOUT_STEP:
                self._skip(unit, identifier, no_step, Outcome.BLOCKED)
                continue
            try:
                if process is None:
                    process = self._start(unit.backend)
                    start = time.perf_counter() if number == 0 else start
                if number == 0:
                    kind = self._describe(unit, process)
                    process = None if kind in (Outcome.TIMEOUT, Outcome.CRASH) else process
                if unit.problem:
                    self._record(unit, self._unusable(unit, identifier, kind))
                    self._give_up(unit, number + 1, unit.problem, Outcome.BLOCKED)
                    break
                self._record(unit, self._check(unit, process, identifier))
                lost = 0
            except WorkerGone as gone:
                started, process = process is not None, None
                if not started:
                    unit.problem = f"the backend {unit.backend} does not start: {gone.reason}"
                    self.backends[unit.backend].problem = shorten(f"{gone.reason}\n{gone.tail}")
                    self._give_up(unit, number, unit.problem)
                    break
                lost += 1
                self._record(unit, self._lost(unit, identifier, gone))
                if lost == 1 and identifier not in WITHOUT_STEP:
                    no_step = self._try_step(unit, identifier, gone)
                    unit.notes += [f"{no_step}: what calls it is not run"] if no_step else []
        unit.seconds = time.perf_counter() - start
        return self._part(unit, process)

    def _try_step(self, unit: Unit, identifier: str, gone: WorkerGone) -> str:
        """Say why no check that calls the cell can run, or "" where the trouble was another.

        Args:
            unit: The cell and the backend.
            identifier: The check that was lost.
            gone: How.
        """
        try:
            if identifier != STEP:
                process = self._start(unit.backend)
                request = {"op": "check", "target": unit.cell, "id": STEP}
                try:
                    process.ask(request, min(self.plan.seconds, FIND_TIMEOUT))
                finally:
                    process.close()
                return ""
        except WorkerGone as again:
            gone = again
        return f"a single step of the cell does not come back: {gone.reason}"

    def _part(self, unit: Unit, process: Process | None) -> Process | None:
        """Take leave of a cell: what it has changed must not reach the next one."""
        if process is None:
            return None
        try:
            answer = process.ask({"op": "part"}, LEAST_TIMEOUT)
        except WorkerGone:
            return None
        # Where even the question cannot be answered any more, much has changed.
        changes = answer.get("changes", ["the modules that are imported"])
        if changes:
            unit.notes.append(f"it has changed what other cells share: {', '.join(changes)}")
        if changes or process.is_large:
            process.close()
            return None
        return process

    def _start(self, name: str) -> Process:
        process = Process(
            name,
            {
                "profile": self.plan.profile,
                "seed": self.plan.seed,
                "layer": self.plan.layer,
                "exchange": self._exchange,
            },
        )
        self._alive = [*self._alive, process]
        backend = self.backends[name]
        backend.versions = process.hello["versions"]
        backend.devices = process.hello["devices"]
        backend.start_seconds = backend.start_seconds or process.start_seconds
        return process

    def _describe(self, unit: Unit, process: Process) -> Outcome:
        """Have the cell imported and made; what goes wrong there becomes the unit's problem."""
        steps = {
            "find": f"importing the module of {unit.cell}",
            "describe": f"making {unit.cell} (its `__init__`, or `build`)",
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
        unit.traits, unit.notes = answer["traits"], answer["notes"]
        return Outcome.PASS

    def _check(self, unit: Unit, process: Process, identifier: str) -> Result:
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

    def _give_up(self, unit: Unit, first: int, reason: str, why: Outcome = Outcome.NOT_RUN) -> None:
        """Say of the remaining checks that they were not run, and why."""
        for identifier in unit.ids[first:]:
            self._skip(unit, identifier, reason, why)

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
            if self._on_result is not None:
                self._on_result(result)


def total(plan: Plan) -> int:
    """Count the checks of a plan.

    Args:
        plan: What to run.
    """
    return sum(len(ids) for ids in plan.work().values())


def all_results(units: Iterable[Unit]) -> list[Result]:
    """List the results of all units.

    Args:
        units: What `Runner.run` returned.
    """
    return [result for unit in units for result in unit.results]


__all__ = [
    "Backend",
    "Plan",
    "Runner",
    "Unit",
    "all_results",
    "divide",
    "installed_backends",
    "total",
]
