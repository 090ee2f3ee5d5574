"""`cellkit selftest`: proof that every check can fail, on the backends at hand.

Deliberately broken cells and layers (mutants) are run against the checks that must notice them. The
result is the kill matrix: mutants by requirements. A mutant that survives, a requirement that no
mutant fails, or a strategy that never reaches its edges is a defect of the suite.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cellkit.errors import problem
from cellkit_conformance.edition import groups, requirements
from cellkit_conformance.places import MODULES
from cellkit_conformance.run import lifeline
from cellkit_conformance.run.process import QUIET
from cellkit_conformance.selftest.worker import MARK


@dataclass
class Matrix:
    """What became of every mutant on one backend.

    Attributes:
        backend: The backend.
        kills: Requirement by mutant: "killed", "n/a", or the message of a check that passed it by.
        seconds: Seconds that a mutant took, by mutant.
        problem: Why the run ended early, or "".
    """

    backend: str
    kills: dict[str, dict[str, str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    problem: str = ""

    @property
    def survivors(self) -> list[tuple[str, str, str]]:
        """Mutant, requirement and what the check said, where a defect was not noticed."""
        return [
            (mutant, identifier, said)
            for mutant, row in self.kills.items()
            for identifier, said in row.items()
            if said not in ("killed", "n/a")
        ]

    @property
    def toothless(self) -> list[str]:
        """Requirements that no mutant fails here, though they apply."""
        killed = {i for row in self.kills.values() for i, said in row.items() if said == "killed"}
        absent = {i for row in self.kills.values() for i, said in row.items() if said == "n/a"}
        return [i for i in requirements() if i not in killed | absent]


def unreached_edges() -> list[str]:
    """Look for kinds of masks that the edges of a space do not show.

    Returns:
        A line per kind of mask and set of options that a crossed space leaves out, or per kind
        that is not what its name says.
    """
    from cellkit_conformance.examples.strategies import PADDED, Space, edges

    options: list[dict[str, Any]] = [{}, {"unroll": True}, {"go_backwards": True}]
    missing = []
    for seed in range(3):
        space = Space(shapes=[(3, 5)], masks=PADDED, options=options, crossed=True)
        drawn = edges(space, seed)
        met = {(example.kind, tuple(example.options)) for example in drawn}
        missing += [
            f"seed {seed}: no edge has a mask of kind {kind!r} with {option}"
            for kind in PADDED
            for option in options
            if (kind, tuple(option)) not in met
        ]
        for example in drawn:
            mask = example.mask_array()
            if mask is not None and mask.all() and example.kind != "any":
                missing.append(f"seed {seed}: a mask of kind {example.kind!r} masks nothing")
    return missing


def matrix_of(backend: str, console: Console) -> Matrix:
    """Run all mutants in a process of one backend.

    Args:
        backend: The backend.
        console: Where progress goes.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "cellkit_conformance.selftest.worker"],
        env={**QUIET, **os.environ, "KERAS_BACKEND": backend},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        **lifeline.OF_A_WORKER,
    )
    matrix = Matrix(backend)
    with process, console.status(f"{backend}: starting") as status:
        for line in process.stdout or ():
            if not line.startswith(MARK):
                continue
            answer = json.loads(line.removeprefix(MARK))
            matrix.kills[answer["mutant"]] = answer["row"]
            matrix.seconds[answer["mutant"]] = answer["seconds"]
            status.update(f"{backend}: {len(matrix.kills)} mutants, {answer['mutant']}")
        if process.wait() != 0:
            matrix.problem = f"the process ended with exit code {process.returncode}"
    return matrix


def selftest(
    backend: Annotated[
        str, typer.Option(help="A backend, several with commas, or all that are installed.")
    ] = "all",
) -> int:
    """Prove that every check can fail: run broken cells and layers, and print what noticed them."""
    from cellkit_conformance.run.runner import installed_backends

    there = [name for name, installed in installed_backends().items() if installed]
    chosen = there if backend == "all" else [b.strip() for b in backend.split(",") if b.strip()]
    wrong = [name for name in chosen if name not in there]
    if wrong or not chosen:
        raise problem(
            "There is no such backend here.",
            received=f"--backend {backend}",
            expected=f"all, or one or more of {', '.join(MODULES)}",
            fix="install it, or choose one that is installed: " + (", ".join(there) or "none is"),
        )
    console = Console()
    edges = unreached_edges()
    bad = bool(edges)
    for line in edges:
        console.print(f"[red]unreached[/] {line}", highlight=False)
    for name in chosen:
        bad = show(console, matrix_of(name, console)) or bad
    return 1 if bad else 0


def show(console: Console, matrix: Matrix) -> bool:
    """Print a kill matrix by group, and what is wrong.

    Args:
        console: Where to print.
        matrix: The kill matrix of a backend.

    Returns:
        Whether something is wrong.
    """
    for group in groups():
        ids = [i for i in requirements() if i.startswith(f"{group}-")]
        rows = {m: row for m, row in matrix.kills.items() if set(row) & set(ids)}
        table = Table(title=f"{matrix.backend}: {group}", title_justify="left")
        table.add_column("mutant", no_wrap=True)
        for identifier in ids:
            table.add_column(identifier.split("-")[1], justify="center")
        for mutant, row in rows.items():
            table.add_row(mutant, *(_mark(row.get(i)) for i in ids))
        console.print(table)
    for mutant, identifier, said in matrix.survivors:
        console.print(f"[red]survives[/] {mutant} {identifier}: {said}", highlight=False)
    for identifier in matrix.toothless:
        console.print(f"[red]toothless[/] {identifier}: no mutant fails it", highlight=False)
    if matrix.problem:
        console.print(f"[red]incomplete[/] {matrix.problem}", highlight=False)
    killed = sum(said == "killed" for row in matrix.kills.values() for said in row.values())
    absent = sum(said == "n/a" for row in matrix.kills.values() for said in row.values())
    console.print(
        f"{matrix.backend}: {len(matrix.kills)} mutants, {killed} kills, {absent} do not apply "
        f"here, {len(matrix.survivors)} survivors, {len(matrix.toothless)} toothless checks, "
        f"{sum(matrix.seconds.values()):.0f} s",
        highlight=False,
    )
    return bool(matrix.survivors or matrix.toothless or matrix.problem)


def _mark(said: str | None) -> str:
    if said is None:
        return ""
    return {"killed": "[green]x[/]", "n/a": "[dim]-[/]"}.get(said, "[red]SURVIVES[/]")
