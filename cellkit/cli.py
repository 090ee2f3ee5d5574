"""The command ``cellkit``.

Exit codes of the commands of this module: 0 fine, 1 `cellkit doctor` found something broken, 64
wrong use (an unknown cell or option, any bad input), 70 a defect of cellkit itself. The commands
of the conformance suite add theirs; in each of them 64 and 70 mean the same.

Nothing heavy is imported before a command needs it: ``cellkit list`` answers at once.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellkit import __version__, _backends, facts
from cellkit._distribution import install_command
from cellkit._streams import readers_may_leave
from cellkit._terminal import choose_colour, plain, show, table, tree
from cellkit.errors import problem
from cellkit.registry import (
    FAMILIES,
    TAGS,
    TRAITS,
    check_family,
    check_tag,
    check_trait,
    did_you_mean,
    registry,
)

if TYPE_CHECKING:
    from cellkit import doctor

__all__ = ["app", "main"]

EXIT_BROKEN = 1
EXIT_USAGE = 64  # sysexits.h: EX_USAGE
EXIT_DEFECT = 70  # sysexits.h: EX_SOFTWARE

# Commands of the conformance suite. The names are listed so that each of them, typed without the
# suite, is answered by how to get it.
_CONFORMANCE = (
    "conform",
    "golden",
    "explain",
    "replay",
    "merge",
    "baseline",
    "diff",
    "selftest",
    "bench",
    "new",
)

# Their modules, each with an `add_commands(app)`.
_SUITES = ("cellkit_conformance.cli", "cellkit_bench.cli")

# A typer that depends on click raises click's errors, one that contains click its own: this is
# the class of them that both have.
_UsageError: type[Any] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="cellkit",
    help="Recurrent cells as plugins for Keras 3.",
    epilog="--debug, or CELLKIT_DEBUG=1, shows the whole traceback of an error. "
    "--color and --no-color, or FORCE_COLOR and NO_COLOR, choose colour. "
    "Exit codes: 0 fine, 1 failure, 64 wrong use, 70 a defect of cellkit itself.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The text typed after ``cellkit``; by default what this process was started with.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    with readers_may_leave():
        return _run(words)


def _run(words: list[str]) -> int:
    """Run a command, and say of what it raises what to do."""
    debug = "--debug" in words or os.environ.get("CELLKIT_DEBUG", "0") not in ("", "0")
    words = choose_colour([word for word in words if word != "--debug"])
    try:
        if words[:1] == ["list"] and len(words) <= 2 and not words[-1].startswith("-"):
            # The usual forms. Parsing them with typer takes longer than all the rest together.
            return list_command(words[1] if words[1:] else "*")
        if words[:1] == ["show"] and len(words) == 2 and not words[1].startswith("-"):
            show_command(words[1])
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
    if command == "explain":
        _add_explain(own)
        return
    asks_for_help = command is None
    try:
        suites = [importlib.import_module(name) for name in _SUITES]
    except ModuleNotFoundError as error:
        if asks_for_help:
            print(f"The commands of the conformance suite are left out: {error}.", file=sys.stderr)
        if command not in _CONFORMANCE:
            return
        raise _incomplete(command, error) from error
    if not own.issuperset(_CONFORMANCE[:1]):
        for suite in suites:
            suite.add_commands(app)


def _add_explain(own: set[str | None]) -> None:
    """Add the command that only reads the edition: it answers at once, without the others."""
    try:
        suite = importlib.import_module(_SUITES[0])
        edition = importlib.import_module(f"{suite.__name__}.edition")
    except ModuleNotFoundError as error:
        raise _incomplete("explain", error) from error
    if "explain" not in own:
        app.command("explain")(edition.explain)


def _incomplete(command: str, error: ModuleNotFoundError) -> ValueError:
    return problem(
        f"`cellkit {command}` belongs to the conformance suite, which is not complete here.",
        received=str(error),
        expected="cellkit with its extra `conformance`",
        fix=f"run: {install_command('conformance')}",
    )


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
    color: Annotated[
        bool | None, typer.Option("--color/--no-color", help="With colour, or without.")
    ] = None,
) -> None:
    """Options before the command; `main` has dealt with them when this is called."""


def _complete(incomplete: str) -> list[str]:
    """Complete the name of a cell."""
    return _beginning(incomplete, registry.declarations())


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    """Return the names that begin with what was typed so far."""
    return [name for name in names if name.startswith(incomplete)]


_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only what is asked for.")]

# Facts that `show` prints in another place than its table.
_NOT_IN_TABLE = {
    *("name", "docstring", "example", "family", "use_when", "tags", "bibtex"),
    *("equations", "outline", "documented"),
}


@app.command("list")
def list_command(
    pattern: Annotated[
        str, typer.Argument(help="Names to list, e.g. '*lstm'.", autocompletion=_complete)
    ] = "*",
    trait: Annotated[
        list[str] | None,
        typer.Option(
            help="Only cells that claim this; can be repeated.",
            autocompletion=lambda incomplete: _beginning(incomplete, TRAITS),
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            help="Only cells of this family.",
            autocompletion=lambda incomplete: _beginning(incomplete, FAMILIES),
        ),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(
            help="Only cells with this tag, such as 'irregular time'; can be repeated.",
            autocompletion=lambda incomplete: _beginning(incomplete, TAGS),
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Add classes and papers.")
    ] = False,
    quiet: _Quiet = False,
    as_json: _Json = False,
) -> int:
    """List the registered cells by family. Exit code 1 if there is none that fits."""
    known = registry.declarations()
    wanted = {
        "traits": {check_trait(name) for name in trait or ()},
        "tags": {check_tag(name) for name in tag or ()},
        "family": {check_family(family)} if family else set(),
    }
    rows = []
    for name in registry.list_cells(pattern):
        found = known[name]
        there = facts.kept(found[0]) if len(found) == 1 else None
        row: dict[str, Any] = {
            "name": name,
            "class": found[0].target,
            "distribution": found[0].distribution,
            "version": found[0].version,
            "problem": "declared by " + " and ".join(map(str, found)) if len(found) > 1 else None,
        }
        if there is None and (verbose or any(wanted.values())):
            error = registry.problem_of(name)
            row["problem"] = row["problem"] or (error and str(error))
            there = {} if error else _of_spec(registry.get(name).spec)
        row |= {key: (there or {}).get(key) for key in ("family", "use_when", "tags")}
        if not all(needed <= _several((there or {}).get(key)) for key, needed in wanted.items()):
            continue
        if verbose:
            row["paper"] = (there or {}).get("paper")
        rows.append(row)
    if as_json:
        print(json.dumps(rows, indent=2))
    elif quiet:
        print("".join(f"{row['name']}\n" for row in rows), end="")
    if not rows:
        asked = [*(trait or ()), *([family] if family else ()), *(tag or ())]
        near = "" if asked else did_you_mean(pattern.strip("*"), known)
        claims = f" with {', '.join(asked)}" if asked else ""
        said = f"No cell fits {pattern!r}{claims}. {near.capitalize()}".strip()
        print(said, file=sys.stderr)
        return EXIT_BROKEN
    if as_json or quiet:
        return 0
    _show_rows(rows, verbose)
    for row in rows:
        if row["problem"]:
            print(f"{row['name']} can't be used: {row['problem']}", file=sys.stderr)
    return 0


def _of_spec(spec: Any) -> dict[str, Any]:
    """Return of a spec what `list` shows."""
    if spec is None:
        return {}
    return {**facts.guide_of(spec), "traits": sorted(spec.traits), "paper": str(spec.paper)}


def _several(value: Any) -> set[str]:
    """Return a fact as a set: a text, several, or none."""
    return {value} if isinstance(value, str) else set(value or ())


def _show_rows(rows: list[dict[str, Any]], verbose: bool) -> None:
    """Print cells by family, and at the end those that name none."""
    families: dict[str, list[dict[str, Any]]] = {name: [] for name in FAMILIES}
    for row in rows:
        families.setdefault(row["family"] or "", []).append(row)
    families[""] = families.pop("", [])
    width = max(len(row["name"]) for row in rows)
    # A terminal has no room for six columns; in a pipe a cell is one line, to be searched.
    stacked = sys.stdout.isatty()
    for family, members in families.items():
        if not members:
            continue
        said = FAMILIES.get(family, "a family of another package" if family else "")
        title = family or "without a family"
        show(f"[bold]{plain(title)}[/bold]{': ' if said else ''}{plain(said)}")
        shown = table()
        shown.add_column(min_width=width + 1, no_wrap=True)
        for row in members:
            use = (row["use_when"] or "").removeprefix("Use it when ").rstrip(".")
            made = [row["class"], f"{row['distribution']} {row['version'] or ''}".strip()]
            told = [use, ", ".join(row["tags"] or ())]
            if verbose and stacked:
                told[0] = "\n".join(filter(None, (use, row["paper"], ", ".join(made))))
                cells = told
            elif verbose:
                cells = [*told, *made, row["paper"] or "-"]
            else:
                cells = told if family else made
            shown.add_row(
                f" [cyan]{plain(row['name'])}[/cyan]" if not row["problem"] else f" {row['name']}",
                *map(plain, cells),
                style="red" if row["problem"] else None,
            )
        show(shown)


def _weights(text: str) -> str:
    """Return what stands for which weight, a line for each."""
    inner = re.fullmatch(r"WeightMap\((.*)\)", text, re.DOTALL)
    return re.sub(r", (?=\w+ = )", "\n", inner[1]) if inner else text


@app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(help="A cell, or module:Class.", autocompletion=_complete)],
    quiet: _Quiet = False,
    as_json: _Json = False,
) -> None:
    """Show what is known of a cell: paper, equations, arguments, states, inputs, an example."""
    found = facts.read(name)
    if as_json:
        print(json.dumps(found, indent=2, default=repr))
        return
    head = found["docstring"] or "No docstring."
    if quiet:
        print(head.splitlines()[0])
        return
    rows = {key: value for key, value in found.items() if key not in _NOT_IN_TABLE}
    for key in ("arguments", "options"):
        rows[key] = _named(found[key], "\n" if key == "arguments" else ", ")
    print(f"{found['name']}\n{'=' * len(found['name'])}\n\n{head}\n")
    if found.get("use_when"):
        told = f"{found['family']}{': ' if found['tags'] else ''}{', '.join(found['tags'])}"
        show(f"[bold green]{plain(found['use_when'])}[/bold green]\n[dim]{plain(told)}[/dim]\n")
    if found.get("outline"):
        show(tree("[bold]one step, new states first[/bold]", found["outline"]))
    rows["parameters"] = _parameters(found.get("parameters"))
    # Lines of a docstring, and of a class, would be broken a second time in a narrow terminal.
    rows["shapes"] = " ".join((found.get("shapes") or "").split())
    rows["weights"] = _weights(found.get("weights") or "")
    shown = table()
    for key, value in rows.items():
        if value:
            shown.add_row(f"[bold]{key}[/bold]", plain(_readable(value)))
    show(shown)
    if found.get("example"):
        show("\n[bold]example[/bold]")
        show("[cyan]" + plain(textwrap.indent(found["example"], "  ").rstrip()) + "[/cyan]")


@app.command("define")
def define_command(
    file: Annotated[Path, typer.Argument(help="A file with a text of equations.")],
    name: Annotated[
        str | None, typer.Option(help="Of the class.", show_default="from the file's name")
    ] = None,
    inputs: Annotated[str | None, typer.Option(help="Names, with commas: x,dt.")] = None,
    states: Annotated[str | None, typer.Option(help="Names in their order: h,c.")] = None,
    output: Annotated[str | None, typer.Option(help="The name of what is given out.")] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="Such as P=projection_units or u=1; can be repeated.")
    ] = None,
    number: Annotated[
        list[str] | None, typer.Option(help="Such as leaky=1.0; can be repeated.")
    ] = None,
    conform: Annotated[
        bool, typer.Option("--conform", help="Prove the cell with the conformance suite.")
    ] = False,
    backend: Annotated[str, typer.Option(help="For --conform: backends, or all.")] = "all",
    profile: Annotated[str, typer.Option(help="For --conform.")] = "quick",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only what is wrong, and the proof.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Make a cell from a file of equations, and say what was understood."""
    from cellkit.equations import command

    text, made = command.read(file), name or command.class_name(file)
    declared = command.declared_by(inputs, states, output, size or [], number or [])
    found = command.facts(*command.understood(made, text, declared))
    if as_json:
        print(json.dumps(found, indent=2))
    elif not quiet:
        command.show_facts(found)
    if conform:
        code = command.prove(made, text, declared, backend, profile, main)
        if code:
            raise typer.Exit(code)


