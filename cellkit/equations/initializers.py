"""Initializers of the weights of equations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from cellkit.equations.analyse import Analysis
from cellkit.errors import problem
from cellkit.registry.names import listed


def checked_initializers(initializers: Any, analyses: list[Analysis]) -> dict[str, Any]:
    """Return the initializers that a class declares, by the letters of its weights."""
    known = dict.fromkeys(p for analysis in analyses for p in analysis.parameters)
    fits = isinstance(initializers, Mapping) and all(name in known for name in initializers)
    if not fits:
        raise problem(
            "The initializers of equations are not those of their weights.",
            received=f"initializers={initializers!r}",
            expected=f"a dict from letters, out of {listed(known)}, to initializers",
            fix="write for example initializers={'b_f': 'ones'}",
        )
    return {name: initializer(value) for name, value in initializers.items()}


def initializer(value: Any) -> Any:
    """Return a Keras initializer; a number stands for a constant."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return keras.initializers.Constant(value) if number else keras.initializers.get(value)


def _fresh(given: Any) -> Any:
    """Return a copy of an initializer, so that two weights don't draw the same numbers."""
    known = isinstance(given, keras.initializers.Initializer)
    return given.clone() if known else given


def joined(given: list[Any], widths: list[int]) -> Any:
    """Return the initializer of a weight whose blocks of columns have initializers of their own.

    Args:
        given: The initializers of the blocks.
        widths: Their widths.
    """
    chosen = [keras.initializers.get(i) for i in given]
    if len(chosen) == 1:
        return chosen[0]

    def draw(shape: Any, dtype: Any = None) -> Any:
        parts = [
            _fresh(i)((*shape[:-1], width), dtype=dtype)
            for i, width in zip(chosen, widths, strict=True)
        ]
        return keras.ops.concatenate(parts, axis=-1)

    return draw
