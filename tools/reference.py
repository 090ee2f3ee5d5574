"""Writes the page reference-cells.md when the documentation is built: the equations of every cell.

A hook of MkDocs. The registry says which cells there are and where their classes are; their
docstrings become the page. Nothing is imported but the registry, and nothing is written into docs/.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGE = "reference-cells.md"
HEAD = """# Cells, one by one

The equations of every cell, its arguments, its shapes, and where it departs from its paper. The
[table](cells.md) compares them.

"""


def page() -> str:
    """Return the page in Markdown: a heading per cell, and the directive for its class."""
    sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]
    from cellkit._distribution import is_own
    from cellkit.registry import registry

    parts = []
    for name, (declared, *others) in registry.declarations().items():
        if others:
            raise PluginError(f"The cell {name!r} is declared more than once.")
        if is_own(declared.distribution):
            path = declared.target.replace(":", ".")
            parts.append(f"## `{name}`\n\n::: {path}\n    options:\n      members: false\n")
    if not parts:
        raise PluginError(f"No cell is installed, so {PAGE} would be empty: run `pip install -e .`")
    return HEAD + "\n".join(parts)


def on_files(files: Any, config: Any) -> Any:
    """Add the page to the site."""
    files.append(File.generated(config, PAGE, content=page()))
    return files
