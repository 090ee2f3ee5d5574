"""MultiplicativeLSTM."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class MultiplicativeLSTMCell(cellkit.EquationCell, initializers={"b_f": "ones"}):
    """The multiplicative LSTM: its recurrent weights depend on the input.

    Paper: Krause, Lu, Murray and Renals 2016, "Multiplicative LSTM for sequence modelling",
    arXiv:1609.07959.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(MultiplicativeLSTMCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    m  = (W_m @ x) * (U_m @ h)                 intermediate state
    i  = s(W_i @ x + V_i @ m + b_i)            input gate
    f  = s(W_f @ x + V_f @ m + b_f)            forget gate
    g  = tanh(W_g @ x + V_g @ m + b_g)         candidate
    o  = s(W_o @ x + V_o @ m + b_o)            output gate
    c' = f * c + i * g
    h' = o * tanh(c')
    """
    guide = Guide(
        "lstm",
        "Use it when each input symbol should have a transition of its own, as for characters.",
        ("language",),
    )
