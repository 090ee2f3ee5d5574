"""ResidualLSTM."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class ResidualLSTMCell(cellkit.EquationCell, initializers={"b_f": "ones"}):
    """The residual LSTM: the output gate opens a projection of the cell beside one of the input.

    Paper: Kim, El-Khamy and Lee 2017, "Residual LSTM: Design of a Deep Recurrent Architecture
    for Distant Speech Recognition", arXiv:1701.03360.

    The shortcut runs through depth, where that of a highway LSTM runs through cells, so that
    gradients of stacks and of time do not meet.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(ResidualLSTMCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    i  = s(W_i @ x + U_i @ h + p_i * c + b_i)          input gate
    f  = s(W_f @ x + U_f @ h + p_f * c + b_f)          forget gate
    g  = tanh(W_g @ x + U_g @ h + b_g)                 candidate
    c' = f * c + i * g
    o  = s(W_o @ x + U_o @ h + p_o * c' + b_o)         output gate: it sees the new c
    h' = o * (P @ tanh(c') + R @ x)
    """
    guide = Guide("lstm", "Use it when ten and more LSTM layers are stacked.", ("speech", "depth"))
