"""Shapes and dtypes of what a layer returns, found without running it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from cellkit.cells.runner import flatten_shapes, pack_like_shapes
from cellkit.cells.structure import declared_output, declared_state
from cellkit.layers.outputs import with_states
from cellkit.layers.requests import new_form
from cellkit.typing import Tree

if TYPE_CHECKING:
    from cellkit.layers.rnn import RNN


def output_spec(layer: RNN, sequences: Tree, constants: Tree, one_step: bool) -> Any:
    """Return what a call returns, as symbolic tensors.

    Args:
        layer: The layer.
        sequences: Symbolic inputs of shape `(batch, time, ...)`.
        constants: Symbolic constants, or None.
        one_step: True if the call is a single step.
    """
    first = keras.tree.flatten(sequences)[0]
    batch, time = first.shape[:2]
    one = keras.tree.map_structure(
        lambda x: keras.KerasTensor((batch, *x.shape[2:]), dtype=x.dtype), sequences
    )
    extra = {} if constants is None else {"constants": constants}
    form = new_form(layer)
    leaves = form.specs(layer.runner.trace(one, extra))
    if layer.return_sequences and not one_step:
        leaves = [keras.KerasTensor((batch, time, *y.shape[1:]), dtype=y.dtype) for y in leaves]
    output = form.pack(leaves)
    layout = layer.runner.layout
    states = layout.pack(
        [keras.KerasTensor((batch, *s.shape), dtype=s.dtype) for s in layout.specs]
    )
    if one_step:
        return output, states
    return with_states(output, states) if layer.return_state else output


def output_shape(layer: RNN, sequences_shape: Any) -> Any:
    """Return the shapes of what a call returns.

    Args:
        layer: The layer, which need not be built.
        sequences_shape: Shape `(batch, time, ...)`, or a structure of such shapes.
    """
    declared = getattr(layer.cell, "output_size", None)
    specs = [] if declared is None else keras.tree.flatten(declared_output(declared))
    if layer.return_state:  # sizes may follow those of the inputs
        specs = [*specs, *keras.tree.flatten(declared_state(layer.cell.state_size))]
    known = declared is not None and all(None not in s.shape for s in specs)
    if layer.built or not known:
        shapes = flatten_shapes(sequences_shape)
        leaves = [keras.KerasTensor(s, dtype=layer.compute_dtype) for s in shapes]
        known = layer._memo.get("constants")
        spec = layer(pack_like_shapes(sequences_shape, leaves), constants=known)
        return keras.tree.map_structure(lambda y: tuple(y.shape), spec)
    batch, time = flatten_shapes(sequences_shape)[0][:2]
    lead = (batch, time) if layer.return_sequences else (batch,)
    output = keras.tree.map_structure(lambda s: (*lead, *s.shape), declared_output(declared))
    states = keras.tree.map_structure(
        lambda s: (batch, *s.shape), declared_state(layer.cell.state_size)
    )
    return with_states(output, states) if layer.return_state else output
