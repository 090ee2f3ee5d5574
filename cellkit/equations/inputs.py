"""Inputs of equations: the structure of their names, and what a layer gives in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def shapes_of(structure: Any, given: Any) -> list[Any] | None:
    """Return shapes in the order of the names, or None where they have another structure.

    Args:
        structure: The names: a text, or texts in tuples, lists and dicts.
        given: A shape in the place of each name.
    """
    if isinstance(structure, str):
        return [given]
    if isinstance(structure, Mapping):
        if not (isinstance(given, Mapping) and set(given) == set(structure)):
            return None
        pairs = [(inner, given[key]) for key, inner in structure.items()]
    else:
        if not (isinstance(given, (list, tuple)) and len(given) == len(structure)):
            return None
        pairs = list(zip(structure, given, strict=True))
    found: list[Any] = []
    for inner, part in pairs:
        shapes = shapes_of(inner, part)
        if shapes is None:
            return None
        found += shapes
    return found


def tensors_of(structure: Any, given: Any) -> list[Any]:
    """Return tensors, which have the structure of the names, in the order of the names."""
    if isinstance(structure, str):
        return [given]
    if isinstance(structure, Mapping):
        pairs = [(inner, given[key]) for key, inner in structure.items()]
    else:
        pairs = list(zip(structure, given, strict=True))
    return [x for inner, part in pairs for x in tensors_of(inner, part)]


def map_names(function: Callable[[str], Any], structure: Any) -> Any:
    """Return the structure with what `function` makes of each name, in their order."""
    if isinstance(structure, str):
        return function(structure)
    if isinstance(structure, Mapping):
        return {key: map_names(function, inner) for key, inner in structure.items()}
    return [map_names(function, inner) for inner in structure]
