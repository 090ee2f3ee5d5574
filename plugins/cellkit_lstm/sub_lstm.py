"""SubLSTM."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class SubLSTMCell(cellkit.EquationCell, initializers={"b_f": "ones"}):
    """subLSTM: gates that subtract, as inhibitory neurons do.

    Paper: Costa, Assael, Shillingford, de Freitas and Vogels 2017, "Cortical microcircuits as
    gated-recurrent neural networks", arXiv:1711.02448.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(SubLSTMCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    i  = s(W_i @ x + U_i @ h + b_i)            input gate, subtracted
    f  = s(W_f @ x + U_f @ h + b_f)            forget gate
    z  = s(W_z @ x + U_z @ h + b_z)            candidate
    o  = s(W_o @ x + U_o @ h + b_o)            output gate, subtracted
    c' = f * c + z - i
    h' = s(c') - o
    """
    guide = Guide(
        "lstm",
        "Use it when gates should subtract, as in models of cortical circuits.",
        ("interpretable",),
    )
