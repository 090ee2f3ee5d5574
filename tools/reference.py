"""Writes the page reference-cells.md when the documentation is built: the equations of every cell.

A hook of MkDocs. The registry says which cells there are and where their classes are; their
docstrings become the page, with a drawing and typeset equations of the cells whose equations the
language can say. Nothing is imported but the registry, and nothing is written into docs/.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
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

In a drawing, old states and inputs enter on the left; new states and the output leave on the right.

"""
DECLARED = ("inputs", "states", "output", "sizes", "numbers")


def page() -> str:
    """Return the page in Markdown: a heading per cell, a drawing, its equations, and its class."""
    sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]
    from cellkit._distribution import is_own
    from cellkit.registry import registry

    parts = []
    for name, (declared, *others) in registry.declarations().items():
        if others:
            raise PluginError(f"The cell {name!r} is declared more than once.")
        if is_own(declared.distribution):
            path = declared.target.replace(":", ".")
            parts.append(f"## `{name}`\n\n{picture(declared.target)}::: {path}\n")
            parts.append("    options:\n      members: false\n")
    if not parts:
        raise PluginError(f"No cell is installed, so {PAGE} would be empty: run `pip install -e .`")
    return HEAD + "\n".join(parts)


def picture(target: str) -> str:
    """Return the drawing and the typeset equations of a class, or nothing where there are none.

    Args:
        target: Where the class is declared, ``"package:Class"``.
    """
    from cellkit.equations.analyse import analyse
    from cellkit.equations.declare import declare
    from cellkit.equations.draw import svg
    from cellkit.equations.typeset import mathml

    text, declared, written = equations(target)
    if not text:
        return ""
    try:
        analysis = analyse(declare(target.partition(":")[2], text, **declared))
    except ValueError:
        return ""  # equations of matrices, images or complex numbers
    parts = [f'<div class="cell-picture">{svg(analysis).strip()}</div>\n']
    if not written:  # a docstring shows them already
        parts.append(f'<div class="cell-equations">{mathml(analysis.declaration.text)}</div>\n')
    return "\n".join(parts) + "\n"


def equations(target: str) -> tuple[str, dict[str, Any], bool]:
    """Return the equations of a class, what it declares of them, and whether a docstring has them.

    Its source is read, not run.
    """
    package, _, name = target.partition(":")
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise PluginError(f"{package} can't be found.")
    for file in sorted(Path(found.origin).parent.glob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return _of_class(node)
    raise PluginError(f"{target} can't be found in the files of {package}.")


def _of_class(node: ast.ClassDef) -> tuple[str, dict[str, Any], bool]:
    declared = {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg in DECLARED}
    for statement in node.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            if statement.targets[0].id == "equations":
                return inspect.cleandoc(ast.literal_eval(statement.value)), declared, False
    block = re.search(r"```\n(.*?)```", ast.get_docstring(node) or "", flags=re.DOTALL)
    return (block[1] if block else ""), declared, True


def on_files(files: Any, config: Any) -> Any:
    """Add the page to the site."""
    files.append(File.generated(config, PAGE, content=page()))
    return files
