"""Trains every registered cell when the documentation is built, for the page docs/tour.md.

A hook of MkDocs: it runs `examples/train_every_cell.py` once, with few steps, and puts what came
out into the page, the table in the place of its marker and the plot beside the page. Nothing is
written into docs/, so the page can't be out of date.
"""

from __future__ import annotations

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
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "examples" / "train_every_cell.py"
PAGE = "tour.md"
PLOT = "tour.png"
MARKER = "<!-- the table of all cells -->"
STEPS = 20
# A page of the documentation should not depend on the order in which backends are tried.
BACKENDS = ("torch", "tensorflow", "jax")
HEAD = """| cell | data | accuracy on new data | guessing can't reach | ms per step | parameters |
|---|---|---:|---:|---:|---:|
"""

log = logging.getLogger("mkdocs.hooks.tour")


@functools.cache
def results() -> tuple[dict[str, Any], bytes]:
    """Train every cell; return the results and the plot."""
    backend = next((name for name in BACKENDS if importlib.util.find_spec(name)), None)
    if backend is None:
        raise PluginError("The page tour.md trains every cell: install PyTorch, TensorFlow or JAX.")
    log.info("Training every cell for %s", PAGE)
    with tempfile.TemporaryDirectory() as folder:
        found, plot = Path(folder, "cells.json"), Path(folder, PLOT)
        command = [sys.executable, SCRIPT, "--quick", "--backend", backend, "--steps", str(STEPS)]
        done = subprocess.run(
            [*command, "--json", found, "--plot", plot],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "plugins")))},
            capture_output=True,
            text=True,
            check=False,
        )
        # With so few steps a cell may still be guessing, which is exit code 1.
        if not found.exists():
            raise PluginError(f"{SCRIPT.name} failed:\n{done.stdout}{done.stderr}")
        return json.loads(found.read_text(encoding="utf-8")), plot.read_bytes()


def table(cells: list[dict[str, Any]]) -> str:
    """Return the table in Markdown, the most accurate first, by data."""
    rows = [
        f"| `{row['cell']}` | {row['data'].replace('_', ' ')} | {row['accuracy']:.2f} | "
        f"{row['needed']:.2f} | {row['milliseconds']:.0f} | {row['weights']:,} |"
        for row in sorted(cells, key=lambda row: (row["data"], -row["accuracy"]))
    ]
    return HEAD + "\n".join(rows)


def on_files(files: Any, config: Any) -> Any:
    """Add the plot to the site."""
    files.append(File.generated(config, PLOT, content=results()[1]))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put the table into the page."""
    if page.file.src_uri != PAGE:
        return markdown
    if MARKER not in markdown:
        raise PluginError(f"{PAGE} has lost the line {MARKER}")
    found = results()[0]
    words = (
        f"{len(found['cells'])} cells, {found['steps']} steps of {found['batch']} each, "
        f"on the {found['backend']} backend, when this page was built."
    )
    return markdown.replace(MARKER, f"{words}\n\n{table(found['cells'])}\n\n![Plot]({PLOT})")
