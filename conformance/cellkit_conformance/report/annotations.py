"""Annotations: lines that GitHub's runner turns into remarks on the files of a pull request.

See "Workflow commands for GitHub Actions" in GitHub's documentation: `::error file=...,line=...::`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from cellkit_conformance.edition import requirements
from cellkit_conformance.outcome import Outcome, Result, clean
from cellkit_conformance.report.causes import causes
from cellkit_conformance.report.report import Report
from cellkit_conformance.run.runner import Unit

_PLACE = re.compile(r"(?P<file>.+?), line (?P<line>\d+), in ")
"""The beginning of a place in the author's code, see `judge.causes.place_of`."""


def remarks(report: Report) -> Iterator[str]:
    """Write a line for each cause: an error where it ends the run with exit code 1, else a warning.

    Args:
        report: The finished run.

    Yields:
        Lines for standard output. A file is named where it lies in or below the working directory,
        which is where a pull request can be remarked on.
    """
    units = {(unit.cell, unit.backend): unit for unit in report.units}
    counts = {id(result) for result in report.that_count}
    for cell, text, backends in report.problems:
        unit = units[cell, backends[0]]
        title = f"{cell} cannot be checked on {', '.join(backends)}"
        yield _line("error", title, text, _of_target(cell) or _of_class(unit))
    for cause in causes(report):
        result = cause.first
        requirement = requirements()[result.requirement]
        level = "error" if any(id(r) in counts for r in cause.results) else "warning"
        lines = [result.message, f"must hold: {requirement.sentence}"]
        lines += [f"look for: {result.extra.get('hint') or requirement.hint}"]
        lines += [f"run again: {result.reproduce}"]
        lines += [cause.following] if cause.following else []
        where = _of_place(result) or _of_class(units[result.cell, result.backend])
        title = f"{result.requirement} {result.cell} on {', '.join(cause.backends)}"
        yield _line(level, title, "\n".join(lines), where)
    for result in report.results:
        if result.outcome is Outcome.STALE:
            title = f"{result.requirement} {result.cell} on {result.backend}"
            yield _line("error", title, result.message, None)


def _of_place(result: Result) -> tuple[str, str] | None:
    """Give file and line of the place in the author's code where a check ended."""
    found = _PLACE.match(result.extra.get("place", ""))
    return None if found is None else (found["file"], found["line"])


def _of_class(unit: Unit) -> tuple[str, str] | None:
    file, _, line = unit.source.rpartition(":")
    return (file, line) if file else None


def _of_target(cell: str) -> tuple[str, str] | None:
    """Give the first line of the file that was named, where the class in it is out of reach."""
    file = cell.rpartition(":")[0]
    return (file, "1") if file.endswith(".py") else None


def _line(level: str, title: str, text: str, where: tuple[str, str] | None) -> str:
    fields = {"title": title}
    if where is not None:
        file = os.path.relpath(Path(where[0]).resolve(), Path.cwd().resolve())
        if not file.startswith(".."):
            fields = {"file": Path(file).as_posix(), "line": where[1], **fields}
    said = ",".join(f"{key}={_property(clean(value))}" for key, value in fields.items())
    return f"::{level} {said}::{_data(clean(text))}"


def _data(text: str) -> str:
    """Escape a message, as the runner reads it."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
