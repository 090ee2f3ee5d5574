"""The command ``cellkit``.

Exit codes of the commands of this module: 0 fine, 1 `cellkit doctor` found something broken, 64
wrong use (an unknown cell or option, any bad input), 70 a defect of cellkit itself. The commands
of the conformance suite add theirs; in each of them 64 and 70 mean the same.

Nothing heavy is imported before a command needs it: ``cellkit list`` answers at once.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellkit import __version__, _backends
from cellkit._distribution import install_command
from cellkit._streams import readers_may_leave
from cellkit.errors import problem
from cellkit.registry import registry

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["app", "main"]

EXIT_BROKEN = 1
EXIT_USAGE = 64  # sysexits.h: EX_USAGE
EXIT_DEFECT = 70  # sysexits.h: EX_SOFTWARE

# What the conformance suite brings. The names are listed so that each of them, typed without the
# suite, is answered by how to get it.
_CONFORMANCE = (
    "conform",
    "golden",
    "explain",
    "replay",
    "baseline",
    "diff",
    "selftest",
    "bench",
    "new",
)

# Where they are, each with an `add_commands(app)`.
_SUITES = ("cellkit_conformance.cli", "cellkit_bench.cli")

# A typer that depends on click raises click's errors, one that contains click its own: this is
# the class of them that both have.
_UsageError: type[Any] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="cellkit",
    help="Recurrent cells as plugins for Keras 3.",
    epilog="--debug, or CELLKIT_DEBUG=1, shows the whole traceback of an error. "
    "Exit codes: 0 fine, 1 failure, 64 wrong use, 70 a defect of cellkit itself.",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What was typed after ``cellkit``; by default what this process was started with.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    with readers_may_leave():
        return _run(words)


def _run(words: list[str]) -> int:
    """Run a command, and say of what it raises what to do."""
    debug = "--debug" in words or os.environ.get("CELLKIT_DEBUG", "0") not in ("", "0")
    words = [word for word in words if word != "--debug"]
    try:
        if words[:1] == ["list"] and len(words) <= 2 and not words[-1].startswith("-"):
            # The usual form. Parsing it with typer takes longer than all the rest together.
            list_command(words[1] if words[1:] else "*")
            return 0
        _add_commands(words)
        code = typer.main.get_command(app).main(words, prog_name="cellkit", standalone_mode=False)
    except _UsageError as error:
        error.show()
        return EXIT_USAGE
    except typer.Abort:
        return 130
    except Exception as raised:
        failure = _backends.explain(raised) or raised
        three_parts = isinstance(failure, ValueError) and "\n  Received: " in str(failure)
        if debug or not three_parts:
            traceback.print_exception(failure)
        else:
            print(failure, file=sys.stderr)
        return EXIT_USAGE if three_parts else EXIT_DEFECT
    return code if isinstance(code, int) else 0


def _add_commands(words: list[str]) -> None:
    """Add the commands of the conformance suite, if what was typed is about them."""
    command = next((word for word in words if not word.startswith("-")), None)
    own = {info.name for info in app.registered_commands}
    if command in own or "--version" in words:
        return
    asks_for_help = command is None
    try:
        suites = [importlib.import_module(name) for name in _SUITES]
    except ModuleNotFoundError as error:
        if asks_for_help:
            print(f"The commands of the conformance suite are left out: {error}.", file=sys.stderr)
        if command not in _CONFORMANCE:
            return
        raise problem(
            f"`cellkit {command}` belongs to the conformance suite, which is not complete here.",
            received=str(error),
            expected="cellkit with its extra `conformance`",
            fix=f"run: {install_command('conformance')}",
        ) from error
    if not own.issuperset(_CONFORMANCE[:1]):
        for suite in suites:
            suite.add_commands(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"cellkit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Options before the command; `main` has dealt with them when this is called."""


