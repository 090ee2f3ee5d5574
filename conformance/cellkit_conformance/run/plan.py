"""Plan of a run: cells, backends and requirements, and how they are divided into parts."""

from __future__ import annotations

import shlex
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cellkit_conformance.edition import edition_name, editions, requirements
from cellkit_conformance.edition.profiles import PROFILES
from cellkit_conformance.places import CPU, backend_of, device_of

FIND_TIMEOUT = 60.0
"""Seconds that importing a cell's module, or making the cell, may take; less than a check may."""

LEAST_TIMEOUT = 20.0
"""What a module may take to import even where checks are given less."""


@dataclass(frozen=True)
class RunPlan:
    """Cells, backends and requirements to run.

    Attributes:
        cells: As named on the command line.
        backends: Keras backends, those that don't run on the processor with their device
            (`torch@gpu:0`, see `places`).
        ids: Requirements.
        profile: The name of a profile.
        seed: Of all that is drawn.
        layer: The layer under test: "cellkit", "keras" or `module:Class`.
        workers: Number of processes at a time.
        timeout: Seconds per check, or None for the profile's.
        shard: (i, n) runs the i-th of n parts, counted from one; None runs everything.
        budget: Seconds after which no further check is started, or None.
        only: The requirements of each cell and backend where they differ, or None for `ids`.
        spec: A Python file with the spec of the one cell, or None for the class's own.
        edition: The edition, that of this process unless given.
        spread: True to ask of every cell on one backend what no backend decides, see `spread`.
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
    spec: str | None = None
    edition: str = field(default_factory=edition_name)
    spread: bool = False

    def work(self) -> dict[tuple[str, str], list[str]]:
        """List the requirements to run by cell and backend; what has none is left out."""
        keys = [(cell, backend) for backend in self.backends for cell in self.cells]
        chosen = {
            key: list(self.ids if self.only is None else self.only.get(key, ())) for key in keys
        }
        if self.spread:
            chosen = spread(chosen)
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

    @property
    def seconds_to_step(self) -> float:
        """Seconds that a single step may take, where it is tried because something else hung."""
        return min(self.seconds, FIND_TIMEOUT)

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
        if self.spec is not None:
            words += ["--spec", self.spec]
        if self.edition != editions()[-1]:
            words += ["--edition", self.edition]
        return shlex.join(words)


WEIGHTS = {"torch": 1.0, "tensorflow": 2.0, "jax": 3.0}
"""How long the same check takes on a backend, about; JAX and TensorFlow compile."""


PARTS = {"code": 6, "layer": 3}
"""One cell in so many is asked on further backends what code decides, or the layer."""


def spread(work: Mapping[tuple[str, str], Sequence[str]]) -> dict[tuple[str, str], list[str]]:
    """Ask what code or layer decide of every cell on one backend, and elsewhere of a part of them.

    The one is the backend that takes the least time. Each of the others has cells of its own for
    each requirement, so that every requirement is met on every backend.

    Args:
        work: Requirements by cell and backend.

    Returns:
        What is left of them, the same on every machine.
    """
    places = sorted({place for _, place in work}, key=lambda p: (_weight(p), p))
    first = {cell: next(p for p in places if (cell, p) in work) for cell, _ in work}

    def stays(cell: str, place: str, id: str) -> bool:
        part = PARTS.get(requirements()[id].decided_by, 1)
        if place == first[cell]:
            return True
        return zlib.crc32(f"{cell} {id}".encode()) % part == places.index(place) % part

    return {key: [id for id in ids if stays(*key, id)] for key, ids in work.items()}


def _weight(place: str) -> float:
    return WEIGHTS.get(backend_of(place), 2.0)


def divide(
    work: Mapping[tuple[str, str], Sequence[str]], count: int
) -> list[dict[tuple[str, str], list[str]]]:
    """Divide checks into parts of about equal cost, the same on every machine.

    All backends of a cell stay together, because some checks compare them. Whole cells stay
    together as long as there are enough of them, because the checks of a cell share what was
    compiled; otherwise the groups of requirements are dealt out.

    Args:
        work: Requirements by cell and backend.
        count: Number of parts.

    Returns:
        The parts: together they are the whole, and no two share a check.
    """
    cells: dict[str, dict[tuple[str, str], list[str]]] = {}
    for key, ids in work.items():
        cells.setdefault(key[0], {})[key] = list(ids)
    pieces = list(cells.values())
    if len(cells) < 2 * count:
        pieces = [part for piece in pieces for part in _by_group(piece)]
    parts: list[dict[tuple[str, str], list[str]]] = [{} for _ in range(count)]
    loads = [0.0] * count
    costs = [sum(_cost(*entry) for entry in piece.items()) for piece in pieces]
    for number in sorted(range(len(pieces)), key=lambda i: (-costs[i], i)):
        lightest = loads.index(min(loads))
        loads[lightest] += costs[number]
        for key, ids in pieces[number].items():
            parts[lightest].setdefault(key, []).extend(ids)
    order = {id: number for number, id in enumerate(requirements())}
    keys = list(work)
    return [
        {key: sorted(part[key], key=order.__getitem__) for key in sorted(part, key=keys.index)}
        for part in parts
    ]


def _by_group(
    piece: Mapping[tuple[str, str], Sequence[str]],
) -> list[dict[tuple[str, str], list[str]]]:
    """Divide the checks of a cell by the groups of requirements."""
    groups = dict.fromkeys(requirements()[id].group for ids in piece.values() for id in ids)
    found = []
    for group in groups:
        chosen = {
            k: [i for i in ids if requirements()[i].group == group] for k, ids in piece.items()
        }
        found.append({key: ids for key, ids in chosen.items() if ids})
    return found


def _cost(key: tuple[str, str], ids: Sequence[str]) -> float:
    # A requirement's cost of 1, 2, 3 means milliseconds, tenths of a second, seconds.
    return _weight(key[1]) * sum(4.0 ** requirements()[id].cost for id in ids)


def total(plan: RunPlan) -> int:
    """Count the checks of a plan.

    Args:
        plan: The plan.
    """
    return sum(len(ids) for ids in plan.work().values())
