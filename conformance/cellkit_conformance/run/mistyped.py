"""Find mistyped targets without importing them, and so without a backend.

Where the source cannot tell, a worker that imports the module does.
"""

from __future__ import annotations

import ast
import difflib
import importlib.machinery
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import cellkit
from cellkit._former_names import NAMES
from cellkit.errors import problem
from cellkit.registry.names import did_you_mean

DYNAMIC = ("sys.modules", "meta_path", "__path__")
"""Words in the source of a package that may have modules without a file."""


def check_target(name: str) -> None:
    """Refuse a module, a file or a class that is not there.

    Args:
        name: `module:Class` or `file.py:Class`.

    Raises:
        ValueError: There is none, or the name has no class.
    """
    where, _, attribute = name.rpartition(":")
    if not where or not all(part.isidentifier() for part in attribute.split(".")):
        raise problem(
            f"{name!r} does not name a class.",
            received=name,
            expected="module:Class or file.py:Class",
            fix="write the class behind the colon, such as my_lab.cells:MyCell",
        )
    file = _of_file(name, Path(where)) if where.endswith(".py") else _of_module(name, where)
    if file is None or file.suffix != ".py":
        return
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # the import says it better
        return
    names = _names(tree)
    wanted = attribute.partition(".")[0]
    if names is not None and wanted not in names:
        classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
        has = f"it has {', '.join(classes)[:200]}" if classes else "it defines no class"
        raise problem(
            f"{where} has no {wanted!r}.",
            received=name,
            expected="the name of a class in it",
            fix=(did_you_mean(wanted, classes) or _nearest(wanted, classes)) + has,
        )


def check_spec(path: Path, cells: list[str]) -> None:
    """Refuse a file of a spec that is not there, has no spec, or is for several cells.

    Args:
        path: The file.
        cells: The cells of the run.

    Raises:
        ValueError: The file cannot be the spec of this run.
    """
    expected = "a Python file that assigns `spec = cellkit.CellSpec(...)`"
    if not path.is_file() or path.suffix != ".py":
        raise problem(
            f"There is no Python file {path}.",
            received=f"--spec {path}",
            expected=expected,
            fix="check the path, which starts at the working directory",
        )
    if len(cells) != 1:
        raise problem(
            "A file of a spec is for one cell.",
            received=f"--spec {path} and {len(cells)} cells",
            expected="the one cell that the spec is about",
            fix="run the cells one by one, each with its spec",
        )
    try:
        names = _names(ast.parse(path.read_bytes()))
    except (SyntaxError, ValueError):  # the import says it better
        return
    if names is not None and "spec" not in names:
        raise problem(
            f"{path} has no `spec`.",
            received=f"--spec {path}, which binds {', '.join(sorted(names))[:200] or 'nothing'}",
            expected=expected,
            fix="name it `spec`",
        )


def _of_file(name: str, path: Path) -> Path:
    if not path.is_file():
        folder = path.parent
        files = [str(p) for p in sorted(folder.glob("*.py"))] if folder.is_dir() else []
        raise problem(
            f"There is no file {path}.",
            received=name,
            expected="a Python file and a class in it, such as cells.py:MyCell",
            fix=_nearest(str(path), files)
            or "check the path, which starts at the working directory",
        )
    return path


def _of_module(name: str, where: str) -> Path | None:
    """Find the file of a module along its packages, of which none is imported."""
    parts = where.split(".")
    places: list[str] | None = [str(Path.cwd()), *sys.path]
    init: Path | None = None
    for number, part in enumerate(parts):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[: number + 1]), places)
        if where in NAMES:
            return None
        if spec is None and (part in sys.builtin_module_names or _may_make_modules(init)):
            return None
        if spec is None:
            inside = ".".join(parts[:number])
            raise problem(
                f"There is no module {where!r}"
                + (f": {inside} has no {part!r}." if inside else "."),
                received=name,
                expected="a module that Python finds, here or installed, or a file ending in .py",
                fix=_nearest(part, _modules(places if inside else _own_folders()))
                or "check the name, or run it where the module lies",
            )
        init = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
        places = list(spec.submodule_search_locations or [])
    return init


def _may_make_modules(init: Path | None) -> bool:
    """Say whether a package may have modules that no file shows; of cellkit's own all are known."""
    if init is None or init == Path(cellkit.__file__):
        return False
    return any(word in init.read_text(encoding="utf-8", errors="replace") for word in DYNAMIC)


def _own_folders() -> list[str]:
    """List the folders on the path that somebody put there: neither Python's nor packages'."""
    libraries = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
    own = [place for place in sys.path if place and not place.startswith(libraries)]
    return list(dict.fromkeys([str(Path.cwd()), *own]))


def _modules(places: Iterable[str] | None) -> list[str]:
    """List the modules that lie in some folders."""
    folders = [Path(place) for place in places or () if Path(place).is_dir()]
    files = [path for folder in folders for path in folder.iterdir()]
    return sorted({p.stem for p in files if p.suffix == ".py" or (p / "__init__.py").is_file()})


def _nearest(word: str, known: list[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {found[0]!r}? " if found else ""


def _names(tree: ast.Module) -> set[str] | None:
    """List what a module binds anywhere at its top, or return None where that cannot be read.

    A function of the module may bind more through `globals()`, and a star brings in what it likes.
    """
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Global):
            names |= set(node.names)
    hidden = {"*", "globals", "setattr", "exec", "__getattr__", "vars", "locals"}
    return None if names & hidden else names
