"""OriginalLSTM."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class OriginalLSTMCell(cellkit.EquationCell):
    """The LSTM of 1997, without forget gate: what was added stays.

    Paper: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory",
    doi:10.1162/neco.1997.9.8.1735.

    Departure: one cell per block, and gradients through everything.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(OriginalLSTMCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    i  = s(W_i @ x + U_i @ h + b_i)            input gate
    g  = tanh(W_g @ x + U_g @ h + b_g)         candidate
    o  = s(W_o @ x + U_o @ h + b_o)            output gate
    c' = c + i * g
    h' = o * tanh(c')
    """
    guide = Guide(
        "lstm",
        "Use it when counting without forgetting is wanted, or history is studied.",
        ("long memory",),
    )
    deviations = ("one cell per block, and gradients through everything",)
