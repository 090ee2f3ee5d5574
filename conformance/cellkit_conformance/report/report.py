"""Report of a run as data: counts, the exit code, and JSON."""

from __future__ import annotations

import json
import os
import platform
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cellkit import __version__
from cellkit_conformance.edition import edition_name, requirements
from cellkit_conformance.files import write_text
from cellkit_conformance.outcome import Outcome, Result
from cellkit_conformance.run.plan import PARTS, RunPlan
from cellkit_conformance.run.runner import Backend, Unit, all_results

SCHEMA = 1
"""Version of the JSON report. A field that is there keeps its meaning; new ones may come."""

FEW = 3
"""Cells that a note names."""

_HEAD = "(cellkit conformance, edition "
"""What every reproduction script says in its first lines."""

EXIT_CONFORMANT = 0
EXIT_FAILED = 1
EXIT_STALE = 2
EXIT_INCOMPLETE = 3
EXIT_BACKEND = 5
EXIT_USAGE = 64
EXIT_SUITE_ERROR = 70

EXIT_CODES = {
    EXIT_CONFORMANT: "conformant: every check that applies ran and passed",
    EXIT_FAILED: "a must-requirement, or one of a trait that the spec claims, failed, raised, "
    "timed out or crashed",
    EXIT_STALE: "an expected failure passes or is not well-formed",
    EXIT_INCOMPLETE: "nothing failed, but fewer checks ran than apply",
    EXIT_BACKEND: "nothing failed but what fails on a cell that is known to be right, too",
    EXIT_USAGE: "wrong use: an unknown name, a bad option, or a report that cannot be written",
    EXIT_SUITE_ERROR: "a defect of the suite itself",
}


def now() -> str:
    """Tell the time, in UTC, as reports write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def this_platform() -> str:
    """Name the system and the processors that checks run on."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return f"{system}, {_count(os.cpu_count() or 1, 'processor', 'processors')}"


