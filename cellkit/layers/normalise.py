"""Arguments of a call in one form: tensors that fit, one mask, a layer that is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from cellkit import _keras_compat as compat
from cellkit.cells.operations import to_tensor
from cellkit.cells.runner import static_shape
from cellkit.cells.structure import is_numbers
from cellkit.layers.arguments import (
    check_inputs,
    check_values,
    merge_masks,
    of_one_length,
    time_axis_told,
    validate_mask,
)
from cellkit.layers.constants import check_constants
from cellkit.layers.initial_states import check_stored_batch, fitted_states
from cellkit.layers.known_shapes import specs_of
from cellkit.layers.resets import merge_resets, validate_resets
from cellkit.typing import States, Tensor, Tree

if TYPE_CHECKING:
    from cellkit.layers.rnn import RNN


def normalised(
    layer: RNN,
    sequences: Tree,
    initial_state: States,
    mask: Tensor,
    training: bool | None,
    lengths: Any,
    constants: Tree,
    resets: Tensor,
    segments: Tensor,
) -> tuple[Any, dict[str, Any]]:
    """Return the inputs of a call, and the arguments that it has beside them.

    Args:
        layer: The layer, which is built if it was not.
        sequences: The inputs; these and the rest as `RNN` takes them.
        initial_state: Initial states, or None.
        mask: The mask, or None.
        training: The training flag, or None.
        lengths: The lengths, or None.
        constants: The constants, or None.
        resets: The resets, or None.
        segments: The segments, or None.
    """
    sequences = np.asarray(sequences) if is_numbers(sequences) else sequences
    given = [sequences, initial_state, mask, lengths, constants, resets, segments]
    given = keras.tree.flatten([x for x in given if x is not None])
    symbolic = any(isinstance(x, keras.KerasTensor) for x in given)
    implicit = [compat.keras_mask(x) for x in keras.tree.flatten(sequences)]
    sequences = keras.tree.map_structure(lambda x: to_tensor(x, layer.compute_dtype), sequences)
    sequences, mask, implicit = of_one_length(sequences, mask, implicit)
    sequences, constants = ready(layer, sequences, constants)
    batch = keras.tree.flatten(sequences)[0].shape[0]
    check_stored_batch(layer, batch)
    if initial_state is not None:
        initial_state = fitted_states(layer.runner, initial_state, batch)
    if symbolic:
        # Implicit masks of symbolic tensors are found again when the model runs.
        validate_mask(sequences, mask)
        validate_resets(sequences, resets, segments)
    else:
        mask = merge_masks(sequences, mask, implicit, lengths)
        resets = merge_resets(sequences, resets, segments, layer.go_backwards)
        lengths = segments = None
        check_values(layer.cell, sequences, mask)
    optional = {
        "initial_state": initial_state,
        "mask": mask,
        "training": training,
        "lengths": lengths,
        "constants": constants,
        "resets": resets,
        "segments": segments,
    }
    return sequences, {k: v for k, v in optional.items() if v is not None}


def ready(layer: RNN, sequences: Tree, constants: Tree) -> tuple[Any, Any]:
    """Return inputs and constants as tensors, checked, and build the layer if it is not."""
    convert = keras.tree.map_structure
    sequences = convert(lambda x: to_tensor(x, layer.compute_dtype), sequences)
    check_inputs(layer, sequences, layer._memo.get("input_shapes"))
    check_constants(layer, constants)
    constants = convert(lambda x: to_tensor(x, layer.compute_dtype), constants)
    build_once(layer, layer.cell, sequences, constants, layer.compute_dtype)
    return sequences, constants


def build_once(layer: Any, cell: Any, sequences: Tree, constants: Tree, dtype: str) -> None:
    """Build a layer for the inputs of a call, if it is not built.

    Args:
        layer: The layer, an `RNN` or a `Bidirectional`.
        cell: Its cell, or None.
        sequences: The inputs, as tensors.
        constants: The constants, or None.
        dtype: The dtype in which the layer computes.
    """
    if layer.built:
        return
    with layer._memo.lock:  # one thread builds, the others wait for it
        if not layer.built:
            leaves = keras.tree.flatten(sequences)
            dtypes = [keras.backend.standardize_dtype(x.dtype) for x in leaves]
            layer._memo.set("input_dtypes", dtypes)
            if constants is not None:
                layer._memo.set("constants", specs_of(constants, dtype))
            shapes = keras.tree.map_structure(lambda x: static_shape(x.shape), sequences)
            with time_axis_told(cell, shapes):
                layer.build(shapes)
