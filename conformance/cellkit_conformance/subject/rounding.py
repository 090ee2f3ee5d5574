"""Data in double precision for a reference, and what it costs where they are rounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cellkit_conformance.subject.tolerance import Tolerance
from cellkit_conformance.trees import Tree, map_trees

DRAWS = 6
"""Random roundings of the data by which the effect of rounding is measured."""

LOSS = 8.0
"""Roundings that a step may chain, those of the tolerance model."""


def widened(states: Tree) -> Tree:
    """Return states in which float32 is float64, as a reference takes them."""
    return map_trees(lambda a: a.astype(np.float64) if a.dtype == np.float32 else a, states)


def rounded(tree: Tree, width: float, draw: Callable[[tuple[int, ...]], Any]) -> Tree:
    """Return data of which each floating entry is off by a part of itself.

    Args:
        tree: Arrays.
        width: The largest part.
        draw: Gives numbers from -1 to 1 for a shape.
    """

    def off(array: Any) -> Any:
        array = np.asarray(array)
        return array * (1 + width * draw(array.shape)) if array.dtype.kind in "fc" else array

    return map_trees(off, tree)


def effect_of_rounding(
    step: Callable[[dict[str, Any], Tree, Tree], Tree],
    weights: Mapping[str, Any],
    inputs: Tree,
    states: Tree,
    width: float,
    rng: np.random.Generator,
) -> tuple[Tree, Tree]:
    """Run a step as it is, and from weights, inputs and states that are rounded at random.

    Args:
        step: In double precision, of weights, inputs and states.
        weights: By symbol.
        inputs: In double precision.
        states: In double precision.
        width: The largest part of itself that an entry is off by.
        rng: Draws the roundings.

    Returns:
        What the step gives, and in the same structure the largest distance from it that was met in
        each row: one entry alone may have had luck in few draws.
    """

    def near(tree: Tree) -> Tree:
        return rounded(tree, width, lambda shape: rng.uniform(-1, 1, shape))

    def further(moved: np.ndarray, want: Any, other: Any) -> np.ndarray:
        return np.maximum(moved, np.abs(1.0 * np.asarray(other) - want))

    def of_rows(moved: np.ndarray) -> np.ndarray:
        return moved.max(axis=tuple(range(1, moved.ndim)), keepdims=True, initial=0.0)

    with np.errstate(all="ignore"):
        want = map_trees(np.asarray, step(dict(weights), inputs, states))
        moved = map_trees(lambda a: np.zeros(a.shape), want)
        for _ in range(DRAWS):
            other = step({k: near(w) for k, w in weights.items()}, near(inputs), near(states))
            moved = map_trees(further, moved, want, other)
        return want, map_trees(of_rows, moved)


def allowance(move: np.ndarray, tolerance: Tolerance) -> np.ndarray:
    """Say how much further a step may be off that chains roundings, one for each term of a sum.

    Args:
        move: The distance that one rounding of the data makes.
        tolerance: The limit where rounding has no more effect than usual.
    """
    return LOSS * float(np.sqrt(tolerance.fan_in)) * move
