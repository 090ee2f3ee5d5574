"""The layer-normalised LSTM."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import choice, matmul, normalize, plus, positive_number, split
from cellkit.registry import CellSpec, Guide, blocks, gate_blocks, rename
from cellkit_lstm._base import LSTMBase

FORMS = ("paper", "tfa")


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class LayerNormLSTMCell(LSTMBase):
    """The LSTM with layer normalisation.

    Paper: Ba, Kiros and Hinton 2016, "Layer Normalization", arXiv:1607.06450, section on recurrent
    networks and equations in the supplement.

    ```
    norm(v) = (v - mean(v)) / sqrt(var(v) + epsilon)
    i, f, g, o = split(gamma_x * norm(W @ x) + gamma_h * norm(U @ h) + b)    norms over all 4 H

    form="paper":
    c' = s(f) * c + s(i) * tanh(g)
    h' = s(o) * tanh(gamma_c * norm(c') + beta_c)

    form="tfa":
    c' = gamma_c * norm(s(f) * c + s(i) * tanh(g)) + beta_c
    h' = s(o) * tanh(c')
    ```

    The two inner normalisations need no shift of their own: b plays it. Three functions go by this
    name elsewhere: haste has the paper's; TensorFlow Addons stores the normalised cell state (the
    form `"tfa"`, with an epsilon of 1e-3 and two shifts whose sum with its bias is b); labml
    normalises each gate's sum of both products apart.

    Args:
        units: Number of units H.
        form: `"paper"` (default) or `"tfa"`: whether the cell state is normalised only on its way
            out, or also in what is kept.
        epsilon: Added to the variances. Default 1e-5; the paper gives none.
        **kwargs: `unit_forget_bias` and `max_time` as in `LSTMBase`, and options of `cellkit.Cell`:
            `activation` for g and the output, `recurrent_activation` for the gates.

    Inputs: `(batch, features)`. States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(LayerNormLSTMCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    def __init__(
        self, units: int, *, form: str = "paper", epsilon: float = 1e-5, **kwargs: Any
    ) -> None:
        super().__init__(units, **kwargs)
        self.form = choice(type(self), "form", form, FORMS)
        self.epsilon = positive_number(type(self), "epsilon", epsilon)

    def build(self, input_shape: Any) -> None:
        """Create the weights of the LSTM, and the scales and the shift of the norms."""
        super().build(input_shape)
        size, all_gates = (self.units,), (4 * self.units,)
        self.gamma_x = self.add_weight(shape=all_gates, initializer="ones", name="gamma_x")
        self.gamma_h = self.add_weight(shape=all_gates, initializer="ones", name="gamma_h")
        self.gamma_c = self.add_weight(shape=size, initializer="ones", name="gamma_c")
        self.beta_c = self.add_weight(shape=size, initializer="zeros", name="beta_c")

    def project(self, inputs: Any) -> Any:
        """Return the normalised product with the inputs, plus the bias."""
        projected = self.gamma_x * normalize(matmul(inputs, self.kernel), self.epsilon)
        return plus(projected, self.bias)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        h, c = states
        s, tanh = self.recurrent_activation, self.activation
        product = matmul(self.drop(h), self.recurrent_kernel)
        i, f, g, o = split(projected + self.gamma_h * normalize(product, self.epsilon), 4)
        c = s(f) * c + s(i) * tanh(g)
        normed = self.gamma_c * normalize(c, self.epsilon) + self.beta_c
        h = s(o) * tanh(normed)
        return h, [h, c if self.form == "paper" else normed]


def norm(v: Any, epsilon: float) -> Any:
    """Return `v` with mean zero and variance one over the last axis."""
    return (v - v.mean(axis=-1, keepdims=True)) / np.sqrt(v.var(axis=-1, keepdims=True) + epsilon)


_GATES = ("i", "f", "g", "o")

LayerNormLSTMCell.spec = CellSpec(
    guide=Guide(
        "lstm",
        "Use it when an LSTM trains unevenly because magnitudes drift, and batches are small.",
        ("normalised",),
    ),
    symbols=gate_blocks(_GATES)
    | blocks("gamma_x", [f"gamma_x_{gate}" for gate in _GATES])
    | blocks("gamma_h", [f"gamma_h_{gate}" for gate in _GATES])
    | rename({"gamma_c": "gamma_c", "beta_c": "beta_c"}),
    more_cases={
        "tfa": {"units": 4, "form": "tfa", "epsilon": 1e-3},
        "no_bias": {"units": 3, "use_bias": False},
    },
    # A rounding error is divided by the standard deviation of the units, which of the four here may
    # be a quarter, and smaller weights don't damp it: they are normalised away.
    tolerance=4.0,
    deviations=(
        "TensorFlow Addons stores the normalised cell state: the option form='tfa'.",
        "labml normalises the sum of both products, each gate apart: another function.",
    ),
    aliases={"layer_norm_lstm_tfa": {"form": "tfa", "epsilon": 1e-3}},
).completed(LayerNormLSTMCell)
