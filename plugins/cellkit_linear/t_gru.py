"""The strongly typed GRU."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import split
from cellkit.registry import CellSpec, Guide
from cellkit_linear._typed import TypedCell, typed_gates, typed_symbols


@keras.saving.register_keras_serializable(package="cellkit_linear")
class TGRUCell(TypedCell):
    """The strongly typed GRU: gates see the last two inputs, and the state is a gated sum.

    Paper: Balduzzi and Ghifary 2016, "Strongly-Typed Recurrent Neural Networks",
    arXiv:1602.02218, section 3.2.

    ```
    z = W_z @ x + V_z @ x_before + b_z
    f = s(W_f @ x + V_f @ x_before + b_f)
    o = tanh(W_o @ x + V_o @ x_before + b_o)
    h' = f * h + z * o
    x_before' = x
    ```

    States and inputs never meet in one sum, as quantities of different units do not in physics.
    Linear in its state, the cell is run by the parallel scan. Where a GRU's gates see the state,
    these see the input of the step before, which is a state of the cell.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.LinearCell`: `recurrent_activation` for f, `activation` for o.
            There is no `zoneout`, which would hold back the input before.

    Inputs: `(batch, features)`. States: `[h, x_before]` of shapes `(batch, units)`, float32 under a
    16-bit policy, and `(batch, 1, features)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(TGRUCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    def coefficients(self, projected: Any) -> tuple[Any, Any]:
        """Return how much is kept, and what is added."""
        z, f, o = split(projected, 3)
        return self.recurrent_activation(f), z * self.activation(o)


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    h, before = states
    z, f, o = typed_gates(w, x, before, config)
    h = f * h + z * o
    return h, [h, np.asarray(x)[:, None]]


TGRUCell.spec = CellSpec(
    guide=Guide(
        "linear",
        "Use it when sequences are too long for a GRU and gates may see two inputs alone.",
        ("parallel",),
    ),
    reference=reference,
    states=("h", "x_before"),
    symbols=typed_symbols(),
    more_cases={
        "softsign": {"units": 3, "activation": "softsign", "recurrent_activation": "hard_sigmoid"},
        "no_bias": {"units": 3, "use_bias": False},
    },
    traits={"masking", "stateful", "dropout", "linear", "fp32_state"},
).completed(TGRUCell)
