"""Portions of the tests: nearly all on PyTorch, a part where each is compiled first.

TensorFlow and JAX take other parts, so that a case missing on one runs on two others. What every
cell does on every backend is proved by the conformance suite.
"""

import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import pytest

BACKEND = keras.backend.backend()
# The first one that a backend takes.
START = {"tensorflow": 0, "jax": 1}
SHARES = {"layers": 4, "engines": 4, "conformance": 12}
"""One test in so many of a room is TensorFlow's and another JAX's; of other rooms one in six.

The layer and its engines differ most between backends, the conformance suite hardly: `make conform`
runs all of its checks on each.
"""
OWN = 2
"""One case in so many is asked of a test in a file that is named after the backend."""
WHOLE = {"defects"}
"""Rooms that every backend takes as a whole: what they are about differs between backends."""


def dealt(tests: Iterable[tuple[Path, str]]) -> set[str]:
    """Choose the tests that are dealt to this backend, the same in every process and run.

    Args:
        tests: The file and the name of each.

    Returns:
        The names of this backend's. Of a test in a file of its own there is one case at least.
    """
    names, own = set(), []
    for path, name in tests:
        room = path.parent.name
        if path.stem.endswith(f"_{BACKEND}"):
            own.append(name)
        elif room in WHOLE or _number(name) % SHARES.get(room, 6) == START[BACKEND]:
            names.add(name)
    return names | some(own, OWN)


def some(names: Iterable[str], of: int) -> set[str]:
    """Return a part of the cases of each test, one at least."""
    tests = defaultdict(list)
    for name in names:
        tests[name.partition("[")[0]].append(name)
    return {
        name
        for cases in tests.values()
        for name in [case for case in cases if is_in_part(case, of)] or [min(cases)]
    }


def full(dear: bool) -> list[pytest.MarkDecorator]:
    """Return the marks of a case: one that is dear runs where everything is asked for."""
    return [pytest.mark.full] if dear else []


def is_in_part(name: str, of: int) -> bool:
    """Say whether a test is in the part of the tests that is one in `of`, on every backend."""
    return _number(f"part {name}") % of == 0


def _number(name: str) -> int:
    return zlib.crc32(name.encode())


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
