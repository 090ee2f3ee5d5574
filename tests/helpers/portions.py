"""Portions of the tests: all of them on PyTorch, a part where each is compiled first.

TensorFlow and JAX take other parts, so that a case missing on one runs on two others. What every
cell does on every backend is proved by the conformance suite.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

BACKEND = keras.backend.backend()
# The first one that a backend takes.
START = {"tensorflow": 0, "jax": 1}
SHARES = {"layers": 2, "engines": 2, "conformance": 6}
"""One test in so many of a room is TensorFlow's and another JAX's; of other rooms one in three.

The layer and its engines differ most between backends, the conformance suite hardly: `make conform`
runs all of its checks on each.
"""
WHOLE = {"defects"}
"""Rooms that every backend takes as a whole: what they are about differs between backends."""


def is_dealt(path: Path, name: str) -> bool:
    """Say whether a test is dealt to this backend, the same in every process and run.

    Args:
        path: The test's file; one that is named after the backend is its own.
        name: The test's name.
    """
    room = path.parent.name
    if room in WHOLE or path.stem.endswith(f"_{BACKEND}"):
        return True
    return zlib.crc32(name.encode()) % SHARES.get(room, 3) == START.get(BACKEND, 0)


def is_in_part(name: str, of: int) -> bool:
    """Say whether a test is in the part of the tests that is one in `of`, on every backend."""
    return zlib.crc32(f"part {name}".encode()) % of == 0


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
