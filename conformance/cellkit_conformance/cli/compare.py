"""`cellkit baseline`, `diff` and `golden`: compare with an earlier run, or with frozen numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cellkit_conformance.cli.run import DEFAULT_JSON
from cellkit_conformance.report.comparison import (
    BASELINE,
    changes_to_json,
    compare,
    exit_code,
    read_outcomes,
    show_changes,
    write_baseline,
)
from cellkit_conformance.run.choice import choose_backends

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only what is wrong.")]


def baseline(
    report: Annotated[Path, typer.Argument(help="A JSON report.")] = DEFAULT_JSON,
    to: Annotated[Path, typer.Option(help="The file to write.")] = BASELINE,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> int:
    """Write the outcomes of a run into a small, sorted file, to be kept beside the code."""
    count = write_baseline(report, to)
    if as_json:
        print(json.dumps({"file": str(to), "outcomes": count}))
    elif not quiet:
        print(f"{count} outcomes in {to}. Later: cellkit diff {to} {report}")
    return 0


def diff(
    before: Annotated[Path, typer.Argument(help="A report or a baseline.")] = BASELINE,
    after: Annotated[Path, typer.Argument(help="A report or a baseline.")] = DEFAULT_JSON,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> int:
    """Say what has changed. Exit code: 0 nothing got worse, 1 something did, 3 checks are gone."""
    changes = compare(read_outcomes(before), read_outcomes(after))
    if as_json:
        print(json.dumps(changes_to_json(changes), indent=1))
        return exit_code(changes)
    return show_changes(changes, Console(emoji=False), quiet)


def golden(
    path: Annotated[Path, typer.Argument(help="A folder with manifest.json and .npz files.")],
    backend: Annotated[
        list[str] | None,
        typer.Option(help="A backend, several with commas, or all.", show_default="all"),
    ] = None,
    all_files: Annotated[
        bool, typer.Option("--all", help="List also the files whose cell is not registered.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> int:
    """Compare the registered cells with frozen outputs of other implementations."""
    from cellkit_conformance.golden.command import compare_folder, show_comparison

    chosen, _ = choose_backends(backend or ["all"])
    found = compare_folder(path, chosen)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        show_comparison(found, Console(emoji=False), all_files, quiet)
    return found.exit_code
