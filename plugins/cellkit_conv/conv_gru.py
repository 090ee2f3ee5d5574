"""The convolutional GRU."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from cellkit.registry import CellSpec, Guide, gate_blocks, rename
from cellkit.registry.reference import activation
from cellkit_conv._base import ConvCell, along_channels, convolve, convolve_state


@keras.saving.register_keras_serializable(package="cellkit_conv")
class ConvGRUCell(ConvCell):
    """The gated recurrent unit with convolutions for its products.

    Paper: Ballas, Yao, Pal and Courville 2015, "Delving Deeper into Convolutional Networks for
    Learning Video Representations", arXiv:1511.06432, whose cell resets before the convolution.

    ```
    z = s(W_z * x + U_z * h + b_z)                     update gate   * a convolution (cross-
    r = s(W_r * x + U_r * h + b_r)                     reset gate      correlation, zero padding)
    n = tanh(W_n * x + b_n + r (U_n * h + b_hn))       with reset_after=True
    n = tanh(W_n * x + U_n * (r h) + b_n)              with reset_after=False
    h' = z h + (1 - z) n
    ```

    In the paper z and 1 - z change places. MXNet (`Conv2DGRUCell`) computes the form with
    reset_after=True.

    Args:
        filters: Number of channels of the state and of the output.
        kernel_size: Size of both kernels, one int or one per spatial axis.
        reset_after: True if the reset gate is applied after the convolution of the state. Default
            True, as in `cellkit_classic.GRUCell`: one convolution of the state serves all gates.
        **kwargs: `rank` (1 to 3), `strides`, `padding`, `dilation_rate` and `data_format` of the
            convolution of the inputs, as in `keras.layers.ConvLSTM2D`, with its defaults; the
            state is convolved in its own size. Options of `cellkit.Cell`.

    Inputs: `(batch, rows, columns, channels)` for rank 2, or with the channels first.
    States: `[h]` of shape `(batch, rows', columns', filters)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(ConvGRUCell(8, 3, padding="same"), return_sequences=True)
    >>> layer(keras.Input((10, 32, 32, 1))).shape
    (None, 10, 32, 32, 8)
    """

    gates: ClassVar[dict[str, str]] = {
        "z": "recurrent_activation",
        "r": "recurrent_activation",
        "n": "activation",
    }

    def __init__(
        self, filters: int, kernel_size: Any, *, reset_after: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(filters, kernel_size, **kwargs)
        self.reset_after = bool(reset_after)

    def build(self, input_shape: Any) -> None:
        """Create `kernel`, `recurrent_kernel`, `bias` and, to reset after, `recurrent_bias`."""
        super().build(input_shape)
        bias = self.add_bias((self.filters,), "recurrent_bias") if self.reset_after else None
        self.recurrent_bias = bias

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        h, s = states[0], self.recurrent_activation
        dropped, u = self.drop(h), self.recurrent_kernel
        x_z, x_r, x_n = self.split(projected, 3)
        if self.reset_after:
            h_z, h_r, h_n = self.split(self.convolve(dropped, u), 3)
            z, r = s(x_z + h_z), s(x_r + h_r)
            n = self.activation(x_n + r * self.shift(h_n, self.recurrent_bias))
        else:
            h_z, h_r = self.split(self.convolve(dropped, u[..., : 2 * self.filters]), 2)
            z, r = s(x_z + h_z), s(x_r + h_r)
            n = self.activation(x_n + self.convolve(r * dropped, u[..., 2 * self.filters :]))
        h = z * h + (1 - z) * n
        return h, [h]


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (h,) = states
    s, tanh = activation(config["recurrent_activation"]), activation(config["activation"])
    a = {
        gate: convolve(x, w[f"W_{gate}"], config) + along_channels(w[f"b_{gate}"], config)
        for gate in "zrn"
    }
    z = s(a["z"] + convolve_state(h, w["U_z"], config))
    r = s(a["r"] + convolve_state(h, w["U_r"], config))
    if config["reset_after"]:
        u = convolve_state(h, w["U_n"], config)
        u = u + along_channels(w["b_hn"], config) if "b_hn" in w else u
        n = tanh(a["n"] + r * u)
    else:
        n = tanh(a["n"] + convolve_state(r * h, w["U_n"], config))
    h = z * h + (1 - z) * n
    return h, [h]


ConvGRUCell.spec = CellSpec(
    guide=Guide(
        "convolution",
        "Use it when a convolutional LSTM would do and a quarter of its weights should be saved.",
        ("images",),
    ),
    reference=reference,
    inputs=("rows", "columns", "channels"),
    dims={"rows": 6, "columns": 5, "channels": 2},
    states=("h",),
    symbols=gate_blocks(["z", "r", "n"]) | rename({"recurrent_bias": "b_hn"}, optional=True),
    cases={
        "default": {"filters": 3, "kernel_size": 3},
        "reset_before": {"filters": 2, "kernel_size": 3, "padding": "same", "reset_after": False},
        "strides": {"filters": 2, "kernel_size": [3, 2], "padding": "same", "strides": 2},
        "dilated": {"filters": 2, "kernel_size": 2, "dilation_rate": [1, 2], "use_bias": False},
        "channels_first": {"filters": 2, "kernel_size": 2, "data_format": "channels_first"},
        "dropout": {
            "filters": 2,
            "kernel_size": 3,
            "dropout": 0.4,
            "recurrent_dropout": 0.3,
            "seed": 1,
        },
    },
    more_traits={"rank:5"},
    deviations=(
        "The paper resets before the convolution (reset_after=False) and swaps z and 1 - z.",
        "With reset_after=True the candidate has a recurrent bias b_hn, as in MXNet.",
    ),
    aliases={"conv_gru": {"padding": "same"}},
).completed(ConvGRUCell)
