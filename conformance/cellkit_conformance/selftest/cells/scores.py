"""Kill scores: how many of the changes to real cells the checks notice, by cell and requirement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cellkit import __version__
from cellkit_conformance.edition import edition_name, requirements
from cellkit_conformance.report.report import now, this_platform
from cellkit_conformance.run import lifeline
from cellkit_conformance.run.process import QUIET
from cellkit_conformance.selftest.worker import MARK

ENOUGH = 0.99
"""The kill score that is asked of the suite, over all cells of a run."""

TAIL = 3000
"""Characters of an error's end that are shown."""


@dataclass
class Scores:
    """Fate of the changes to the cells on one backend.

    Attributes:
        backend: The backend.
        profile: Of the checks.
        seed: Of what is drawn.
        most: Number of changes tried of each cell, or None for all.
        trials: The trials as data, by cell; see `trial.Trial`.
        seconds: By cell.
        problem: Reason why the run ended early, or "".
    """

    backend: str
    profile: str
    seed: int
    most: int | None
    trials: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    problem: str = ""

    def count(self, cell: str | None = None) -> Counter[str]:
        """Count outcomes.

        Args:
            cell: A cell, or None for all.
        """
        chosen = self.trials if cell is None else {cell: self.trials[cell]}
        return Counter(trial["outcome"] for found in chosen.values() for trial in found)

    def score(self, cell: str | None = None) -> float:
        """Give the share of the changes that were noticed, of those that can be.

        Args:
            cell: A cell, or None for all.
        """
        counts = self.count(cell)
        possible = counts["killed"] + counts["survived"]
        return counts["killed"] / possible if possible else 1.0

    def of_requirements(self) -> dict[str, tuple[int, int]]:
        """Say of each requirement that was asked how many changes it noticed, out of how many.

        Requirements are asked one after the other until one notices, so those that come late are
        asked about what is hard to notice.
        """
        trials = [trial for found in self.trials.values() for trial in found]
        asked = Counter(identifier for trial in trials for identifier in trial["asked"])
        killed = Counter(trial["by"] for trial in trials if trial["by"])
        return {i: (killed[i], asked[i]) for i in requirements() if asked[i]}

    @property
    def is_wrong(self) -> bool:
        """True if too many changes survive."""
        return bool(self.problem) or self.score() < ENOUGH

    def to_json(self) -> dict[str, Any]:
        """Give the scores as plain data, without the changes that were noticed."""
        return {
            "created": now(),
            "platform": this_platform(),
            "cellkit": __version__,
            "edition": edition_name(),
            "backend": self.backend,
            "profile": self.profile,
            "seed": self.seed,
            "most": self.most,
            "score": round(self.score(), 4),
            "counts": dict(self.count()),
            "problem": self.problem,
            "cells": {
                cell: {
                    "score": round(self.score(cell), 4),
                    **dict(self.count(cell)),
                    "seconds": round(self.seconds[cell], 1),
                }
                for cell in self.trials
            },
            "requirements": {i: list(pair) for i, pair in self.of_requirements().items()},
            "not_noticed": [
                {
                    "cell": cell,
                    **{k: trial[k] for k in ("outcome", "kind", "what", "where", "reason")},
                }
                for cell, found in self.trials.items()
                for trial in found
                if trial["outcome"] in ("survived", "equivalent")
            ],
        }


def measure(
    backend: str,
    cells: Sequence[str],
    profile: str,
    seed: int,
    most: int | None,
    told: Callable[[str], None],
) -> Scores:
    """Try the changes of cells in a process of one backend.

    Args:
        backend: The backend.
        cells: Registered names.
        profile: Of the checks.
        seed: Of what is drawn.
        most: Number of changes to try of each cell, or None for all.
        told: Called with a line for every cell.
    """
    options = {"backend": backend, "cells": cells, "profile": profile, "seed": seed, "most": most}
    scores = Scores(backend, profile, seed, most)
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "cellkit_conformance.selftest.cells.worker",
                json.dumps(options),
            ],
            env={**QUIET, **os.environ, "KERAS_BACKEND": backend},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            **lifeline.OF_A_WORKER,
        )
        with process:
            for line in process.stdout or ():
                if line.startswith(MARK):
                    answer = json.loads(line.removeprefix(MARK))
                    cell = answer["cell"]
                    scores.trials[cell] = answer["trials"]
                    scores.seconds[cell] = answer["seconds"]
                    counts = ", ".join(f"{n} {o}" for o, n in scores.count(cell).items())
                    told(f"{backend} {cell}: {counts}, {answer['seconds']:.0f} s")
            if process.wait() != 0:
                scores.problem = f"the process ended with {process.returncode}: {_end(errors)}"
    return scores


def _end(errors: IO[bytes]) -> str:
    errors.seek(0)
    return errors.read().decode("utf-8", "replace")[-TAIL:]


def show(console: Console, scores: Scores, quiet: bool = False) -> None:
    """Print the scores of a backend, and what was not noticed.

    Args:
        console: Console to print on.
        scores: The scores.
        quiet: True to leave out the tables and what cannot be noticed.
    """
    if not quiet:
        console.print(_of_cells(scores))
        console.print(_of_requirements(scores))
    for cell, found in scores.trials.items():
        for trial in found:
            if trial["outcome"] == "survived" or (trial["outcome"] == "equivalent" and not quiet):
                colour = "red" if trial["outcome"] == "survived" else "dim"
                said = (
                    f"{cell} {trial['kind']}: {trial['what']} ({trial['where']}): {trial['reason']}"
                )
                console.print(
                    f"[{colour}]{trial['outcome']}[/] {escape(said)}",
                    highlight=False,
                    soft_wrap=True,
                )
    if scores.problem:
        console.print(f"[red]incomplete[/] {escape(scores.problem)}", highlight=False)
    counts = scores.count()
    console.print(
        f"{scores.backend}: {len(scores.trials)} cells, {counts['killed']} changes noticed, "
        f"{counts['survived']} survive, {counts['equivalent']} cannot be noticed, "
        f"{counts['invalid']} do not run; score {scores.score():.2%}, "
        f"{sum(scores.seconds.values()):.0f} s",
        highlight=False,
    )


def _of_cells(scores: Scores) -> Table:
    table = Table(title=f"{scores.backend}: changes to cells", title_justify="left", pad_edge=False)
    table.add_column("cell")
    for title in ("noticed", "survive", "cannot be noticed", "do not run", "score", "s"):
        table.add_column(title, justify="right")
    for cell in scores.trials:
        counts, seconds = scores.count(cell), scores.seconds[cell]
        numbers = [str(counts[o]) for o in ("killed", "survived", "equivalent", "invalid")]
        table.add_row(cell, *numbers, f"{scores.score(cell):.1%}", f"{seconds:.0f}")
    return table


def _of_requirements(scores: Scores) -> Table:
    table = Table(title="By requirement", title_justify="left", pad_edge=False)
    table.add_column("requirement")
    table.add_column("noticed first", justify="right")
    table.add_column("asked", justify="right")
    for identifier, (killed, asked) in scores.of_requirements().items():
        table.add_row(identifier, str(killed), str(asked))
    return table
