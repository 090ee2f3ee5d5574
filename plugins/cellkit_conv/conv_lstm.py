"""The convolutional LSTM."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from cellkit.registry import CellSpec, Guide, gate_blocks, rename
from cellkit.registry.reference import activation
from cellkit_conv._base import ConvCell, along_channels, convolve, convolve_state


@keras.saving.register_keras_serializable(package="cellkit_conv")
class ConvLSTMCell(ConvCell):
    """The long short-term memory cell with convolutions for its products.

    Paper: Shi et al. 2015, "Convolutional LSTM Network: A Machine Learning Approach for
    Precipitation Nowcasting", arXiv:1506.04214.

    ```
    i = s(W_i * x + U_i * h + p_i c + b_i)      input gate      * a convolution (cross-correlation,
    f = s(W_f * x + U_f * h + p_f c + b_f)      forget gate       zero padding); other products
    g = tanh(W_g * x + U_g * h + b_g)           candidate         are elementwise
    c' = f c + i g
    o = s(W_o * x + U_o * h + p_o c' + b_o)     output gate
    h' = o tanh(c')
    ```

    The terms with p are the peepholes: one weight per channel and pixel, so a cell with peepholes
    is bound to one image size. The paper has them, Keras and most libraries do not; here they are
    an option.

    The weights are those of `keras.layers.ConvLSTM1D`, `ConvLSTM2D` and `ConvLSTM3D`, with the
    gates in the order i, f, g, o.

    Args:
        filters: Number of channels of the states and of the output.
        kernel_size: Size of both kernels, one int or one per spatial axis.
        peepholes: True if the gates see the cell state. Default False, as in Keras: the weights
            then fit images of any size.
        unit_forget_bias: True if the biases of the forget gate start at one. Default True: a new
            cell then remembers (Jozefowicz et al. 2015).
        **kwargs: `rank` (1 to 3), `strides`, `padding`, `dilation_rate` and `data_format` of the
            convolution of the inputs, as in `keras.layers.ConvLSTM2D`, with its defaults; the
            state is convolved in its own size. Options of `cellkit.Cell`.

    Inputs: `(batch, rows, columns, channels)` for rank 2, or with the channels first.
    States: `[h, c]`, each `(batch, rows', columns', filters)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(ConvLSTMCell(8, 3, padding="same"), return_sequences=True)
    >>> layer(keras.Input((10, 32, 32, 1))).shape
    (None, 10, 32, 32, 8)
    """

    gates: ClassVar[dict[str, str]] = {
        "i": "recurrent_activation",
        "f": "recurrent_activation",
        "g": "activation",
        "o": "recurrent_activation",
    }
    states: ClassVar[tuple[str, ...]] = ("h", "c")

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        *,
        peepholes: bool = False,
        unit_forget_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, kernel_size, **kwargs)
        self.peepholes = bool(peepholes)
        self.unit_forget_bias = bool(unit_forget_bias)

    def build(self, input_shape: Any) -> None:
        """Create `kernel`, `recurrent_kernel`, `bias` and the peepholes."""
        super().build(input_shape)
        if self.peepholes:
            shape = self.with_channels(self.image_shape)
            self.p_i, self.p_f, self.p_o = (
                self.add_recurrent_kernel(shape, f"peephole_{gate}", initializer="zeros")
                for gate in "ifo"
            )

    def gate_bias_initializers(self) -> dict[str, Any]:
        """Start the forget gate open."""
        return {"f": "ones"} if self.unit_forget_bias else {}

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        (h, c), s, peeps = states, self.recurrent_activation, self.peepholes
        z = projected + self.convolve(self.drop(h), self.recurrent_kernel)
        i, f, g, o = self.split(z, 4)
        i = s(i + self.p_i * c) if peeps else s(i)
        f = s(f + self.p_f * c) if peeps else s(f)
        c = f * c + i * self.activation(g)
        o = s(o + self.p_o * c) if peeps else s(o)
        h = o * self.activation(c)
        return h, [h, c]


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    h, c = states
    s, tanh = activation(config["recurrent_activation"]), activation(config["activation"])
    a = {
        gate: convolve(x, w[f"W_{gate}"], config)
        + convolve_state(h, w[f"U_{gate}"], config)
        + along_channels(w[f"b_{gate}"], config)
        for gate in "ifgo"
    }
    i = s(a["i"] + w.get("p_i", 0) * c)
    f = s(a["f"] + w.get("p_f", 0) * c)
    c = f * c + i * tanh(a["g"])
    o = s(a["o"] + w.get("p_o", 0) * c)
    h = o * tanh(c)
    return h, [h, c]


ConvLSTMCell.spec = CellSpec(
    guide=Guide(
        "convolution",
        "Use it when frames are images and what happened in them has to be remembered, as in "
        "radar maps.",
        ("baseline", "images"),
    ),
    reference=reference,
    inputs=("rows", "columns", "channels"),
    dims={"rows": 6, "columns": 5, "channels": 2},
    states=("h", "c"),
    symbols=gate_blocks(["i", "f", "g", "o"])
    | rename({"peephole_i": "p_i", "peephole_f": "p_f", "peephole_o": "p_o"}, optional=True),
    cases={
        "default": {"filters": 3, "kernel_size": 3},
        "peepholes": {"filters": 2, "kernel_size": 3, "padding": "same", "peepholes": True},
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
    more_traits={"equiv:ConvLSTM2D", "rank:5"},
    deviations=("The paper has peepholes; they are the option `peepholes`, off as in Keras.",),
    aliases={"conv_lstm": {"padding": "same"}},
).completed(ConvLSTMCell)
