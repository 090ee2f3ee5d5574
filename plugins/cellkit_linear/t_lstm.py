"""The strongly typed LSTM."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import split
from cellkit.registry import CellSpec, Guide
from cellkit_linear._typed import TypedCell, typed_gates, typed_symbols


@keras.saving.register_keras_serializable(package="cellkit_linear")
class TLSTMCell(TypedCell):
    """The strongly typed LSTM: gates see the last two inputs, and the state is a weighted mean.

    Paper: Balduzzi and Ghifary 2016, "Strongly-Typed Recurrent Neural Networks",
    arXiv:1602.02218, section 3.2.

    ```
    z = W_z @ x + V_z @ x_before + b_z
    f = s(W_f @ x + V_f @ x_before + b_f)
    o = tanh(W_o @ x + V_o @ x_before + b_o)
    c' = f * c + (1 - f) * z
    h = c' * o
    x_before' = x
    ```

    States and inputs never meet in one sum, as quantities of different units do not in physics.
    Linear in its state, the cell is run by the parallel scan. The time-aware LSTM, also called
    T-LSTM, is another cell.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.LinearCell`: `recurrent_activation` for f, `activation` for o.
            There is no `zoneout`, which would hold back the input before.

    Inputs: `(batch, features)`. States: `[c, x_before]` of shapes `(batch, units)`, float32 under a
    16-bit policy, and `(batch, 1, features)`. Output: h, which is not a state.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(TLSTMCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    def coefficients(self, projected: Any) -> tuple[Any, Any]:
        """Return how much is kept, and what is added."""
        z, f, _ = split(projected, 3)
        f = self.recurrent_activation(f)
        return f, (1 - f) * z

    def read(self, states: Any, projected: Any) -> Any:
        """Return what the output gate lets out."""
        o = split(projected, 3)[2]
        return self.as_output(states[0]) * self.activation(o)


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    c, before = states
    z, f, o = typed_gates(w, x, before, config)
    c = f * c + (1 - f) * z
    return c * o, [c, np.asarray(x)[:, None]]


TLSTMCell.spec = CellSpec(
    guide=Guide(
        "linear",
        "Use it when sequences are too long for an LSTM and gates may see two inputs alone.",
        ("parallel",),
    ),
    reference=reference,
    states=("c", "x_before"),
    symbols=typed_symbols(),
    more_cases={
        "softsign": {"units": 3, "activation": "softsign", "recurrent_activation": "hard_sigmoid"},
        "no_bias": {"units": 3, "use_bias": False},
    },
    traits={"masking", "stateful", "dropout", "linear", "fp32_state"},
).completed(TLSTMCell)
