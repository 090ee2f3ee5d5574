"""Expected failures: what is known to be broken, with a reason, and no longer than it is broken.

A file `cellkit-expected.toml` beside the project, or `[[tool.cellkit.expected]]` in its
`pyproject.toml`:

    [[expected]]
    cell = "my_lab.cells:MyCell"
    requirement = "MSK-09"
    backends = ["jax"]               # left out: every backend
    reason = "The padded time gap is divided by; issue 12."

An entry without a reason, of an unknown requirement, or of a check that passes fails the run.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellkit.errors import problem
from cellkit.registry.names import did_you_mean
from cellkit_conformance.edition import requirements
from cellkit_conformance.outcome import Outcome, Result
from cellkit_conformance.places import BACKENDS, MODULES, backend_of

FILE = "cellkit-expected.toml"
KEYS = ("cell", "requirement", "backends", "reason")


class BadExpectations(ValueError):
    """The file of expected failures is itself wrong."""


@dataclass(frozen=True)
class Expectation:
    """One entry.

    Attributes:
        cell: As named on the command line.
        requirement: The id.
        reason: Reason why it fails.
        backends: Backends on which it fails; empty for all.
        source: The file.
    """

    cell: str
    requirement: str
    reason: str
    backends: tuple[str, ...] = ()
    source: str = FILE

    def covers(self, result: Result) -> bool:
        """Say whether a result is the one that is meant."""
        return (
            result.cell == self.cell
            and result.requirement == self.requirement
            and (not self.backends or result.backend in self.backends)
        )


def find(folder: Path) -> Path | None:
    """Find the file of expected failures of a project.

    Args:
        folder: The project's folder, usually the working directory.

    Returns:
        `cellkit-expected.toml`, or `pyproject.toml` where that has the table, or None.
    """
    if (folder / FILE).is_file():
        return folder / FILE
    project = folder / "pyproject.toml"
    if project.is_file() and "tool.cellkit.expected" in project.read_text(encoding="utf-8"):
        return project
    return None


def read(path: Path) -> list[Expectation]:
    """Read a file.

    Args:
        path: A TOML file: `[[expected]]`, or `[[tool.cellkit.expected]]` in a `pyproject.toml`.

    Raises:
        BadExpectations: It cannot be read, or an entry is not complete.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _bad(
            f"The expected failures of {path} cannot be read.",
            f"{type(error).__name__}: {error}",
            "a TOML file with [[expected]] entries",
            "see docs/conformance.md for an example",
        ) from error
    entries = data.get("tool", {}).get("cellkit", {}) if path.name == "pyproject.toml" else data
    entries = entries.get("expected", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _bad(
            f"`expected` in {path} is not a list of tables.",
            f"{entries!r}",
            "entries that begin with [[expected]]",
            "write two square brackets on each side",
        )
    found = [_entry(entry, path, number) for number, entry in enumerate(entries, 1)]
    seen: dict[tuple[str, str, str], int] = {}
    for number, entry in enumerate(found, 1):
        for backend in entry.backends or tuple(MODULES):
            first = seen.setdefault((entry.cell, entry.requirement, backend), number)
            if first != number:
                raise _bad(
                    f"Two entries of {path} expect the same.",
                    f"entries {first} and {number}: {entry.requirement} of {entry.cell}",
                    "one entry per cell, requirement and backend",
                    "delete one",
                )
    return found


def apply(expectations: Sequence[Expectation], results: Iterable[Result]) -> None:
    """Change the outcome of the results that an expectation covers.

    Args:
        expectations: The expected failures.
        results: Of a run. A failure becomes an expected failure, a check that passed or does not
            apply a stale expectation; one that was not run stays as it is.
    """
    for result in results:
        for entry in expectations:
            if not entry.covers(result):
                continue
            if result.outcome.is_bad or result.outcome is Outcome.BACKEND_DEFECT:
                result.extra["found"] = str(result.outcome)
                result.outcome = Outcome.EXPECTED
                result.extra["reason"] = entry.reason
            elif result.outcome in (Outcome.PASS, Outcome.NOT_APPLICABLE):
                said = "passes" if result.outcome is Outcome.PASS else "does not apply"
                result.outcome = Outcome.STALE
                result.extra["reason"] = entry.reason
                result.message = f"expected to fail by {entry.source}, and {said}: delete the entry"


def _entry(entry: Mapping[str, Any], path: Path, number: int) -> Expectation:
    """Check one entry; the errors name the file and the position."""
    where = f"Entry {number} of {path}"
    for key in entry:
        if key not in KEYS:
            raise _bad(
                f"{where} has an unknown key.",
                f"{key!r}",
                f"only {', '.join(KEYS)}",
                did_you_mean(key, KEYS) + "correct or delete it",
            )
    for key in ("cell", "requirement", "reason"):
        value = entry.get(key)
        if not isinstance(value, str) or not value.strip():
            raise _bad(
                f"{where} has no {key}.",
                f"{key} = {value!r}",
                f"a text for `{key}`",
                "say which cell and requirement are meant and why they fail",
            )
    if entry["requirement"] not in requirements():
        raise _bad(
            f"{where} names an unknown requirement.",
            f"{entry['requirement']!r}",
            "an id of this edition, such as 'MSK-03'",
            did_you_mean(entry["requirement"], requirements()) + "run `cellkit explain` for all",
        )
    backends = entry.get("backends", [])
    names = [backends] if isinstance(backends, str) else backends
    if not isinstance(names, list) or not all(_is_place(name) for name in names):
        raise _bad(
            f"{where} names an unknown backend.",
            f"backends = {backends!r}",
            f"a list of {', '.join(BACKENDS)}, with a device where it is not the processor, such "
            "as torch@gpu:0",
            "leave it out where all of them fail",
        )
    return Expectation(
        entry["cell"], entry["requirement"], entry["reason"], tuple(names), str(path)
    )


def _is_place(name: Any) -> bool:
    return isinstance(name, str) and backend_of(name) in BACKENDS


def _bad(what: str, received: str, expected: str, fix: str) -> BadExpectations:
    return BadExpectations(str(problem(what, received=received, expected=expected, fix=fix)))
