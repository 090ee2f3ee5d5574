"""The simple recurrent cell with convolutions."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from cellkit.registry import CellSpec, Guide, rename
from cellkit.registry.reference import activation
from cellkit_conv._base import ConvCell, along_channels, convolve, convolve_state


@keras.saving.register_keras_serializable(package="cellkit_conv")
class ConvRNNCell(ConvCell):
    """The simple recurrent cell with convolutions for its two products.

    Paper: Shi et al. 2015, "Convolutional LSTM Network: A Machine Learning Approach for
    Precipitation Nowcasting", arXiv:1506.04214, which does this to the LSTM; here it is done to
    the cell of Elman.

    ```
    h' = tanh(W * x + U * h + b)       * a convolution (cross-correlation, zero padding)
    ```

    Args:
        filters: Number of channels of the state and of the output.
        kernel_size: Size of both kernels, one int or one per spatial axis.
        **kwargs: `rank` (1 to 3), `strides`, `padding`, `dilation_rate` and `data_format` of the
            convolution of the inputs, as in `keras.layers.ConvLSTM2D`, with its defaults; the
            state is convolved in its own size. Options of `cellkit.Cell`.

    Inputs: `(batch, rows, columns, channels)` for rank 2, or with the channels first.
    States: `[h]` of shape `(batch, rows', columns', filters)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(ConvRNNCell(8, 3, padding="same"), return_sequences=True)
    >>> layer(keras.Input((10, 32, 32, 1))).shape
    (None, 10, 32, 32, 8)
    """

    gates: ClassVar[dict[str, str]] = {"h": "activation"}

    def combine(self, gates: dict[str, Any], states: Any) -> tuple[Any, Any]:
        """Return the activated sum as output and state."""
        return gates["h"], [gates["h"]]


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equation."""
    (h,) = states
    total = convolve(x, w["W"], config) + convolve_state(h, w["U"], config)
    h = activation(config["activation"])(total + along_channels(w["b"], config))
    return h, [h]


ConvRNNCell.spec = CellSpec(
    guide=Guide(
        "convolution",
        "Use it when frames are images and short memory will do.",
        ("baseline", "tiny", "images"),
    ),
    reference=reference,
    inputs=("rows", "columns", "channels"),
    dims={"rows": 6, "columns": 5, "channels": 2},
    states=("h",),
    symbols=rename({"kernel": "W", "recurrent_kernel": "U", "bias": "b"}),
    cases={
        "default": {"filters": 3, "kernel_size": 3},
        "same": {"filters": 2, "kernel_size": 3, "padding": "same", "activation": "relu"},
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
    deviations=("The paper puts convolutions into the LSTM; this is Elman's cell, treated alike.",),
    aliases={"conv_rnn": {"padding": "same"}},
).completed(ConvRNNCell)