@app.command("doctor")
def doctor_command(
    timeout: Annotated[float, typer.Option(help="Seconds to wait for a backend.", min=1.0)] = 120.0,
    quiet: _Quiet = False,
    as_json: _Json = False,
) -> None:
    """Check Python, Keras, each backend and each plugin. Exit code 1 if something is broken."""
    from cellkit import doctor

    # On stderr, since stdout may be read by a program.
    progress = None if quiet else lambda text: print(text, file=sys.stderr)
    report = doctor.examine(timeout, progress)
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        colours = {"ok": "green", "note": "yellow", "absent": "dim", "broken": "bold red"}
        for title, everything in report.groups.items():
            findings = [f for f in everything if not quiet or f.state == "broken"]
            if not findings:
                continue
            print(f"\n{title}")
            shown = table()
            for finding in findings:
                colour = colours[finding.state]
                shown.add_row(
                    plain(finding.subject),
                    f"[{colour}]{finding.state}[/{colour}]",
                    plain(finding.text),
                )
            show(shown)
        _print_end(report, quiet)
    if not report.healthy:
        raise typer.Exit(EXIT_BROKEN)


def _print_end(report: doctor.Report, quiet: bool) -> None:
    """Print what the doctor concludes, and what to do."""
    if report.healthy and quiet:
        return
    print("\nEverything works." if report.healthy else "\nSomething is broken. What to do:")
    if report.healthy and report.to_do:
        print("Worth doing:")
    for line in report.to_do:
        print(f"  {line}")


def _named(entries: Mapping[str, str], between: str) -> str:
    """Return the arguments of a cell as text."""
    return between.join(f"{name} = {said}" for name, said in entries.items()).replace(
        " = has to be given", ": has to be given"
    )


def _parameters(found: Mapping[str, Any] | None) -> str | None:
    """Return the number of parameters as a line of text."""
    if not found:
        return None
    sizes = ", ".join(f"{letter} = {size}" for letter, size in found["letters"].items())
    held = ", ".join(f"{name} = {value}" for name, value in (found["held"] or {}).items())
    trained = f", of which {found['trained']} are trained" if "trained" in found else ""
    apart = ", where F is not H" if found.get("apart") else ""
    return f"{found['formula']}{trained}, with {'; '.join(filter(None, (sizes, held)))}{apart}"


def _readable(value: Any) -> str:
    """Return a fact as text, one line per entry."""
    if isinstance(value, dict):
        return "\n".join(f"{key}: {entry}" for key, entry in value.items())
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return ("\n" if any(" " in entry for entry in value) else ", ").join(value)
    return str(value)
