"""ATR."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_gru")
class ATRCell(cellkit.EquationCell):
    """ATR: two gates, of a sum and of a difference, from one matrix for inputs and one for states.

    Paper: Zhang, Xiong, Su, Lin and Zhang 2018, "Simplifying Neural Machine Translation with
    Addition-Subtraction Twin-Gated Recurrent Networks", arXiv:1810.12546.

    Departure: biases, which the paper leaves out.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(ATRCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    p  = W @ x + b
    q  = U @ h + b_q
    i  = s(p + q)                              input gate, by addition
    f  = s(p - q)                              forget gate, by subtraction
    h' = i * p + f * h
    """
    guide = Guide(
        "gru",
        "Use it when text is translated and two gates should cost no more than a simple cell.",
        ("tiny", "interpretable", "language"),
    )
    deviations = ("biases, which the paper leaves out",)
