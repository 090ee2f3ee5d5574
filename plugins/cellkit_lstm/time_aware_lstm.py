"""The time-aware LSTM."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

import cellkit
from cellkit.cells import check_gaps
from cellkit.registry import Guide, Paper


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class TimeAwareLSTMCell(cellkit.EquationCell, inputs=("x", "dt"), states=("h", "c")):
    """The time-aware LSTM: what it remembers for a short time fades with the gap between steps.

    Paper: Baytas, Xiao, Zhang, Wang, Jain and Zhou 2017, "Patient Subtyping via Time-Aware LSTM
    Networks", KDD 2017, doi:10.1145/3097983.3097997, section 3.1.

    The memory is divided into a part that a network calls short and the rest. Only the short part
    is discounted, and then an LSTM goes on with both.

    Departure: the authors' code has the gates' activation in place of tanh for the short part.

    Args:
        units: Number of units H.
        decay: `"log"` (default; the paper's choice for gaps that are large, such as days between
            visits) or `"inverse"` (for small ones; gaps of zero are infinite then).
        **kwargs: Options of `cellkit.Cell`. `dropout` drops elements of x; gaps come through whole.

    Inputs: `(x, dt)` of shapes `(batch, features)` and `(batch, 1)`, the gap being the time since
    the step before. Gaps are 0 or more; a negative one is an error wherever its value is known
    before the run (not in a compiled one). States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(TimeAwareLSTMCell(8))
    >>> layer.compute_output_shape(((None, 10, 3), (None, 10, 1)))
    (None, 8)
    """

    equations = """
    decay="log":
        d = 1 / log(2.718281828459045 + dt)
    decay="inverse":
        d = 1 / dt
    p  = tanh(W_d @ c + b_d)                   memory of a short time
    q  = (c - p) + p * d                       with that part discounted
    i  = s(W_i @ x + U_i @ h + b_i)            input gate
    f  = s(W_f @ x + U_f @ h + b_f)            forget gate
    g  = tanh(W_g @ x + U_g @ h + b_g)         candidate
    o  = s(W_o @ x + U_o @ h + b_o)            output gate
    c' = f * q + i * g
    h' = o * tanh(c')
    """
    paper = Paper(
        "Baytas, Xiao, Zhang, Wang, Jain and Zhou",
        2017,
        "Patient Subtyping via Time-Aware LSTM Networks",
        "doi:10.1145/3097983.3097997",
    )
    guide = Guide(
        "lstm",
        "Use it when steps are records at irregular times, such as visits of patients.",
        ("irregular time",),
    )

    def check_values(self, sequences: Any) -> None:
        """Refuse time gaps that are negative."""
        check_gaps(self, sequences[1])


TimeAwareLSTMCell.spec = dataclasses.replace(
    TimeAwareLSTMCell.spec,
    deviations=("the authors' code has the gates' activation in place of tanh for the short part",),
    # A gap near zero is a huge number where decay is "inverse".
    draw_inputs=lambda inputs: [inputs[0], np.abs(inputs[1]) + 0.25],
)
