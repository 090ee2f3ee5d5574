"""Run as a terminal shows it: progress while it runs, then the matrix and what is broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cellkit_conformance.edition import requirements
from cellkit_conformance.outcome import Outcome, Result
from cellkit_conformance.places import CPU, backend_of, device_of, place, unused
from cellkit_conformance.report.causes import Cause, causes, key_of
from cellkit_conformance.report.report import Report
from cellkit_conformance.run.runner import Unit

SHOWN = 40
"""Failures that the terminal lists; the report files have all."""


@contextmanager
def progress(console: Console, total: int) -> Iterator[Any]:
    """Show progress and failures as they come.

    Args:
        console: Console to show them on.
        total: Number of planned checks.

    Yields:
        A function to be called with every result.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task("starting the workers", total=total)
    begun: set[tuple[str, str]] = set()
    told: set[tuple[str, ...]] = set()

    def show(result: Result) -> None:
        if not console.is_terminal and (result.cell, result.backend) not in begun:
            # A log has no bar: a line tells that the next cell has begun.
            begun.add((result.cell, result.backend))
            done = f"[dim]{bar.tasks[0].completed:.0f} of {total}[/]"
            console.print(f"{done} {escape(result.cell)} on {result.backend}", highlight=False)
        bar.update(
            task,
            advance=1,
            description=f"{result.cell} on {result.backend} {result.requirement}",
        )
        cause = key_of(result)
        if result.outcome.is_bad and cause not in told:
            told.add(cause)
            bar.console.print(
                f"[red]{result.outcome:>7}[/] {result.requirement} {escape(result.cell)} on "
                f"{result.backend}: {escape(result.message)}",
                highlight=False,
                soft_wrap=True,
            )

    with bar:
        yield show


def show_report(
    console: Console, report: Report, durations: bool = False, quiet: bool = False
) -> None:
    """Print the matrix, the failures and the verdict.

    Args:
        console: Console to print on.
        report: The finished run.
        durations: True to print where the time went.
        quiet: True to leave out the matrix, what was assumed and what was expected.
    """
    if quiet:
        _print_problems(console, report)
    else:
        console.print(_matrix(report))
        _print_notes(console, report)
    bad = causes(report)
    for cause in bad[:SHOWN]:
        _print_failure(console, cause)
    if len(bad) > SHOWN:
        console.print(f"... and {len(bad) - SHOWN} more; see the report files.\n")
    for result in report.results:
        where = f"{result.requirement} {result.cell} on {result.backend}"
        if result.outcome is Outcome.STALE:
            said = escape(f"{where}: {result.message}")
            console.print(f"[bold yellow]stale[/] {said}\n", highlight=False, soft_wrap=True)
        if result.outcome is Outcome.EXPECTED and not quiet:
            said = escape(f"{where}: {result.extra['reason']}")
            console.print(f"[yellow]expected[/] {said}", highlight=False, soft_wrap=True)
    for result in report.of_backends[:SHOWN]:
        said = f"{result.requirement} {result.cell} on {result.backend}: {result.message}"
        console.print(f"[bold yellow]backend defect[/] {escape(said)}", highlight=False)
        if "file" in result.extra:
            console.print(f"  [dim]reproduce:[/] python {escape(result.extra['file'])}\n")
    if durations:
        _print_durations(console, report)
    colour = "green" if report.exit_code == 0 else "red" if report.exit_code == 1 else "yellow"
    console.print(f"[bold {colour}]{escape(report.verdict)}[/]", highlight=False)


def _matrix(report: Report) -> Table:
    table = Table(title="Conformance", title_justify="left", pad_edge=False)
    table.add_column("cell", overflow="fold")
    for name in report.plan.backends:
        versions = report.backends[name].versions
        table.add_column(f"{name}\n[dim]{versions.get(backend_of(name), '')}[/]", justify="right")
    by_key = {(unit.cell, unit.backend): unit for unit in report.units}
    for cell in report.plan.cells:
        row = [_tally(report, by_key.get((cell, backend))) for backend in report.plan.backends]
        table.add_row(escape(cell), *row)
    return table


