"""Baselines: what a run found, small enough to be kept beside the code, and what has changed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cellkit.errors import problem
from cellkit_conformance.files import unwritable, write_text
from cellkit_conformance.outcome import Outcome

BASELINE = Path("cellkit-baseline.json")
"""Where a baseline is kept, unless said otherwise."""

Key = tuple[str, str, str]
"""Cell, backend, requirement."""

WORSE, BETTER, OTHER, NEW, GONE = "worse", "better", "changed", "new", "gone"


@dataclass(frozen=True)
class Change:
    """One check that ended otherwise.

    Attributes:
        key: Cell, backend, requirement.
        before: Its outcome, or None where it was not part of the first run.
        after: Its outcome, or None.
        kind: "worse", "better", "changed", "new" or "gone".
    """

    key: Key
    before: Outcome | None
    after: Outcome | None

    @property
    def kind(self) -> str:
        """Say what the change means."""
        if self.after is None:
            return GONE
        if self.before is None:
            return WORSE if _is_wrong(self.after) else NEW
        if _is_wrong(self.after) != _is_wrong(self.before):
            return WORSE if _is_wrong(self.after) else BETTER
        if self.before is Outcome.PASS and self.after in (Outcome.NOT_RUN, Outcome.BLOCKED):
            return GONE
        return OTHER


def read_report(path: Path) -> dict[str, Any]:
    """Read a JSON report.

    Args:
        path: As `cellkit conform --json` wrote it.

    Raises:
        ValueError: It is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _no_report(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(data, dict) or "schema" not in data:
        raise _no_report(path, "JSON without a field `schema`")
    return data


def read_outcomes(path: Path) -> dict[Key, Outcome]:
    """Read the outcomes of a report or of a baseline.

    Args:
        path: The file.

    Raises:
        ValueError: It is neither.
    """
    data = read_report(path)
    try:
        if "outcomes" in data:
            return {
                (cell, backend, identifier): Outcome(outcome)
                for cell, backends in data["outcomes"].items()
                for backend, found in backends.items()
                for identifier, outcome in found.items()
            }
        return {
            (r["cell"], r["backend"], r["requirement"]): Outcome(r["outcome"])
            for r in data["results"]
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _no_report(path, f"{type(error).__name__}: {error}") from error


def write_baseline(report: Path, path: Path) -> int:
    """Write the outcomes of a report, sorted, one line each, for version control.

    Args:
        report: A JSON report.
        path: The baseline; its folder is made.

    Returns:
        How many outcomes were written.

    Raises:
        ValueError: The baseline cannot be written.
    """
    outcomes = read_outcomes(report)
    nested: dict[str, dict[str, dict[str, str]]] = {}
    for (cell, backend, identifier), outcome in sorted(outcomes.items()):
        nested.setdefault(cell, {}).setdefault(backend, {})[identifier] = str(outcome)
    data = read_report(report)
    text = {"schema": data["schema"], "edition": data.get("edition", ""), "outcomes": nested}
    try:
        write_text(path, json.dumps(text, indent=1) + "\n")
    except OSError as error:
        raise unwritable([(path, error)]) from error
    return len(outcomes)


def compare(before: Mapping[Key, Outcome], after: Mapping[Key, Outcome]) -> list[Change]:
    """List what ended otherwise.

    Args:
        before: Outcomes.
        after: Outcomes.
    """
    return [
        Change(key, before.get(key), after.get(key))
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]


def exit_code(changes: list[Change]) -> int:
    """Give the exit code: 1 where something got worse, 3 where a check is gone, else 0.

    Args:
        changes: The result of `compare`.
    """
    kinds = {change.kind for change in changes}
    return 1 if WORSE in kinds else 3 if GONE in kinds else 0


def changes_to_json(changes: list[Change]) -> dict[str, Any]:
    """Give changes as plain data.

    Args:
        changes: The result of `compare`.
    """
    return {
        "exit_code": exit_code(changes),
        "counts": dict(Counter(change.kind for change in changes)),
        "changes": [
            {
                **dict(zip(("cell", "backend", "requirement"), change.key, strict=True)),
                "kind": change.kind,
                "before": None if change.before is None else str(change.before),
                "after": None if change.after is None else str(change.after),
            }
            for change in changes
        ],
    }


def show_changes(changes: list[Change], console: Console, quiet: bool = False) -> int:
    """Print changes, the bad ones first.

    Args:
        changes: The result of `compare`.
        console: Console to print on.
        quiet: True for what got worse and what is gone alone.

    Returns:
        See `exit_code`.
    """
    colours = {WORSE: "bold red", GONE: "yellow", BETTER: "green", OTHER: "cyan", NEW: "dim"}
    table = Table(pad_edge=False)
    for heading in ("", "cell", "backend", "requirement", "before", "after"):
        table.add_column(heading, overflow="fold")
    for kind, colour in list(colours.items())[: 2 if quiet else None]:
        for change in (change for change in changes if change.kind == kind):
            cells = [*change.key, str(change.before or "-"), str(change.after or "-")]
            table.add_row(f"[{colour}]{kind}[/]", *map(escape, cells))
    if table.row_count:
        console.print(table)
    counts = {kind: sum(change.kind == kind for change in changes) for kind in colours}
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    console.print(said or "Nothing has changed.")
    return exit_code(changes)


def _is_wrong(outcome: Outcome) -> bool:
    return outcome.is_bad or outcome is Outcome.STALE


def _no_report(path: Path, received: str) -> ValueError:
    return problem(
        f"{path} is neither a report nor a baseline.",
        received=received,
        expected="a file that `cellkit conform --json` or `cellkit baseline` wrote",
        fix="run `cellkit conform` first",
    )
