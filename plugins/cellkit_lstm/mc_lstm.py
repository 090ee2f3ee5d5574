"""MemoryControllerLSTM."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide, Paper


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class MemoryControllerLSTMCell(cellkit.EquationCell, states=("v", "c")):
    """The LSTM of a memory controller: one gate for what it says, another for what it remembers.

    Paper: Intel 2017, "Sequence Modeling with a Memory-Controller LSTM, NIPS workshop",
    https://www.intel.com/content/dam/www/public/us/en/ai/documents/Sequence-Modeling-
    NIPS-2017.pdf.

    The output is not a state.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[v, c]`, each `(batch, units)`. Output: `y` of shape
    `(batch, units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(MemoryControllerLSTMCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    f  = s(W_f @ x + V_f @ v + b_f)            forget gate
    i  = s(W_i @ x + V_i @ v + b_i)            input gate
    n  = tanh(W_n @ x + V_n @ v + b_n)         candidate
    o  = s(W_o @ x + V_o @ v + b_o)            output gate
    m  = s(W_m @ x + V_m @ v + b_m)            memory gate
    c' = f * c + i * n
    y  = o * tanh(c')
    v' = m * tanh(c')
    """
    paper = Paper(
        "Intel",
        2017,
        "Sequence Modeling with a Memory-Controller LSTM, NIPS workshop",
        ""
        "https://www.intel.com/content/dam/www/public/us/en/ai/documents/Sequence-Modeling-NIPS-2017.pdf",
    )
    guide = Guide(
        "lstm",
        "Use it when what is said at a step and what is remembered need gates of their own.",
        (),
    )
