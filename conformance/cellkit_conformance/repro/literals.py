"""Values as the text of a program: arrays, constructor arguments, paths into structures."""

from __future__ import annotations

import ast
import re
import sys
from typing import Any

import numpy as np

from cellkit_conformance.trees import Tree, children

LINE = 84
"""The longest array that is written on one line."""

MANY = 90
"""Numbers from which on an array is written flat, and reshaped."""


def access(tree: Tree, path: str) -> str:
    """Write the path of a leaf as an index expression."""
    text, node = "", tree
    for part in path.split("/") if path else ():
        key = next(key for key, _ in children(node) if str(key) == part)
        text += f"[{key!r}]"
        node = node[key]
    return text


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Say whether two arrays have the same shape, kind and entries; NaN equals NaN."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
        return False
    return bool(np.all((a == b) | ((a != a) & (b != b))))


def tensor(array: np.ndarray) -> str:
    """Write an array as a call of the script's `tensor`."""
    dtype = "" if array.dtype == np.float32 else f', "{array.dtype}"'
    return f"tensor({_values(array)}{dtype})"


def plain_array(array: np.ndarray) -> str:
    """Write an array as an expression that makes a NumPy array."""
    text = _values(array)
    if text.startswith(("np.zeros", "np.full")):  # which take the dtype themselves
        return f'{text[:-1]}, "{array.dtype}")'
    return f'np.array({text}, "{array.dtype}")'


def _values(array: np.ndarray) -> str:
    if array.size == 0:
        return f"np.zeros({array.shape})"
    with np.printoptions(nanstr="np.nan", infstr="np.inf", threshold=sys.maxsize, linewidth=92):
        if array.size > 8 and equal(array, np.full_like(array, array.flat[0])):
            value = np.array2string(array.reshape(-1)[:1], floatmode="unique")[1:-1]
            return f"np.full({array.shape}, {value})"
        # Beyond eight digits there is nothing that a layer in float32 could agree with.
        if array.size > MANY:
            flat = np.array2string(array.reshape(-1), separator=", ", floatmode="unique")
            return f"np.reshape({flat}, {array.shape})"
        if array.dtype == np.float64:
            text = np.array2string(array, separator=", ", floatmode="maxprec", precision=8)
        else:
            text = np.array2string(array, separator=", ", floatmode="unique")
    line = re.sub(r"\s*([\[\],])\s*", r"\1", text).replace(",", ", ")
    return line if len(line) <= LINE else text


def index(at: tuple[Any, ...]) -> str:
    """Write an index of slices from or up to something, numbers and arrays of bools.

    Args:
        at: The index.
    """
    parts = []
    for entry in at:
        if isinstance(entry, slice):
            ends = ("" if end is None else str(end) for end in (entry.start, entry.stop))
            parts.append(":".join(ends))
        else:
            parts.append(
                f"np.array({entry.tolist()})" if isinstance(entry, np.ndarray) else repr(entry)
            )
    return ", ".join(parts)


def is_literal(value: Any) -> bool:
    """Say whether a value comes back from its `repr`."""
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, TypeError):
        return False
