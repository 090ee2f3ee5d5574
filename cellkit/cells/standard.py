"""Cells whose step is that of the standard LSTM or GRU, for which frameworks have kernels."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from cellkit.typing import Tensor

# The members that make a step. A subclass that overrides one is not a standard cell.
_STEP = (
    "call",
    "prepare",
    "advance",
    "project",
    "step",
    "combine",
    "drop",
    "drop_inputs",
    "zone",
    "state_size",
    "get_initial_state",
)


@dataclasses.dataclass(frozen=True)
class StandardWeights:
    """The weights of a standard cell, with the activations tanh and sigmoid.

    With `kind="lstm"` the blocks are the gates i, f, g, o and the states `[h, c]`::

        i, f, o = sigmoid(...);  g = tanh(...);  c' = f * c + i * g;  h' = o * tanh(c')

    With `kind="gru"` they are z, r, n and the state is `[h]`; the reset gate comes after the
    product::

        z, r = sigmoid(...);  n = tanh(x @ K_n + b_n + r * (h @ R_n + c_n))
        h' = z * h + (1 - z) * n

    Args:
        kind: "lstm" or "gru".
        kernel: Variable of shape `(features, blocks * units)`.
        recurrent_kernel: Variable of shape `(units, blocks * units)`.
        bias: Variable or tensor of shape `(blocks * units,)`, or None.
        recurrent_bias: The bias c of the recurrent product, `(blocks * units,)`, or None.
    """

    kind: str
    kernel: Tensor
    recurrent_kernel: Tensor
    bias: Tensor
    recurrent_bias: Any = None


def has_standard_activations(cell: Any) -> bool:
    """Tell whether a cell has `tanh` as its activation and `sigmoid` for its gates."""
    names = (cell.activation, cell.recurrent_activation)
    return [getattr(a, "__name__", None) for a in names] == ["tanh", "sigmoid"] and all(
        getattr(a, "__module__", "").startswith(("keras.", "cellkit.")) for a in names
    )


def standard_weights(cell: Any) -> StandardWeights | None:
    """Return the weights of a cell whose step is a standard one, or None.

    A cell of `cellkit.Cell` says so itself, with a method `standard`; Keras' own cells are known.
    """
    kind = type(cell)
    if kind in (keras.layers.LSTMCell, keras.layers.GRUCell):
        return None if "call" in vars(cell) else _of_keras(cell)
    owner = next((c for c in kind.__mro__ if "standard" in vars(c)), None)
    if owner is None:
        return None
    derived = kind.__mro__[: kind.__mro__.index(owner)]
    if any(name in vars(c) for c in derived for name in _STEP) or set(_STEP) & vars(cell).keys():
        return None
    found: StandardWeights | None = cell.standard()
    return found


def _of_keras(cell: Any) -> StandardWeights | None:
    if not has_standard_activations(cell):
        return None
    weights = cell.kernel, cell.recurrent_kernel
    if isinstance(cell, keras.layers.LSTMCell):
        return StandardWeights("lstm", *weights, cell.bias)
    if not cell.reset_after:
        return None
    biases = (cell.bias[0], cell.bias[1]) if cell.use_bias else (None, None)
    return StandardWeights("gru", *weights, *biases)
