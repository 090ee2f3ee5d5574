"""The comparison of all golden files of a folder, one worker per backend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cellkit_conformance.golden.manifest import Match, limits, read_manifest
from cellkit_conformance.run.process import Process, WorkerGone

TIMEOUT = 180.0
"""Seconds that one file may take."""


@dataclass(frozen=True)
class Comparison:
    """Results of comparing the files of a folder.

    Attributes:
        folder: The folder.
        entries: The entries of its manifest, by name.
        matches: By backend and name.
    """

    folder: Path
    entries: Mapping[str, Mapping[str, Any]]
    matches: Mapping[str, Mapping[str, Match]]

    @property
    def unregistered(self) -> list[str]:
        """The files whose cell is not registered."""
        return [
            name
            for name in self.entries
            if not any(found[name].cell or found[name].problem for found in self.matches.values())
        ]

    @property
    def compared(self) -> list[str]:
        """The files that were compared."""
        absent = set(self.unregistered)
        return [name for name in self.entries if name not in absent]

    @property
    def broken(self) -> list[tuple[str, Match]]:
        """Backend and match of what misses."""
        rows = [(b, f[name]) for name in self.compared for b, f in self.matches.items()]
        return [(backend, match) for backend, match in rows if not match.ok]

    @property
    def exit_code(self) -> int:
        """0 when every file whose cell is registered matches, 1 when one misses, 3 for none."""
        return 1 if self.broken else 0 if self.compared else 3

    def to_json(self) -> dict[str, Any]:
        """Give the comparison as plain data; numbers that JSON lacks become strings."""
        return {
            "exit_code": self.exit_code,
            "folder": str(self.folder),
            "unregistered": self.unregistered,
            "matches": [
                {"backend": backend, "ok": found[name].ok, **_plain(asdict(found[name]))}
                for name in self.compared
                for backend, found in self.matches.items()
            ],
        }


def compare_folder(folder: Path, backends: Sequence[str]) -> Comparison:
    """Compare all files of a folder on some backends.

    Args:
        folder: The folder.
        backends: Keras backends, one process each.
    """
    manifest = read_manifest(folder)
    found = {name: _on_backend(folder, manifest, name) for name in backends}
    return Comparison(folder, {entry["cell"]: entry for entry in manifest["cells"]}, found)


def show_comparison(
    found: Comparison, console: Console, list_all: bool = False, quiet: bool = False
) -> None:
    """Print a comparison.

    Args:
        found: The comparison.
        console: Console to print on.
        list_all: True to list every file whose cell is not registered, by name.
        quiet: True to leave out what matches.
    """
    backends = list(found.matches)
    table = Table(title=f"Golden files of {found.folder}", title_justify="left", pad_edge=False)
    for heading in ("file", "cell", "library", "dtype"):
        table.add_column(heading, overflow="fold")
    for name in backends:
        table.add_column(f"error on {name}", justify="right")
    for name in found.compared:
        row = [found.matches[backend][name] for backend in backends]
        entry = found.entries[name]
        library = f"{entry.get('library', '?')} {entry.get('version', '')}"
        cells = [_cell_text(match) for match in row]
        table.add_row(name, row[0].cell, escape(library), row[0].dtype, *cells)
    if not quiet:
        console.print(table)
    for backend, match in found.broken:
        text = match.problem or f"{match.error} is above {match.limit:g}"
        console.print(f"[red]{match.name} on {backend}:[/] {escape(text)}", highlight=False)
    absent = found.unregistered
    if absent and not quiet:
        names = ", ".join(absent) if list_all else f"{len(absent)} (--all names them)"
        console.print(f"[dim]Not registered, so not compared: {names}[/]", highlight=False)
    console.print(
        f"{len(found.compared)} file(s) compared on {len(backends)} backend(s), "
        f"{len(found.broken)} miss."
    )


def _plain(value: Any) -> Any:
    """Spell out the numbers that JSON lacks."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


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
