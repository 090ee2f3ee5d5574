"""`cellkit new`: a complete plugin project around one cell, which passes as it is."""

from __future__ import annotations

import datetime
import importlib.util
import json
import keyword
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from cellkit import registry
from cellkit.equations import command
from cellkit.equations.source import module_source
from cellkit.errors import problem

TEMPLATES = Path(__file__).with_name("templates")


def new(
    name: Annotated[str, typer.Argument(help="Of the cell, such as my_cell.")],
    path: Annotated[
        Path | None,
        typer.Option(help="The folder to make.", show_default="cellkit-NAME, here"),
    ] = None,
    equations: Annotated[
        Path | None,
        typer.Option(help="A file with a text of equations, which the cell is made of."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> int:
    """Write a plugin project: one cell with its reference and spec, tests, CI, README, licence."""
    _check(name)
    project = name if name.startswith("cellkit") else f"cellkit_{name}"
    project = project.replace("_", "-")
    folder = path or Path(project)
    text = None if equations is None else command.read(equations)
    written = write_project(name, project, folder, text)
    if as_json:
        print(json.dumps({"folder": str(folder), "files": [str(file) for file in written]}))
    if as_json or quiet:
        return 0
    print("\n".join(str(file) for file in written))
    print(
        f"\nNext:\n  cd {folder}\n  pip install -e '.[test]'\n  pytest\n"
        f"  cellkit conform {name} --html report.html\n"
        + (f"Then put your equation into {name}.py." if text is None else "")
    )
    return 0


def write_project(
    name: str, project: str, folder: Path, equations: str | None = None
) -> list[Path]:
    """Write the files of a project.

    Args:
        name: Of the cell and its module.
        project: Of the distribution.
        folder: Folder of the project; it is made, and must be empty.
        equations: The text that the cell is made of; by default it shows how one is written by
            hand.

    Returns:
        The files.

    Raises:
        ValueError: The folder holds something, or the equations make no sense.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise problem(
            f"{folder} is there already, and nothing is overwritten.",
            received=str(folder),
            expected="a folder that does not exist or is empty",
            fix="choose another with --path",
        )
    # GitHub writes its own {{ }}, so the templates write << >>.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # most runs need none

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        variable_start_string="<<",
        variable_end_string=">>",
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (no markup; the name is an identifier)
    )
    cls, year = class_name(name), datetime.datetime.now(datetime.UTC).year
    values = {
        "name": name,
        "project": project,
        "class_name": cls,
        "year": year,
        "equations": equations is not None,
    }
    cell = None
    if equations is not None:
        command.understood(cls, equations, {})
        cell = module_source(cls, name, equations, year)
    files = {
        "pyproject.toml": "pyproject.toml.j2",
        f"{name}.py": "cell.py.j2",
        f"tests/test_{name}.py": "test_cell.py.j2",
        ".github/workflows/ci.yml": "ci.yml.j2",
        "README.md": "README.md.j2",
        "LICENSE": "LICENSE.j2",
        ".gitignore": "gitignore.j2",
    }
    written = []
    for target, template in files.items():
        file = folder / target
        file.parent.mkdir(parents=True, exist_ok=True)
        content = environment.get_template(template).render(values)
        if cell is not None and target == f"{name}.py":
            content = cell
        file.write_text(content, encoding="utf-8")
        written.append(file)
    return written


def class_name(name: str) -> str:
    """Make the name of the class: "my_cell" and "my" give "MyCell".

    Args:
        name: Of the cell.
    """
    words = [word for word in name.split("_") if word and word != "cell"]
    return "".join(word[0].upper() + word[1:] for word in words) + "Cell"


def _check(name: str) -> None:
    """Refuse what cannot be the name of a module and of a cell."""
    reason = ""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        reason = "lower-case letters, digits and underscores, the first a letter; no keyword"
    elif name in registry.declarations():
        reason = "a name that no installed cell has"
    elif name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        reason = "a name that no installed module has: it would hide this one or be hidden by it"
    if reason:
        raise problem(
            f"{name!r} cannot be the name of a new cell.",
            received=repr(name),
            expected=reason,
            fix="choose another, such as my_cell",
        )
