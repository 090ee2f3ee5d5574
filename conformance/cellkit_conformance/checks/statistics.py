"""RNG: variables that a step moves in training, and how to put them back."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.subject import backend

SEQUENCES = {"return_sequences": True}


def statistics(layer: Any) -> list[tuple[Any, np.ndarray]]:
    """Copy the floating weights of a layer that do not train, which training may move.

    Args:
        layer: The layer, or a cell; a plain object has none.
    """
    return [
        (variable, np.array(backend.to_numpy(variable.value)))
        for variable in getattr(layer, "non_trainable_variables", ())
        if keras.backend.is_float_dtype(variable.dtype)
    ]


def moved_since(kept: list[tuple[Any, np.ndarray]]) -> list[str]:
    """Name the weights that have other values than they had.

    Args:
        kept: The result of `statistics`.
    """
    return [
        variable.path
        for variable, old in kept
        if not np.array_equal(backend.to_numpy(variable.value), old, equal_nan=True)
    ]


def restore(kept: list[tuple[Any, np.ndarray]]) -> None:
    """Give weights the values that they had.

    Args:
        kept: The result of `statistics`.
    """
    for variable, old in kept:
        variable.assign(old)


@check("RNG-16")
def statistics_run(ctx: Context) -> None:
    """Look for weights that training moves, and inference leaves."""
    found = []
    for subject in ctx.cases(every=True):
        layer, inputs = subject.layer(**SEQUENCES), subject.inputs(Example(8, 5, seed=ctx.seed))
        kept = statistics(layer)
        subject.run(layer, inputs, training=False)
        ctx.require(not moved_since(kept), f"inference moves {', '.join(moved_since(kept))}")
        subject.run(layer, inputs, training=True)
        found += moved_since(kept)
        restore(kept)
        ctx.examples += 1
    ctx.require(bool(found), "the spec claims 'running_statistics', and training moves none")