@dataclass(frozen=True)
class Report:
    """A finished run.

    Attributes:
        plan: The plan of the run.
        units: The units that ran, one per cell and backend.
        backends: Facts about each backend, by name.
        missing: Backends that were asked for by "all" and are not installed.
        seconds: Wall time of the run; of merged reports, of the longest.
        created: Time of its end, in UTC.
        platform: The system that it ran on.
        version: Of cellkit.
        gaps: Parts known to be missing from the run, such as a shard.
    """

    plan: RunPlan
    units: Sequence[Unit]
    backends: dict[str, Backend]
    missing: Sequence[str]
    seconds: float
    created: str = field(default_factory=now)
    platform: str = field(default_factory=this_platform)
    version: str = __version__
    gaps: Sequence[str] = ()

    @property
    def results(self) -> list[Result]:
        """All results."""
        return all_results(self.units)

    @property
    def bad(self) -> list[Result]:
        """The results that are failures, errors, timeouts or crashes, those that count first."""
        units = {(unit.cell, unit.backend): unit for unit in self.units}
        bad = [result for result in self.results if result.outcome.is_bad]
        return sorted(bad, key=lambda r: not units[r.cell, r.backend].counts(r))

    @property
    def that_count(self) -> list[Result]:
        """The bad results that end a run with exit code 1, see `Unit.counts`."""
        return [r for unit in self.units for r in unit.results if unit.counts(r)]

    @property
    def of_backends(self) -> list[Result]:
        """The results that a cell which is known to be right fails too."""
        return [result for result in self.results if result.outcome is Outcome.BACKEND_DEFECT]

    @property
    def notes(self) -> list[str]:
        """The extent of the run, and assumptions about cells, each once with those cells."""
        cells: dict[str, dict[str, None]] = {}
        for unit in self.units:
            for note in unit.notes:
                cells.setdefault(note, {})[unit.cell] = None
        return self._extent + [
            f"{', '.join(names)}: {note}" if len(names) <= FEW else f"{len(names)} cells: {note}"
            for note, names in cells.items()
        ]

    @property
    def _extent(self) -> list[str]:
        """What a spread run asks of a part of the cells, if this is one."""
        if not self.plan.spread or len(self.plan.backends) < 2:
            return []
        told = []
        for who, what in (("code", "a cell's code"), ("layer", "the layer around any cell")):
            count = sum(requirements()[id].decided_by == who for id in self.plan.ids)
            if count:
                asked = _count(count, "requirement", "requirements")
                told.append(f"{asked} about {what} are asked of one cell in {PARTS[who]}")
        if not told:
            return []
        return [
            f"spread: on each backend but one, {' and '.join(told)}; "
            "without --spread, of every cell"
        ]

    @property
    def problems(self) -> list[tuple[str, str, list[str]]]:
        """Reasons why cells could not be checked at all: cell, text, and backends that say so."""
        said: dict[tuple[str, str], list[str]] = {}
        for unit in self.units:
            if unit.problem and not self.backends[unit.backend].problem:
                said.setdefault((unit.cell, unit.problem), []).append(unit.backend)
        return [(cell, text, backends) for (cell, text), backends in said.items()]

    def counts(self, unit: Unit | None = None) -> Counter[Outcome]:
        """Count outcomes, of one unit or of all.

        Args:
            unit: A unit, or None for all.
        """
        results = self.results if unit is None else unit.results
        return Counter(result.outcome for result in results)

    @property
    def exit_code(self) -> int:
        """One of `EXIT_CODES`."""
        if self.that_count:
            return EXIT_FAILED
        counts = self.counts()
        if counts[Outcome.STALE]:
            return EXIT_STALE
        ran = counts[Outcome.PASS] + counts[Outcome.EXPECTED] + counts[Outcome.BACKEND_DEFECT]
        if counts[Outcome.NOT_RUN] or counts[Outcome.BLOCKED] or self.gaps or not ran:
            return EXIT_INCOMPLETE
        return EXIT_BACKEND if counts[Outcome.BACKEND_DEFECT] else EXIT_CONFORMANT

    @property
    def verdict(self) -> str:
        """One sentence that says how the run ended."""
        counts = self.counts()
        tail = _count(self.ran, "check ran", "checks ran")
        for outcome, one, more in (
            (Outcome.NOT_APPLICABLE, "does not apply", "do not apply"),
            (Outcome.NOT_RUN, "was not run", "were not run"),
            (
                Outcome.BLOCKED,
                "was blocked by an earlier failure",
                "were blocked by an earlier failure",
            ),
            (Outcome.EXPECTED, "failed as expected", "failed as expected"),
            (Outcome.BACKEND_DEFECT, "is a defect of a backend", "are defects of a backend"),
        ):
            if counts[outcome]:
                tail += f", {_count(counts[outcome], one, more)}"
        tail += "".join(f", {gap}" for gap in self.gaps)
        if self.exit_code == EXIT_FAILED:
            return f"NOT conformant: {len(self.bad)} broken; {tail}."
        if self.exit_code == EXIT_STALE:
            one, more = "expected failure passes now", "expected failures pass now"
            return f"Stale: {_count(counts[Outcome.STALE], one, more)}; {tail}."
        if self.exit_code == EXIT_INCOMPLETE:
            return f"Incomplete: nothing broken, but {tail}."
        if self.exit_code == EXIT_BACKEND:
            return f"No defect of a cell: {tail}."
        one, more = "should-requirement broken", "should-requirements broken"
        extra = f" {_count(len(self.bad), one, more)};" if self.bad else ""
        return f"Conformant:{extra} {tail}."

    @property
    def ran(self) -> int:
        """Number of checks that ran to an end, whatever it was."""
        out = {Outcome.NOT_RUN, Outcome.NOT_APPLICABLE, Outcome.BLOCKED}
        return sum(number for outcome, number in self.counts().items() if outcome not in out)

    def to_json(self) -> dict[str, Any]:
        """Give the report as plain data."""
        return {
            "schema": SCHEMA,
            "edition": edition_name(),
            "created": self.created,
            "platform": self.platform,
            "cellkit": self.version,
            "profile": self.plan.profile,
            "seed": self.plan.seed,
            "layer": self.plan.layer,
            "spec": self.plan.spec,
            "shard": None if self.plan.shard is None else "{}/{}".format(*self.plan.shard),
            "budget": self.plan.budget,
            "spread": self.plan.spread,
            "gaps": list(self.gaps),
            "seconds": round(self.seconds, 2),
            "exit_code": self.exit_code,
            "verdict": self.verdict,
            "ran": self.ran,
            "counts": {str(outcome): n for outcome, n in self.counts().items()},
            "backends": {
                name: {
                    "installed": backend.installed,
                    "versions": backend.versions,
                    "start_seconds": round(backend.start_seconds, 2),
                    "problem": backend.problem,
                    "devices": backend.devices,
                }
                for name, backend in self.backends.items()
            },
            "missing_backends": list(self.missing),
            "cells": list(self.plan.cells),
            "requirements": {
                id: {"level": r.level, "sentence": r.sentence, "hint": r.hint}
                for id, r in requirements().items()
                if id in self.plan.ids
            },
            "units": [
                {
                    "cell": unit.cell,
                    "backend": unit.backend,
                    "traits": unit.traits,
                    "claims": unit.claims,
                    "source": unit.source,
                    "notes": unit.notes,
                    "problem": unit.problem,
                    "seconds": round(unit.seconds, 2),
                }
                for unit in self.units
            ],
            "results": [result.to_json() for result in self.results],
        }

    def write_json(self, path: Path) -> None:
        """Write the JSON report.

        Args:
            path: The file; its folder is made.
        """
        write_text(path, json.dumps(self.to_json(), indent=1) + "\n")

    def write_scripts(self, folder: Path) -> list[Path]:
        """Write the reproduction scripts, and delete those of an earlier run.

        Args:
            folder: Folder for them; it is made when there is one to write.

        Returns:
            The files. Every result that has one gets its path as `extra["file"]`.
        """
        written = []
        for result in [*self.bad, *self.of_backends]:
            if not result.script or result.script.startswith("# No script"):
                continue
            name = f"{result.cell.rpartition('/')[2]}-{result.backend}-{result.requirement}"
            path = folder / (re.sub(r"[^\w-]+", "_", name) + ".py")
            write_text(path, result.script)
            result.extra["file"] = str(path)
            written.append(path)
        for old in sorted(set(folder.glob("*.py")) - set(written)) if folder.is_dir() else ():
            if _HEAD in old.read_text(encoding="utf-8", errors="replace")[:400]:
                old.unlink()
        return written


def _count(number: int, one: str, more: str) -> str:
    """Put a number before the words that go with it."""
    return f"{number} {one if number == 1 else more}"
