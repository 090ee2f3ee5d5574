"""The LSTM with a projected state."""

from __future__ import annotations

from typing import Any

import keras

from cellkit.cells import matmul, positive_int
from cellkit.registry import CellSpec, Guide, blocks, gate_blocks, rename
from cellkit_lstm.peephole_lstm import PeepholeLSTMCell


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class LSTMPCell(PeepholeLSTMCell):
    """The LSTM with a recurrent projection: a wide cell state, and a narrow one that recurs.

    Paper: Sak, Senior and Beaufays 2014, "Long Short-Term Memory Based Recurrent Neural Network
    Architectures for Large Vocabulary Speech Recognition", arXiv:1402.1128.

    ```
    i = s(W_i @ x + U_i @ h + p_i * c + b_i)         input gate
    f = s(W_f @ x + U_f @ h + p_f * c + b_f)         forget gate
    g = tanh(W_g @ x + U_g @ h + b_g)                candidate
    c' = f * c + i * g                               H wide
    o = s(W_o @ x + U_o @ h + p_o * c' + b_o)        output gate
    h' = P @ (o * tanh(c'))                          projection_units wide
    ```

    The paper's peepholes p are an option; PyTorch (`proj_size`) and MXNet have the form without.
    The projection has no bias, as in the paper. Its non-recurrent projection layer is left out: a
    dense layer after this one does the same.

    Args:
        units: Number of units H, the width of c.
        projection_units: Width of h. Default None: half of `units`, at least 1. The recurrent
            kernel then has half the weights.
        peepholes: True to have the peepholes of the paper. Default False, as in PyTorch.
        **kwargs: `peephole_initializer` as in `PeepholeLSTMCell`, `unit_forget_bias` and `max_time`
            as in `LSTMBase`, and options of `cellkit.Cell`. `recurrent_initializer` also serves P.

    Inputs: `(batch, features)`. States: `[h, c]` of shapes `(batch, projection_units)` and
    `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(LSTMPCell(8, projection_units=2), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 2), (None, 2), (None, 8))
    """

    def __init__(
        self,
        units: int,
        *,
        projection_units: int | None = None,
        peepholes: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, peepholes=peepholes, **kwargs)
        if projection_units is not None:
            projection_units = positive_int(type(self), "projection_units", projection_units)
        self.projection_units = projection_units

    @property
    def projected_size(self) -> int:
        """Width of h."""
        return self.projection_units or max(1, self.units // 2)

    @property
    def state_size(self) -> list[int]:
        """Sizes of h and c."""
        return [self.projected_size, self.units]

    @property
    def recurrent_shape(self) -> tuple[int, int]:
        """Shape of the recurrent kernel, which acts on the projected h."""
        return self.projected_size, 4 * self.units

    def build(self, input_shape: Any) -> None:
        """Create the weights of the LSTM, and `projection_kernel`."""
        super().build(input_shape)
        shape = (self.units, self.projected_size)
        self.projection_kernel = self.add_recurrent_kernel(shape, "projection_kernel")

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step of the LSTM, and project what it lets out."""
        wide, (_, c) = super().step(projected, states)
        h = matmul(wide, self.projection_kernel)
        return h, [h, c]

    spec = CellSpec(
        guide=Guide(
            "lstm",
            "Use it when the memory has to be wide and the recurrent product narrow, as in "
            "acoustic models.",
            ("speech",),
        ),
        symbols=gate_blocks(["i", "f", "g", "o"])
        | rename({"projection_kernel": "P"})
        | blocks("peephole_kernel", ["p_i", "p_f", "p_o"], optional=True),
        cases={
            "default": {"units": 4, "projection_units": 3},
            "peepholes": {"units": 3, "projection_units": 2, "peepholes": True},
            "wide": {"units": 2, "projection_units": 5, "activation": "relu"},
            "no_bias": {"units": 4, "use_bias": False, "recurrent_activation": "hard_sigmoid"},
            "dropout": {"units": 4, "dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1},
        },
        deviations=(
            "The paper has peepholes; here they are an option, and off, as in PyTorch and MXNet.",
            "The paper's second projection, which does not recur, is left out.",
        ),
    )
