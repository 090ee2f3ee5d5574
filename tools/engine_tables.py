"""Write the tables of engines in docs/speed.md from what the engines say of themselves.

    python tools/engine_tables.py            # writes the tables
    python tools/engine_tables.py --check    # exit code 1 if they are not what it would write

Each backend is asked in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "speed.md"
BACKENDS = {"torch": "PyTorch", "jax": "JAX", "tensorflow": "TensorFlow"}
PLACE = re.compile(
    r"(<!-- engines: written by tools/engine_tables.py -->\n).*?(<!-- engines: end -->)", re.DOTALL
)

Facts = list[dict[str, Any]]


def facts() -> Facts:
    """Return what the engines of this process' backend say."""
    from cellkit import engines

    return [
        {
            "name": engine.name,
            "summary": engine.summary,
            "cells": engine.cells,
            "needs": [need.name for need in engine.needs],
            "auto": [need.name for need in (*engine.worth, *engine.pays)],
            "takes": [option for option in engines.OPTIONS if engine.takes(option)],
            "options": engines.OPTIONS,
        }
        for engine in engines.ENGINES.values()
    ]


def facts_of(backend: str) -> Facts:
    """Return what the engines of a backend say, from a process of its own."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")]),
    }
    done = subprocess.run(
        [sys.executable, __file__, "--facts"],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    found: Facts = json.loads(done.stdout)
    return found


def table(headings: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def overview(engines: Facts) -> str:
    """Return the table of all engines, which PyTorch has."""
    rows = [[f"`{e['name']}`", e["summary"], e["cells"]] for e in engines]
    return table(["Engine", "What it does", "Cells"], rows)


def section(backend: str, engines: Facts) -> str:
    """Return what the engines of a backend need, and the options that they take."""
    needs = [
        [f"`{e['name']}`", "; ".join(e["needs"]) or "nothing", "; ".join(e["auto"])]
        for e in engines
    ]
    options = [
        [text, *("yes" if option in e["takes"] else "–" for e in engines)]
        for option, text in engines[0]["options"].items()
    ]
    names = [f"`{e['name']}`" for e in engines]
    return "\n".join(
        [
            f"### On {BACKENDS[backend]}\n",
            table(["Engine", "Needs", 'and for `"auto"`'], needs),
            table(["Option", *names], options),
        ]
    )


def main() -> int:
    """Write the tables, or compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, don't write")
    parser.add_argument("--facts", action="store_true", help="print what this backend's say")
    options = parser.parse_args()
    if options.facts:
        print(json.dumps(facts()))
        return 0
    found = {backend: facts_of(backend) for backend in BACKENDS}
    text = "\n".join(
        [overview(found["torch"]), *(section(backend, found[backend]) for backend in BACKENDS)]
    )
    there = PAGE.read_text(encoding="utf-8")
    page = PLACE.sub(lambda m: f"{m[1]}\n{text}\n{m[2]}", there)
    shown = PAGE.relative_to(ROOT)
    if not options.check:
        PAGE.write_text(page, encoding="utf-8")
        print(f"Wrote {shown}.")
        return 0
    if page != there:
        print(f"{shown} is out of date. Run `python tools/engine_tables.py`.")
        return 1
    print(f"{shown} says what the engines say.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
