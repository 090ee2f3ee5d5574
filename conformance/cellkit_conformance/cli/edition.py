"""`cellkit explain`: say what a requirement means."""

from __future__ import annotations

import ast
import functools
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cellkit._terminal import plain, show, table
from cellkit_conformance import edition

MUTANTS = Path(__file__).parents[1] / "selftest" / "mutants"
PAGE = "docs/keras-map.md"

_LEVELS = {"must": "red", "should": "yellow", "info": "blue"}


def _complete(incomplete: str) -> list[str]:
    """Complete the id of a requirement, or the name of a group."""
    names = [*edition.groups(), *edition.requirements()]
    return [name for name in names if name.startswith(incomplete.upper())]


def explain(
    identifier: Annotated[
        str | None,
        typer.Argument(
            help="An id such as MSK-03, or a group.",
            show_default=False,
            autocompletion=_complete,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the sentence.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    edition_name: Annotated[
        str | None,
        typer.Option("--edition", help="The edition.", show_default="the newest"),
    ] = None,
) -> int:
    """Say what a requirement means, or list them all."""
    if edition_name is not None:
        edition.use(edition_name)
    names = edition.select([identifier] if identifier else [])
    entries = [_entry(edition.requirements()[name]) for name in names]
    if as_json:
        print(json.dumps(entries, indent=2))
        return 0
    if quiet:
        print("\n".join(entry["sentence"] for entry in entries))
        return 0
    # Side by side, so that what is broken in a narrow terminal stays in its column.
    shown = table()
    for entry in entries:
        level, traits = entry["level"], ", ".join(entry["traits"])
        claims = f"[dim]{{{traits}}}[/] " if traits else ""
        told = [f"{claims}{plain(entry['sentence'])}"]
        if identifier:
            told += [f"[dim]{title}:[/] {plain(text)}" for title, text in _more(entry).items()]
        head = f"[bold]{entry['id']}[/] [{_LEVELS[level]}]{level}[/]"
        shown.add_row(head, "\n".join(told))
    show(shown)
    return 0


def _entry(requirement: edition.Requirement) -> dict[str, Any]:
    """Return what there is to say of a requirement."""
    return {
        "id": requirement.id,
        "level": requirement.level,
        "traits": list(requirement.traits),
        "profile": requirement.profile,
        "sentence": requirement.sentence,
        "hint": requirement.hint,
        "broken_by": _broken_by().get(requirement.id, []),
        "run": f"cellkit conform lstm --select {requirement.id}",
        "link": PAGE,
    }


def _more(entry: dict[str, Any]) -> dict[str, str]:
    """Return what is said of a requirement that was asked for, by title."""
    found = {"look for": entry["hint"]}
    if entry["broken_by"]:
        found["a defect that it finds"] = entry["broken_by"][0]
    return {**found, "run it": entry["run"], "read on": entry["link"]}


@functools.cache
def _broken_by() -> dict[str, list[str]]:
    """Return what the broken cells of the self-test do wrong, by the requirement that notices.

    It is read from their source: to import them would take a backend, and seconds.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(MUTANTS.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                continue
            said = (ast.get_docstring(node) or "").partition("\n")[0]
            for call in node.decorator_list:
                if not (isinstance(call, ast.Call) and ast.unparse(call.func) == "breaks"):
                    continue
                for word in call.args:
                    if said and isinstance(word, ast.Constant):
                        found.setdefault(str(word.value), []).append(said)
    return found