_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="Names to list, e.g. '*lstm'.")] = "*",
    trait: Annotated[
        list[str] | None,
        typer.Option(help="Only cells that claim this; can be repeated. Imports the plugins."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Add the papers. Imports the plugins.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """List the registered cells."""
    known = registry.declarations()
    names = registry.list_cells(pattern, trait or None)
    rows = []
    for name in names:
        found = known[name]
        row: dict[str, Any] = {
            "name": name,
            "class": found[0].target,
            "distribution": found[0].distribution,
            "version": found[0].version,
            "problem": None,
        }
        if len(found) > 1:
            row["problem"] = "declared by " + " and ".join(map(str, found))
        if verbose:
            error = registry.problem_of(name)
            spec = None if error else registry.get(name).spec
            row["problem"] = row["problem"] or (error and str(error))
            row["paper"] = str(spec.paper) if spec else None
        rows.append(row)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print(f"No cell fits {pattern!r}" + (f" with {', '.join(trait)}." if trait else "."))
        return
    table = _table("Name", "Class", "Distribution", *(["Paper"] if verbose else []))
    for row in rows:
        cells = [row["name"], row["class"], f"{row['distribution']} {row['version'] or ''}".strip()]
        cells += [row["paper"] or "-"] if verbose else []
        table.add_row(*map(_plain, cells), style="red" if row["problem"] else None)
    _print(table)
    for row in rows:
        if row["problem"]:
            print(f"{row['name']} can't be used: {row['problem']}", file=sys.stderr)


@app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(help="A cell, or module:Class.")],
    as_json: _Json = False,
) -> None:
    """Show what is known of a cell: paper, equations, states, inputs, cases, traits."""
    cell = registry.get(name)
    facts = _facts(cell)
    head = _docstring_head(cell.cls)
    if as_json:
        print(json.dumps({"name": cell.name, "docstring": head, **facts}, indent=2, default=repr))
        return
    print(f"{cell.name}\n{'=' * len(cell.name)}\n\n{head or 'No docstring.'}\n")
    table = _table()
    for key, value in facts.items():
        if value is not None:
            table.add_row(f"[bold]{key}[/bold]", _plain(_readable(value)))
    _print(table)


@app.command("doctor")
def doctor_command(
    timeout: Annotated[float, typer.Option(help="Seconds to wait for a backend.", min=1.0)] = 120.0,
    as_json: _Json = False,
) -> None:
    """Check Python, Keras, each backend and each plugin. Exit code 1 if something is broken."""
    from cellkit import doctor

    # On stderr, since stdout may be read by a program.
    report = doctor.examine(timeout, lambda text: print(text, file=sys.stderr))
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        colours = {"ok": "green", "note": "yellow", "absent": "dim", "broken": "bold red"}
        for title, findings in report.groups.items():
            print(f"\n{title}")
            table = _table()
            for finding in findings:
                colour = colours[finding.state]
                table.add_row(
                    _plain(finding.subject),
                    f"[{colour}]{finding.state}[/{colour}]",
                    _plain(finding.text),
                )
            _print(table)
        print("\nEverything works." if report.healthy else "\nSomething is broken. What to do:")
        if report.healthy and report.to_do:
            print("Worth doing:")
        for line in report.to_do:
            print(f"  {line}")
    if not report.healthy:
        raise typer.Exit(EXIT_BROKEN)


def _facts(cell: registry.RegisteredCell) -> dict[str, Any]:
    """Return what there is to say of a cell beside its docstring."""
    spec = cell.spec
    facts: dict[str, Any] = {
        "class": f"{cell.cls.__module__}:{cell.cls.__qualname__}",
        "distribution": f"{cell.distribution} {cell.version or ''}".strip(),
    }
    if spec is None:
        return {**facts, "spec": "none: the conformance suite can't compare it with its paper"}
    first = next(iter(spec.cases))
    example = cell.cls(**spec.cases[first])
    return {
        **facts,
        "paper": str(spec.paper),
        "link": spec.paper.url,
        "inputs": spec.inputs,
        "dims": dict(spec.dims) or None,
        "states": (", ".join(spec.states) + ": " if spec.states else "")
        + f"{example.state_size!r} (case {first!r})",
        "weights": repr(spec.symbols),
        "cases": dict(spec.cases),
        "traits": sorted(spec.traits),
        "reference": "NumPy" if spec.reference else "none",
        "tolerance": spec.tolerance,
        "deviations": list(spec.deviations) or None,
        "aliases": dict(spec.aliases) or None,
    }


def _docstring_head(cls: type) -> str:
    """Return a docstring up to its arguments: one line, paper, equations, deviations."""
    lines = (inspect.getdoc(cls) or "").splitlines()
    end = next(
        (i for i, line in enumerate(lines) if line.startswith(("Args:", "Arguments:"))), None
    )
    return "\n".join(lines[:end]).strip()


def _readable(value: Any) -> str:
    """Return a value of `_facts` as text, one line per entry."""
    if isinstance(value, dict):
        return "\n".join(f"{key}: {entry}" for key, entry in value.items())
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return ("\n" if any(" " in entry for entry in value) else ", ").join(value)
    return str(value)


def _table(*titles: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if titles else None, show_header=bool(titles), pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _plain(text: str) -> str:
    """Return text in which square brackets are no markup."""
    from rich.markup import escape

    return escape(text)


def _print(what: RenderableType) -> None:
    from rich.console import Console

    # In a pipe there is no width to fit to, and a broken line can't be searched.
    console = Console() if sys.stdout.isatty() else Console(width=200, color_system=None)
    console.print(what)
