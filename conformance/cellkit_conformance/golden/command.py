"""The comparison of all golden files of a folder, one worker per backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cellkit_conformance.golden.manifest import Match, limits, read_manifest
from cellkit_conformance.run.process import Process, WorkerGone

TIMEOUT = 180.0
"""Seconds that one file may take."""


def run_golden(
    folder: Path, backends: Sequence[str], console: Console, list_all: bool = False
) -> int:
    """Compare all files of a folder on some backends and print a table.

    Args:
        folder: The folder.
        backends: Keras backends, one process each.
        console: Where to print.
        list_all: True to list every file whose cell is not registered, by name.

    Returns:
        0 when every file whose cell is registered matches, 1 when one does not, 3 when nothing
        could be compared.
    """
    manifest = read_manifest(folder)
    found = {name: _on_backend(folder, manifest, name) for name in backends}
    table = Table(title=f"Golden files of {folder}", title_justify="left", pad_edge=False)
    for heading in ("file", "cell", "library", "dtype"):
        table.add_column(heading, overflow="fold")
    for name in backends:
        table.add_column(f"error on {name}", justify="right")
    unregistered, broken, compared = [], [], 0
    for entry in manifest["cells"]:
        name = entry["cell"]
        row = [found[backend][name] for backend in backends]
        if not any(match.cell or match.problem for match in row):
            unregistered.append(name)
            continue
        compared += 1
        broken += [(backend, m) for backend, m in zip(backends, row, strict=True) if not m.ok]
        library = f"{entry.get('library', '?')} {entry.get('version', '')}"
        cells = [_cell_text(match) for match in row]
        table.add_row(name, row[0].cell, escape(library), row[0].dtype, *cells)
    console.print(table)
    for backend, match in broken:
        text = match.problem or f"{match.error} is above {match.limit:g}"
        console.print(f"[red]{match.name} on {backend}:[/] {escape(text)}", highlight=False)
    if unregistered:
        names = ", ".join(unregistered) if list_all else f"{len(unregistered)} (--all names them)"
        console.print(f"[dim]Not registered, so not compared: {names}[/]", highlight=False)
    console.print(f"{compared} file(s) compared on {len(backends)} backend(s), {len(broken)} miss.")
    return 1 if broken else 0 if compared else 3


def _cell_text(match: Match) -> str:
    if match.problem:
        return "[red]not compared[/]"
    return f"[{'green' if match.ok else 'red'}]{match.worst:.1e}[/]"


def _on_backend(folder: Path, manifest: Mapping[str, Any], backend: str) -> dict[str, Match]:
    """Compare all files on one backend, with a new worker after a crash."""
    matches: dict[str, Match] = {}
    process: Process | None = None
    options = {"profile": "quick", "seed": 0, "layer": "cellkit"}
    for entry in manifest["cells"]:
        name = entry["cell"]
        request = {
            "op": "golden",
            "folder": str(folder.resolve()),
            "entry": entry,
            "limits": limits(manifest),
        }
        try:
            process = process or Process(backend, options, {"JAX_ENABLE_X64": "1"})
            answer = process.ask(request, TIMEOUT)
        except WorkerGone as gone:
            process, matches[name] = None, Match(name, problem=f"{gone.kind}: {gone.reason}")
            continue
        if answer["event"] == "golden":
            matches[name] = Match(**answer["match"])
        else:
            matches[name] = Match(name, problem=answer["reason"])
    if process is not None:
        process.close()
    return matches
