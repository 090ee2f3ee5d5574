"""Portions of large grids of tests: all of them on PyTorch, a part where each is compiled first.

TensorFlow and JAX take other parts, so that a case missing on one runs on two others.
"""

from collections.abc import Sequence
from typing import Any

import keras

BACKEND = keras.backend.backend()
# The first one that a backend takes.
START = {"tensorflow": 0, "jax": 1}


def portion(values: Sequence[Any], of: int = 3) -> list[Any]:
    """Return all values on PyTorch, and every third (or other part) of them elsewhere."""
    return list(values) if BACKEND == "torch" else list(values)[START.get(BACKEND, 0) :: of]


def pairs(rows: Sequence[Any], columns: Sequence[Any], each: int = 2) -> list[tuple[Any, Any]]:
    """Return every row with every column on PyTorch, with `each` of them in turn elsewhere."""
    if BACKEND == "torch":
        return [(row, column) for row in rows for column in columns]
    start, count = START.get(BACKEND, 0), len(columns)
    return [
        (row, columns[(start + each * i + k) % count])
        for i, row in enumerate(rows)
        for k in range(each)
    ]
