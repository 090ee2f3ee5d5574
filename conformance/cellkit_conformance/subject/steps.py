"""One step of a cell, called as a layer calls it."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from cellkit_conformance.trees import Tree, is_branch, rebuild


def call_cell(cell: Any, inputs: Tree, states: Tree, training: bool = False) -> Any:
    """Call a cell as a layer would: with `training` only where its `call` knows it."""
    parameters = inspect.signature(cell.call).parameters
    takes = "training" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    call = cell if callable(cell) else cell.call
    return call(inputs, states, training=training) if takes else call(inputs, states)


def like_states(states: Tree, new: Tree) -> Tree:
    """Put the one state of a cell that returns it bare, as its `state_size` is, where a layer does.

    Args:
        states: The states that the cell was given.
        new: The states that it returned.
    """
    alone = isinstance(states, (list, tuple)) and len(states) == 1 and not is_branch(states[0])
    return rebuild(states, [new]) if alone and not is_branch(new) else new


def has_unbuilt(cell: Any) -> bool:
    """Say whether a layer that a cell holds has not been built; Keras lists them there."""
    return any(not layer.built for layer in getattr(cell, "_layers", ()))


def trace_cell(cell: Any, inputs: Tree, states: Tree, training: bool = False) -> Any:
    """Find the shapes and dtypes of a step's result: on JAX without compiling anything.

    Args:
        cell: The cell.
        inputs: Tensors of one step.
        states: Tensors.
        training: The training flag.

    Returns:
        What the cell returns, of leaves that have a shape and a dtype.
    """
    if keras.backend.backend() != "jax":
        return call_cell(cell, inputs, states, training)
    import jax

    with keras.StatelessScope():  # variables that a step moves stay as they were
        return jax.eval_shape(lambda x, s: call_cell(cell, x, s, training), inputs, states)
