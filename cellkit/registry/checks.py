"""Checks of what is registered: its name, its class, its spec."""

from __future__ import annotations

import inspect
import re

from cellkit.errors import problem
from cellkit.registry.declared import Declaration
from cellkit.registry.spec import CellSpec

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def check_name(name: object, declaration: Declaration | None = None) -> None:
    """Raise a `ValueError` unless `name` is one for a cell, in lower_snake_case."""
    if not isinstance(name, str):
        raise problem(
            "A cell is registered under a name.",
            received=repr(name),
            expected="a text in lower_snake_case, such as 'my_cell'",
            fix="write @cellkit.register('my_cell'), with the name in parentheses",
        )
    if not _NAME.fullmatch(name):
        proposal = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.removesuffix("Cell")).lower()
        proposal = re.sub(r"[^a-z0-9]+", "_", proposal).strip("_0123456789") or "my_cell"
        raise problem(
            f"{name!r} is not a name for a cell.",
            received=f"{name!r}" + (f" from {declaration}" if declaration else ""),
            expected="lower_snake_case: lower-case letters, digits, single underscores, a letter "
            "first",
            fix=f"use for example {proposal!r}",
        )


def check_class(name: str, cls: object) -> None:
    """Raise a `ValueError` unless `cls` is the class of a cell."""
    if not isinstance(cls, type):
        raise problem(
            f"The cell {name!r} is not a class.",
            received=f"{cls!r}, a {type(cls).__name__}",
            expected="the class of a cell",
            fix="register the class itself, not an object of it or a function that makes one",
        )
    lacking = [] if callable(getattr(cls, "call", None)) else ["call(inputs, states)"]
    lacking += [] if _has_state_size(cls) else ["state_size"]
    if lacking:
        raise problem(
            f"The class of the cell {name!r} is not a cell.",
            received=f"{target(cls)} without {' and '.join(lacking)}",
            expected="call(inputs, states) -> (output, new_states), and state_size as an "
            "attribute, as a property, or set in the constructor",
            fix="add what is missing, or derive the class from cellkit.Cell",
        )


def _has_state_size(cls: type) -> bool:
    """Return whether objects of a class can be expected to have a `state_size`.

    Most cells set it in the constructor, so the class doesn't show it, but the names that its
    methods use do. `create` looks at the object itself.
    """
    for base in cls.__mro__:
        for name, value in vars(base).items():
            code = getattr(inspect.unwrap(value) if callable(value) else None, "__code__", None)
            if name == "state_size" or "state_size" in getattr(code, "co_names", ()):
                return True
    return "state_size" in inspect.get_annotations(cls)


def checked_spec(name: str, cls: type, spec: CellSpec | None) -> CellSpec | None:
    """Return the spec of a class, its own unless `spec` is given, completed by the class."""
    spec = getattr(cls, "spec", None) if spec is None else spec
    if spec is not None and not isinstance(spec, CellSpec):
        raise problem(
            f"The spec of the cell {name!r} is not a cellkit.CellSpec.",
            received=f"{spec!r}, a {type(spec).__name__}",
            expected="a cellkit.CellSpec, or None",
            fix="make the attribute `spec` of the class a cellkit.CellSpec, or pass one to "
            "cellkit.register(name, cls, spec=...)",
        )
    return None if spec is None else spec.completed(cls)


def target(cls: type) -> str:
    """Return the name of a class as ``"module:Class"``."""
    return f"{cls.__module__}:{cls.__qualname__}"
