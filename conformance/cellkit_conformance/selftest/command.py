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
from cellkit_conformance.edition.profiles import PROFILES
from cellkit_conformance.places import MODULES
from cellkit_conformance.run import lifeline
from cellkit_conformance.run.process import QUIET
from cellkit_conformance.selftest.worker import MARK


@dataclass
class Matrix:
    """Fate of every mutant on one backend.

    Attributes:
        backend: The backend.
        kills: Requirement by mutant: "killed", "n/a", or the message of a check that passed it by.
        seconds: Seconds that a mutant took, by mutant.
        problem: Reason why the run ended early, or "".
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

    @property
    def is_wrong(self) -> bool:
        """True if the suite has a defect."""
        return bool(self.survivors or self.toothless or self.problem)

    def to_json(self) -> dict[str, Any]:
        """Give the matrix as plain data."""
        return {
            "backend": self.backend,
            "kills": self.kills,
            "survivors": [list(found) for found in self.survivors],
            "toothless": self.toothless,
            "problem": self.problem,
            "seconds": round(sum(self.seconds.values()), 2),
        }


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
        console: Console for the progress.
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
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="With --cells: registered cells; nothing means all.",
            show_default=False,
            metavar="[CELL]...",
        ),
    ] = None,
    cells: Annotated[
        bool, typer.Option("--cells", help="Change the steps of registered cells instead.")
    ] = False,
    backend: Annotated[
        str, typer.Option(help="A backend, several with commas, or all that are installed.")
    ] = "all",
    profile: Annotated[
        str, typer.Option(help="With --cells: " + " or ".join(PROFILES) + ".")
    ] = "standard",
    most: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --cells: try so many changes of each cell.", show_default="all"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="With --cells: of everything drawn.")] = 0,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only what is wrong, and the counts.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Prove that every check can fail: run broken cells and layers, and print what noticed them.

    With --cells the broken cells are the registered ones, with small changes to their steps: signs,
    gates, activations, states, dropped terms, lost gradients. Exit code 1: something survives that
    should not, with --cells more than a hundredth.
    """
    from cellkit_conformance.run.runner import installed_backends

    there = [name for name in MODULES if installed_backends()[name]]
    chosen = there if backend == "all" else [b.strip() for b in backend.split(",") if b.strip()]
    wrong = [name for name in chosen if name not in there]
    if wrong or not chosen:
        raise problem(
            "There is no such backend here.",
            received=f"--backend {backend}",
            expected=f"all, or one or more of {', '.join(MODULES)}",
            fix="install it, or choose one that is installed: " + (", ".join(there) or "none is"),
        )
    console = Console(stderr=as_json)
    if cells:
        return _selftest_cells(names or [], chosen, profile, most, seed, console, quiet, as_json)
    if names:
        raise problem(
            "Cells are named with --cells.",
            received=" ".join(names),
            expected="no name, or --cells and names",
            fix=f"cellkit selftest --cells {' '.join(names)}",
        )
    edges = unreached_edges()
    for line in edges:
        console.print(f"[red]unreached[/] {line}", highlight=False)
    matrices = []
    for name in chosen:
        matrices.append(matrix_of(name, console))
        if not as_json:
            show(console, matrices[-1], quiet)
    bad = bool(edges) or any(matrix.is_wrong for matrix in matrices)
    if as_json:
        data = {"unreached": edges, "backends": [matrix.to_json() for matrix in matrices]}
        print(json.dumps({"exit_code": int(bad), **data}, indent=1))
    return 1 if bad else 0


def _selftest_cells(
    names: list[str],
    backends: list[str],
    profile: str,
    most: int | None,
    seed: int,
    console: Console,
    quiet: bool,
    as_json: bool,
) -> int:
    """Try changes to registered cells, print the scores, and return the exit code."""
    from cellkit_conformance.run.choice import choose_cells
    from cellkit_conformance.selftest.cells import scores

    if profile not in PROFILES:
        raise problem(
            f"There is no profile {profile!r}.",
            received=f"--profile {profile}",
            expected=" or ".join(PROFILES),
            fix="leave it out for the standard profile",
        )
    chosen = choose_cells(names)
    if unregistered := [name for name in chosen if ":" in name]:
        raise problem(
            "Only registered cells can be changed.",
            received=unregistered[0],
            expected="the name of a registered cell, see `cellkit list`",
            fix="register the cell, or name another",
        )
    found = []
    for backend in backends:
        with console.status(f"{backend}: starting") as status:
            found.append(scores.measure(backend, chosen, profile, seed, most, status.update))
        if not as_json:
            scores.show(console, found[-1], quiet)
    code = int(any(result.is_wrong for result in found))
    if as_json:
        data = {"exit_code": code, "backends": [result.to_json() for result in found]}
        print(json.dumps(data, indent=1))
    return code


def show(console: Console, matrix: Matrix, quiet: bool = False) -> bool:
    """Print a kill matrix by group, and what is wrong.

    Args:
        console: Console to print on.
        matrix: The kill matrix of a backend.
        quiet: True to leave out the tables.

    Returns:
        Whether something is wrong.
    """
    for group in () if quiet else groups():
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
    return matrix.is_wrong


def _mark(said: str | None) -> str:
    if said is None:
        return ""
    return {"killed": "[green]x[/]", "n/a": "[dim]-[/]"}.get(said, "[red]SURVIVES[/]")
