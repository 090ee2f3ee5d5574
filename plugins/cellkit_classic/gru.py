"""The gated recurrent unit, with both conventions of its reset gate."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import (
    Cell,
    StandardWeights,
    has_standard_activations,
    matmul,
    split,
    vector_size,
)
from cellkit.registry import CellSpec, Guide, custom, gate_blocks


@keras.saving.register_keras_serializable(package="cellkit_classic")
class GRUCell(Cell):
    """The gated recurrent unit.

    Paper: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder for
    Statistical Machine Translation", arXiv:1406.1078. Version 1 of the paper resets after the
    product with the recurrent kernel, version 3 before it.

    ```
    z = s(W_z @ x + U_z @ h + b_z)                     update gate
    r = s(W_r @ x + U_r @ h + b_r)                     reset gate
    n = tanh(W_n @ x + b_n + r * (U_n @ h + b_hn))     with reset_after=True
    n = tanh(W_n @ x + U_n @ (r * h) + b_n)            with reset_after=False
    h' = z * h + (1 - z) * n
    ```

    The weights are those of `keras.layers.GRU`, with the gates in the order z, r, n. In some
    libraries (Haiku, Chainer) z and 1 - z change places.

    Args:
        units: Number of units H.
        reset_after: True if the reset gate is applied after the recurrent product. Default True,
            the form of the fused kernels on GPUs, with a recurrent bias of its own.
        **kwargs: Options of `cellkit.Cell`: `activation` for n, `recurrent_activation` for the
            gates.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(GRUCell(8), return_sequences=True)
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 10, 8)
    """

    def __init__(self, units: int, *, reset_after: bool = True, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.reset_after = bool(reset_after)

    def build(self, input_shape: Any) -> None:
        """Create `kernel`, `recurrent_kernel` and `bias`."""
        super().build(input_shape)
        width = 3 * self.units
        self.kernel = self.add_kernel((vector_size(self, input_shape), width))
        self.recurrent_kernel = self.add_recurrent_kernel((self.units, width))
        self.bias = self.add_bias((2, width) if self.reset_after else (width,))

    def project(self, inputs: Any) -> Any:
        """Return ``inputs @ kernel + bias`` for z, r and n at once."""
        projected = matmul(inputs, self.kernel)
        if self.bias is None:
            return projected
        return projected + (self.bias[0] if self.reset_after else self.bias)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        h, s = states[0], self.recurrent_activation
        dropped, u = self.drop(h), self.recurrent_kernel
        x_z, x_r, x_n = split(projected, 3)
        if self.reset_after:
            product = matmul(dropped, u)
            h_z, h_r, h_n = split(product if self.bias is None else product + self.bias[1], 3)
            z, r = s(x_z + h_z), s(x_r + h_r)
            n = self.activation(x_n + r * h_n)
        else:
            h_z, h_r = split(matmul(dropped, u, slice(2 * self.units)), 2)
            z, r = s(x_z + h_z), s(x_r + h_r)
            n = self.activation(x_n + matmul(r * dropped, u, slice(2 * self.units, None)))
        h = z * h + (1 - z) * n
        return h, [h]

    def standard(self) -> StandardWeights | None:
        """Return the weights where the form and the activations are those of the fused kernels."""
        if not (self.reset_after and has_standard_activations(self)):
            return None
        biases = (None, None) if self.bias is None else (self.bias[0], self.bias[1])
        return StandardWeights("gru", self.kernel, self.recurrent_kernel, *biases)


def _to_symbols(weights: Any, config: Any) -> dict[str, Any]:
    """Return the paper's biases; the two of z and of r are only ever added."""
    units, biased = config["units"], config.get("use_bias", True)
    bias = weights["bias"] if biased else np.zeros((2, 3 * units))
    rows = bias.reshape(-1, 3, units)
    z, r, n = rows[0]
    if not config.get("reset_after", True):
        return {"b_z": z, "b_r": r, "b_n": n}
    return {"b_z": z + rows[1, 0], "b_r": r + rows[1, 1], "b_n": n, "b_hn": rows[1, 2]}


def _from_symbols(symbols: Any, config: Any) -> dict[str, Any]:
    """Return the cell's biases; what the paper gives as one bias goes to the input side."""
    bias = np.concatenate([symbols["b_z"], symbols["b_r"], symbols["b_n"]])
    if config.get("reset_after", True):
        rest = np.zeros(2 * len(symbols["b_hn"]), bias.dtype)
        bias = np.stack([bias, np.concatenate([rest, symbols["b_hn"]])])
    return {"bias": bias} if config.get("use_bias", True) else {}


GRUCell.spec = CellSpec(
    guide=Guide(
        "gru",
        "Use it when an LSTM would do and a quarter of its weights should be saved.",
        ("baseline",),
    ),
    symbols=gate_blocks(["z", "r", "n"], bias=None)
    | custom(to_symbols=_to_symbols, from_symbols=_from_symbols),
    more_cases={"reset_before": {"units": 3, "reset_after": False}},
    more_traits={"equiv:GRU"},
    deviations=(
        "With reset_after=True the candidate has a recurrent bias b_hn, as in the fused kernels.",
    ),
    aliases={"gru_reset_after": {"reset_after": True}, "gru_reset_before": {"reset_after": False}},
).completed(GRUCell)
