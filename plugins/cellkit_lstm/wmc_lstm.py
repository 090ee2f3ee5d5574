"""WMCLSTM."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class WMCLSTMCell(cellkit.EquationCell, initializers={"b_f": "ones"}):
    """An LSTM with working memory connections: gates see the cell through matrices, and bounded.

    Paper: Landi, Baraldi, Cornia and Cucchiara 2021, "Working Memory Connections for LSTM",
    arXiv:2109.00020.

    Peepholes show a gate the bare cell, which may be large; here a tanh keeps it small, and
    each gate sees every unit.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(WMCLSTMCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    i  = s(W_i @ x + U_i @ h + tanh(V_i @ c + d_i) + b_i)      input gate
    f  = s(W_f @ x + U_f @ h + tanh(V_f @ c + d_f) + b_f)      forget gate
    g  = tanh(W_g @ x + U_g @ h + b_g)                         candidate
    c' = f * c + i * g
    o  = s(W_o @ x + U_o @ h + tanh(V_o @ c' + d_o) + b_o)     output gate: it sees the new c
    h' = o * tanh(c')
    """
    guide = Guide(
        "lstm",
        "Use it when gates should see the whole memory, as peepholes do for one unit alone.",
        (),
    )
