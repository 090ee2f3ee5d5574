"""The reference of a cell that is written by hand: the equations that its docstring shows."""

from __future__ import annotations

import functools
import inspect
import re
from collections import UserDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cellkit.equations.declare import declare
from cellkit.equations.reference import reference_of
from cellkit.errors import problem
from cellkit.registry.symbols import WeightMap

__all__ = ["shown_equations", "shown_reference", "shown_states"]


def shown_equations(cls: type) -> str | None:
    """Return the equations in the docstring of a class: its first fenced block, or None.

    Args:
        cls: The class of a cell.
    """
    block = re.search(r"```\n(.*?)```", inspect.getdoc(cls) or "", re.DOTALL)
    return block[1] if block else None


def shown_states(cls: type) -> tuple[str, ...]:
    """Return the states in the order of the docstring's equations, `h` before others.

    Args:
        cls: The class of a cell.
    """
    text = shown_equations(cls) or ""
    names = dict.fromkeys(re.findall(r"^\s*(\w+)'\s*=", text, re.MULTILINE))
    return tuple(sorted(names, key=lambda name: name != "h"))


def shown_reference(
    cls: type, symbols: WeightMap, states: tuple[str, ...] = ()
) -> Callable[[Any, Any, Any, Any], tuple[Any, Any]] | None:
    """Return the equations of a docstring as a reference, as a `cellkit.CellSpec` takes it.

    They are read when they are first asked for. A weight that a cell does without, such as a bias
    or peepholes, counts as zero.

    Args:
        cls: The class of a cell.
        symbols: The map between its weights and the letters of the equations.
        states: The names of the states in the order of the cell. Empty: as the equations have them.

    Returns:
        The function ``(w, inputs, states, config) -> (output, new_states)``: one step. None where
        Python keeps no docstrings (``-OO``).

    Raises:
        ValueError: The docstring shows no equations.
    """
    if cls.__doc__ is None and not __debug__:
        return None
    text = shown_equations(cls)
    if text is None:
        raise problem(
            f"The spec of {cls.__name__} has no reference.",
            received="no reference=..., and a docstring without equations",
            expected="a function (w, inputs, states, config) -> (output, new_states) in NumPy, "
            "or equations between two lines of ``` in the docstring",
            fix="write the equations of the paper into the docstring; reference=None if there "
            "is nothing to compare with",
        )

    @functools.cache
    def step() -> Callable[[Any, Any, Any, Any], tuple[Any, Any]]:
        numbers = _numbers(cls, text)
        return reference_of(declare(cls.__name__, text, states=states or None, numbers=numbers))

    def reference(w: Any, inputs: Any, states: Any, config: Any) -> tuple[Any, Any]:
        """Compute one step from the equations of the docstring."""
        return step()(_Letters(w, symbols.symbols), inputs, states, config)

    return reference


def _numbers(cls: type, text: str) -> dict[str, float]:
    """Return the numbers of the constructor that the equations speak of, with their defaults."""
    found = {}
    for base in reversed(cls.__mro__):
        if "__init__" in vars(base):
            for name, parameter in inspect.signature(vars(base)["__init__"]).parameters.items():
                if isinstance(parameter.default, float) and re.search(rf"\b{name}\b", text):
                    found[name] = parameter.default
    return found


class _Letters(UserDict[str, Any]):
    """Weights by their letters, with zero for those that the cell does without."""

    def __init__(self, w: Mapping[str, Any], known: Iterable[str]) -> None:
        super().__init__(w)
        self._known = frozenset(known)

    def __missing__(self, letter: str) -> float:
        if letter in self._known:
            return 0.0
        raise KeyError(letter)
