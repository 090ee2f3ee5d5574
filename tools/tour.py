"""Puts what every cell learned into the page docs/tour.md, and makes those results.

    python tools/tour.py             # trains the cells that benchmarks/results/tour.json lacks
    python tools/tour.py --again     # trains all of them anew

As a hook of MkDocs it fills the page from that file, and names the cells that the file lacks:
a build trains nothing.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "examples" / "train_every_cell.py"
RESULTS = ROOT / "benchmarks" / "results" / "tour.json"
PAGE = "tour.md"
MARKER = "<!-- the table of all cells -->"
STEPS = 60
LONGEST = 960
# A page of the documentation should not depend on the order in which backends are tried.
BACKENDS = ("torch", "tensorflow", "jax")
HEAD = """| Cell | Data | Accuracy | Guessing | Steps | ms a step | Parameters |
|---|---|---|---:|---:|---:|---:|
"""

log = logging.getLogger("mkdocs.hooks.tour")
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]


def own_cells() -> list[str]:
    """Return the names of the project's cells."""
    from cellkit._distribution import is_own
    from cellkit.registry import registry

    return [name for name, (d, *_) in registry.declarations().items() if is_own(d.distribution)]


def train(names: list[str]) -> dict[str, Any]:
    """Train some cells, and return what the script says of them."""
    backend = next((name for name in BACKENDS if importlib.util.find_spec(name)), None)
    if backend is None:
        raise PluginError("The page tour.md trains every cell: install PyTorch, TensorFlow or JAX.")
    log.info("Training %s for %s", ", ".join(names), PAGE)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "cells.json")
        command = [sys.executable, SCRIPT, "--quick", "--backend", backend, "--steps", str(STEPS)]
        command += ["--longest", str(LONGEST), "--cells", ",".join(names)]
        paths = (str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", ""))
        done = subprocess.run(
            [*command, "--json", found, "--plot", Path(folder, "tour.png")],
            # One thread: small products that are shared among several wait for whoever is late.
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        # A cell may still be guessing, which is exit code 1: the page says so.
        if not found.exists():
            raise PluginError(f"{SCRIPT.name} failed:\n{done.stdout}{done.stderr}")
        return json.loads(found.read_text(encoding="utf-8"))


def kept() -> dict[str, Any]:
    """Return the results that are committed."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"cells": []}


@functools.cache
def results() -> dict[str, Any]:
    """Return the results of all cells, and train those that are not committed yet."""
    found, names = kept(), own_cells()
    lacking = sorted(set(names) - {row["cell"] for row in found["cells"]})
    made = train(lacking) if lacking else found
    rows = [row for row in found["cells"] if row["cell"] in names]
    return {**made, "cells": rows + (made["cells"] if lacking else [])}


def table(rows: list[dict[str, Any]]) -> str:
    """Return a table in Markdown, the most accurate first, by data."""
    lines = []
    for row in sorted(rows, key=lambda row: (row["data"], -row["accuracy"])):
        bar = f'<span class="bar" style="--share: {row["accuracy"]:.3f}"></span>'
        lines.append(
            f"| [`{row['cell']}`](cells/{row['cell']}.md) | {row['data'].replace('_', ' ')} | "
            f"{bar} {row['accuracy']:.2f} | {row['needed']:.2f} | {row['steps']} | "
            f"{row['milliseconds']:.0f} | {row['weights']:,} |"
        )
    return HEAD + "\n".join(lines)


def by_family(rows: list[dict[str, Any]]) -> str:
    """Return a table for each family, and under it the cells that did not learn."""
    from cellkit import facts
    from cellkit.registry import FAMILIES
    from cellkit.registry.guide import title

    families: dict[str, list[dict[str, Any]]] = {family: [] for family in FAMILIES}
    for row in rows:
        families.setdefault(facts.read(row["cell"])["family"] or "others", []).append(row)
    parts = []
    for family, members in families.items():
        if not members:
            continue
        parts.append(f"## {title(family)}\n\n{table(members)}\n")
        behind = [row for row in members if row["accuracy"] < row["needed"]]
        for row in behind:
            use = facts.read(row["cell"])["use_when"] or ""
            parts.append(
                f"`{row['cell']}` is still guessing after {row['steps']} steps: this task is none "
                f"that it is made for. {use}\n"
            )
    return "\n".join(parts)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put the tables into the page."""
    if page.file.src_uri != PAGE:
        return markdown
    if MARKER not in markdown:
        raise PluginError(f"{PAGE} has lost the line {MARKER}")
    found, names = kept(), own_cells()
    rows = [row for row in found["cells"] if row["cell"] in names]
    lacking = sorted(set(names) - {row["cell"] for row in rows})
    words = (
        f"{len(rows)} cells, at least {found['steps']} steps of {found['batch']} each, "
        f"on the {found['backend']} backend."
    )
    if lacking:
        links = ", ".join(f"[`{name}`](cells/{name}.md)" for name in lacking)
        words += f" Not trained for this page yet: {links}."
    return markdown.replace(MARKER, f"{words}\n\n{by_family(rows)}")


def main() -> int:
    """Train what is lacking, and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--again", action="store_true", help="train all cells anew")
    found = train(own_cells()) if parser.parse_args().again else results()
    found["cells"].sort(key=lambda row: row["cell"])
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"Wrote {RESULTS.relative_to(ROOT)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
