"""RAN."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_gru")
class RANCell(cellkit.EquationCell):
    """The recurrent additive network: states are weighted sums of inputs, without a candidate.

    Paper: Lee, Levy and Zettlemoyer 2017, "Recurrent Additive Networks", arXiv:1705.07393.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(RANCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    i  = s(W_i @ x + U_i @ h + b_i)            input gate
    f  = s(W_f @ x + U_f @ h + b_f)            forget gate
    c' = i * (W_c @ x) + f * c
    h' = tanh(c')
    """
    guide = Guide(
        "lstm",
        "Use it when states should be weighted sums of the inputs that can be read back.",
        ("interpretable", "language"),
    )
