"""The command `cellkit bench`."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cellkit import registry
from cellkit.errors import problem
from cellkit_bench.plan import CELLS, BenchPlan, default_plan, quick_plan
from cellkit_conformance.files import unwritable, write_text
from cellkit_conformance.run.choice import choose_backends, choose_cells

DEFAULT_FOLDER = Path("benchmarks/results")

EXIT_FAILED = 1


def bench(
    cells: Annotated[
        list[str] | None,
        typer.Argument(
            help="Registered names or 'module:Class', made with `units` alone; nothing means "
            + ", ".join(CELLS)
            + ".",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="A backend, several with commas, or all.", show_default="all"),
    ] = None,
    quick: Annotated[
        bool, typer.Option(help="Less than a minute per backend: no curves, no memory.")
    ] = False,
    engine: Annotated[
        list[str] | None,
        typer.Option(help="Measure also this engine of cellkit.RNN; can be repeated."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The folder for results.json and the plots.")
    ] = DEFAULT_FOLDER,
    plots: Annotated[bool, typer.Option(help="Draw the plots, if matplotlib is installed.")] = True,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but what has failed.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what results.json holds, and no table.")
    ] = False,
) -> int:
    """Measure how fast cells run, beside what else could run them. Exit code 1: some failed."""
    from cellkit_bench import report

    backends, _ = choose_backends(backend or ["all"])
    known = registry.declarations()
    names = tuple(choose_cells(cells or [name for name in CELLS if name in known]))
    plan = (quick_plan if quick else default_plan)(names, tuple(engine or []))
    console = Console() if sys.stdout.isatty() else Console(width=160, color_system=None)
    _make_folder(out)
    results = _measure(plan, backends)
    written = [out / "results.json"]
    try:
        write_text(written[0], json.dumps(results, indent=1) + "\n")
    except OSError as error:
        raise unwritable([(written[0], error)]) from error
    if plots and importlib.util.find_spec("matplotlib"):
        from cellkit_bench.plots import draw

        written += draw(results, out)
    elif plots and not quiet:
        print("No plots: install matplotlib for them.", file=sys.stderr)
    if as_json:
        print(json.dumps(results, indent=1))
    elif not quiet:
        report.show(console, results)
        console.print("Results: " + ", ".join(map(str, written)), highlight=False)
    for failure in results["failed"] if quiet or as_json else ():
        print(f"Failed: {failure}", file=sys.stderr)
    return EXIT_FAILED if results["failed"] else 0


def _measure(plan: BenchPlan, backends: list[str]) -> dict[str, Any]:
    from cellkit_bench import run

    total = sum(plan.count() + len(run.memory_tasks(plan, b)) for b in backends)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, TimeElapsedColumn(), console=Console(file=sys.stderr), transient=True)
    with bar:
        task = bar.add_task("starting", total=total)

        def show(event: dict[str, Any]) -> None:
            if event["event"] == "work":
                work = event["work"]
                text = f"{work['cell']} {work['batch']}x{work['length']}x{work['width']}"
                bar.update(task, description=f"{text} on {event['backend']}")
            elif event["event"] == "done":
                bar.advance(task)

        return run.measure(plan, backends, show)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise problem(
            "The results can't be written.",
            received=f"--out {folder}, which is a file",
            expected="a folder, which is made if it isn't there",
            fix="name another one",
        ) from error


def add_commands(app: typer.Typer) -> None:
    """Add the command to the command line.

    Args:
        app: The application of `cellkit`.
    """
    app.command("bench")(bench)