def _tally(report: Report, unit: Unit | None) -> str:
    if unit is None:
        return "[dim]not in this run[/]"
    if unit.problem:
        return f"[bold red]cannot be checked[/]\n[dim]{unit.seconds:.0f} s[/]"
    counts = report.counts(unit)
    bad = sum(n for outcome, n in counts.items() if outcome.is_bad)
    parts = [f"[green]{counts[Outcome.PASS]} pass[/]"]
    if bad:
        parts.append(f"[bold red]{bad} broken[/]")
    others = {Outcome.STALE: "stale", Outcome.NOT_RUN: "not run", Outcome.BLOCKED: "blocked"}
    others |= {Outcome.EXPECTED: "expected", Outcome.BACKEND_DEFECT: "of the backend"}
    parts += [f"[yellow]{counts[o]} {said}[/]" for o, said in others.items() if counts[o]]
    if counts[Outcome.NOT_APPLICABLE]:
        parts.append(f"[dim]{counts[Outcome.NOT_APPLICABLE]} n/a[/]")
    return " ".join(parts) + f"\n[dim]{unit.seconds:.0f} s[/]"


def _print_notes(console: Console, report: Report) -> None:
    for name in report.missing:
        console.print(f"[yellow]{name} is not installed: nothing ran on it.[/]", highlight=False)
    for backend in report.backends.values():
        if backend.problem:
            console.print(f"[red]{backend.name} does not start:[/] {escape(backend.problem)}")
        idle = [d for d in unused(backend.devices) if place(backend.name, d) not in report.backends]
        if idle and device_of(backend.name) == CPU:
            text = f"{backend.name} reports {', '.join(idle)} too: `--device all` checks there."
            console.print(f"[yellow]{text}[/]", highlight=False)
    for note in report.notes:
        console.print(f"[dim]{escape(note)}[/]", highlight=False, soft_wrap=True)
    _print_problems(console, report)


def _print_problems(console: Console, report: Report) -> None:
    """Say why cells could not be checked at all, once where all backends say the same."""
    for cell, text, backends in report.problems:
        console.print(
            f"[bold red]{escape(cell)} cannot be checked[/] on {', '.join(backends)}:\n"
            f"{escape(text)}\n",
            highlight=False,
            soft_wrap=True,
        )


def _print_failure(console: Console, cause: Cause) -> None:
    """Print the first result of a cause in full, and how many follow from it."""
    result, backends = cause.first, ", ".join(cause.backends)
    requirement = requirements()[result.requirement]
    lines = [
        f"[bold red]{result.requirement}[/] {escape(result.cell)} on {backends}: "
        f"{escape(result.message)}"
    ]
    if result.extra.get("place"):
        lines.append(f"  [dim]raised in:[/] {escape(result.extra['place'])}")
    lines += [
        f"  [dim]must hold:[/] {escape(requirement.sentence)}",
        f"  [dim]look for: [/] {escape(result.extra.get('hint') or requirement.hint)}",
    ]
    if result.example:
        lines.append(f"  [dim]example:  [/] {escape(str(result.example))}")
    if "file" in result.extra:
        lines.append(f"  [dim]reproduce:[/] python {escape(result.extra['file'])}")
    lines.append(f"  [dim]run again:[/] {escape(result.reproduce)}")
    if cause.following:
        lines.append(f"  {cause.following}")
    # Unbroken, because a command that is broken over lines cannot be copied.
    console.print("\n".join(lines) + "\n", highlight=False, soft_wrap=True)


def _print_durations(console: Console, report: Report) -> None:
    table = Table(title="Where the time went", title_justify="left", pad_edge=False)
    for heading in ("requirement", "seconds", "examples"):
        table.add_column(heading, justify="left" if heading == "requirement" else "right")
    seconds: dict[str, float] = {}
    examples: dict[str, int] = {}
    for result in report.results:
        key = f"{result.requirement} {result.backend}"
        seconds[key] = seconds.get(key, 0.0) + result.seconds
        examples[key] = examples.get(key, 0) + result.examples
    for key in sorted(seconds, key=seconds.__getitem__, reverse=True)[:15]:
        table.add_row(key, f"{seconds[key]:.1f}", str(examples[key]))
    console.print(table)
    starts = ", ".join(f"{b.name} {b.start_seconds:.1f} s" for b in report.backends.values())
    console.print(f"Start of a worker: {starts}; the whole run: {report.seconds:.0f} s.")
