"""One direction of a `Bidirectional`: a `cellkit.RNN`, or any other recurrent layer of Keras."""

from __future__ import annotations

from typing import Any

import keras

from cellkit import _keras_compat as compat
from cellkit.cells.structure import describe_shapes
from cellkit.errors import problem
from cellkit.layers.copying import copy_layer
from cellkit.layers.rnn import RNN
from cellkit.typing import States, Tensor, Tree

_REQUIRED = ("go_backwards", "return_sequences", "return_state", "stateful")


def check_layer(name: str, layer: Any) -> None:
    """Raise unless `layer` is a layer that can read a sequence from either end."""
    if not isinstance(layer, keras.layers.Layer):
        raise problem(
            f"The argument `{name}` of Bidirectional is not a layer.",
            received=f"{name}={layer!r}",
            expected="a recurrent layer",
            fix=f"make one of the cell first: `Bidirectional(cellkit.RNN({layer!r}, units=32))`"
            if isinstance(layer, str)
            else "wrap a cell first: `Bidirectional(cellkit.RNN(cell))`",
        )
    missing = [option for option in _REQUIRED if not hasattr(layer, option)]
    if missing:
        cell = hasattr(layer, "state_size") and not isinstance(layer, keras.layers.RNN)
        raise problem(
            f"The argument `{name}` of Bidirectional is not a recurrent layer.",
            received=f"a {type(layer).__name__} without " + ", ".join(f"`{m}`" for m in missing),
            expected="a layer with " + ", ".join(f"`{r}`" for r in _REQUIRED),
            fix=f"wrap the cell first: `Bidirectional(cellkit.RNN({type(layer).__name__}(...)))`"
            if cell
            else "pass a `cellkit.RNN`, or a Keras layer like `keras.layers.LSTM`",
        )


def forward_copy(layer: Any, backward_layer: Any) -> Any:
    """Return a copy of a layer that reads forwards.

    Args:
        layer: The layer.
        backward_layer: The other one, where it is given. An unbuilt `layer` that can't be copied
            is then used itself.
    """
    name = f"forward_{layer.name.removeprefix('forward_')}"
    try:
        return copy_layer(layer, name=name, go_backwards=layer.go_backwards, new_seed=False)
    except ValueError:
        if backward_layer is not None and not layer.built:
            return layer
        raise


def unpacked(states: list[Any], layer: Any) -> Any:
    """Return the states of one direction in the structure that its layer takes.

    A pair (forward, backward) arrives here as a list of one: the structure itself. A list of one
    state arrives in the same form.
    """
    if len(states) != 1 or not isinstance(states[0], (list, tuple, dict)):
        return states
    if isinstance(layer, RNN):
        return states[0]  # matched with the cell's structure there
    size = getattr(layer, "state_size", None)
    one_nested_state = (
        isinstance(size, (list, tuple)) and len(size) == 1 and not isinstance(size[0], int)
    )
    pair = len(states[0]) == 1 and isinstance(states[0][0], (list, tuple))
    return states if one_nested_state and not pair else list(states[0])


def stored(layer: Any) -> list[Any]:
    """Return the variables that carry the states of a stateful layer from call to call."""
    store = getattr(layer, "state_store", None)
    if store is not None:
        return [store.started, *store.values] if store.built else []
    return keras.tree.flatten(getattr(layer, "states", None) or [])


def reset(layer: Any, states: States) -> None:
    """Set the stored states of a layer, to its cell's own initial ones where none are given."""
    if states is None:
        layer.reset_state()
    elif compat.takes(layer.reset_state, "states"):
        layer.reset_state(states=states)
    else:
        variables, values = stored(layer), keras.tree.flatten(states)
        if [tuple(v.shape) for v in variables] != [tuple(v.shape) for v in values]:
            raise problem(
                f"The states do not fit those of {type(layer).__name__}.",
                received=f"states of shape {describe_shapes(values)}",
                expected=f"states of shape {describe_shapes(variables)}",
                fix="pass one array per state, with one row per row of the batch",
            )
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def state_count(layer: Any) -> int:
    """Return the number of states of one direction."""
    if isinstance(layer, RNN):
        return len(layer.runner.layout.specs)
    return len(keras.tree.flatten(getattr(layer, "state_size", [])))


def output_count(layer: Any, sequences: Tree, mask: Tensor) -> int:
    """Return the number of tensors in the output of one direction."""
    if not isinstance(layer, RNN):
        return 1
    masks = len(keras.tree.flatten(layer.compute_mask(sequences, mask)))
    return masks - (state_count(layer) if layer.return_state else 0)
