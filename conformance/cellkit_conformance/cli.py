"""The commands `cellkit conform`, `cellkit golden` and `cellkit explain`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cellkit import registry
from cellkit._errors import problem
from cellkit._names import did_you_mean
from cellkit_conformance import edition
from cellkit_conformance.bench.cli import bench
from cellkit_conformance.process import MODULES
from cellkit_conformance.profiles import PROFILES
from cellkit_conformance.report import EXIT_CODES, Report
from cellkit_conformance.runner import Plan, Runner, installed_backends, total

DEFAULT_JSON = Path("reports/conformance.json")

_EPILOG = "Exit codes: " + "; ".join(f"{code} {text}" for code, text in EXIT_CODES.items()) + "."


def add_commands(app: typer.Typer) -> None:
    """Add the suite's commands to the command line.

    Args:
        app: The application of `cellkit`.
    """
    app.command("conform", epilog=_EPILOG)(conform)
    app.command("golden")(golden)
    app.command("explain")(explain)
    app.command("bench")(bench)


def conform(
    cells: Annotated[
        list[str] | None,
        typer.Argument(
            help="Registered names, 'module:Class' or 'file.py:Class'; nothing means every "
            "registered cell.",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="A backend, several with commas, or all.", show_default="all"),
    ] = None,
    profile: Annotated[str, typer.Option(help=" or ".join(PROFILES) + ".")] = "quick",
    select: Annotated[
        list[str] | None, typer.Option(help="Only these ids or groups, e.g. MSK,STA-03.")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Not these ids or groups.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    workers: Annotated[
        int, typer.Option("--workers", "-n", min=1, help="How many processes at a time.")
    ] = 1,
    layer: Annotated[
        str, typer.Option(help="The layer under test: cellkit, keras or 'module:Class'.")
    ] = "cellkit",
    timeout: Annotated[
        float | None, typer.Option(min=1, help="Seconds that one check may take.")
    ] = None,
    json_file: Annotated[
        Path, typer.Option("--json", help="Where the JSON report goes.")
    ] = DEFAULT_JSON,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Where the HTML report goes.")
    ] = None,
    junit_file: Annotated[
        Path | None, typer.Option("--junit", help="Where a JUnit report goes.")
    ] = None,
    durations: Annotated[bool, typer.Option(help="Print where the time went.")] = False,
) -> int:
    """Prove cells correct: every requirement, on every backend, each in a process of its own."""
    if profile not in PROFILES:
        raise problem(
            f"There is no profile {profile!r}.",
            received=f"--profile {profile}",
            expected=" or ".join(PROFILES),
            fix=did_you_mean(profile, PROFILES) + "leave it out for a quick run",
        )
    chosen, missing = _backends(backend or ["all"])
    plan = Plan(
        cells=_cells(cells or []),
        backends=chosen,
        ids=edition.select(select or [], skip or []),
        profile=profile,
        seed=seed,
        layer=layer,
        workers=workers,
        timeout=timeout,
    )
    report = _run(plan, missing)
    from cellkit_conformance.html import write_html
    from cellkit_conformance.terminal import show_report

    console = Console()
    show_report(console, report, durations)
    report.write_json(json_file)
    written = [json_file]
    if html_file is not None:
        write_html(report, html_file)
        written.append(html_file)
    if junit_file is not None:
        report.write_junit(junit_file)
        written.append(junit_file)
    console.print("Report: " + ", ".join(str(path) for path in written), highlight=False)
    return report.exit_code


def _run(plan: Plan, missing: list[str]) -> Report:
    from cellkit_conformance.terminal import progress

    console = Console(file=sys.stderr)
    start = time.perf_counter()
    with progress(console, total(plan)) as show:
        runner = Runner(plan, show)
        units = runner.run()
    return Report(plan, units, runner.backends, missing, time.perf_counter() - start)


def golden(
    path: Annotated[Path, typer.Argument(help="A folder with manifest.json and .npz files.")],
    backend: Annotated[
        list[str] | None,
        typer.Option(help="A backend, several with commas, or all.", show_default="all"),
    ] = None,
    all_files: Annotated[
        bool, typer.Option("--all", help="List also the files whose cell is not registered.")
    ] = False,
) -> int:
    """Compare the registered cells with frozen outputs of other implementations."""
    from cellkit_conformance.golden import run_golden

    chosen, _ = _backends(backend or ["all"])
    return run_golden(path, chosen, Console(), all_files)


def explain(
    identifier: Annotated[
        str | None, typer.Argument(help="An id such as MSK-03, or a group.", show_default=False)
    ] = None,
) -> int:
    """Say what a requirement means, or list them all."""
    console = Console()
    for name in edition.select([identifier] if identifier else []):
        requirement = edition.requirements()[name]
        traits = f" [dim]{{{', '.join(requirement.traits)}}}[/]" if requirement.traits else ""
        console.print(
            f"[bold]{name}[/] [dim]{requirement.level}[/]{traits} {escape(requirement.sentence)}",
            highlight=False,
        )
        if identifier:
            console.print(f"  [dim]look for:[/] {escape(requirement.hint)}", highlight=False)
    return 0


def _backends(names: list[str]) -> tuple[list[str], list[str]]:
    """Turn what was asked for into backends to use, and backends that are not there."""
    there = installed_backends()
    asked = [part.strip() for text in names for part in text.split(",") if part.strip()]
    if "all" in asked:
        asked = [name for name, installed in there.items() if installed]
        missing = [name for name, installed in there.items() if not installed]
    else:
        missing = []
    unknown = [name for name in asked if name not in MODULES]
    if unknown or not asked:
        raise problem(
            f"There is no backend {unknown[0]!r}." if unknown else "No backend is installed.",
            received=f"--backend {','.join(names)}",
            expected=f"all, or one or more of {', '.join(MODULES)}",
            fix=(did_you_mean(unknown[0], MODULES) if unknown else "")
            + "install one, for example: pip install 'cellkit[torch]'",
        )
    return list(dict.fromkeys(asked)), missing


def _cells(names: list[str]) -> list[str]:
    """Check the names of registered cells; of `module:Class` a worker finds out."""
    known = sorted(registry.declarations())
    for name in names:
        if ":" not in name and name not in known:
            raise problem(
                f"No cell is called {name!r}.",
                received=name,
                expected="a registered cell (see `cellkit list`), module:Class or file.py:Class",
                fix=did_you_mean(name, known) + "or name the class, such as my_lab.cells:MyCell",
            )
    if not names and not known:
        raise problem(
            "No cell is registered.",
            received="no cell, and none is installed",
            expected="the name of a cell, module:Class or file.py:Class",
            fix="install a plugin, or name a class, such as my_lab.cells:MyCell",
        )
    return list(dict.fromkeys(names)) or known
