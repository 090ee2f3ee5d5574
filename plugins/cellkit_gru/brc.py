"""BRC."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_gru")
class BRCCell(cellkit.EquationCell):
    """The bistable recurrent cell: each unit keeps a bit of its own for as long as it likes.

    Paper: Vecoven, Ernst and Drion 2021, "A bio-inspired bistable recurrent cell allows for
    long-lasting memory", arXiv:2006.05252.

    `a` decides whether a unit has one stable point or two, `k` how fast it moves. A unit sees
    no other unit but through inputs.

    Departure: the candidate has a bias, as in the package brc.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(BRCCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    a  = 1 + tanh(W_a @ x + w_a * h + b_a)     between 0 and 2: bistable above 1
    k  = s(W_c @ x + w_c * h + b_c)            update gate
    h' = k * h + (1 - k) * tanh(W @ x + a * h + b)
    """
    guide = Guide(
        "gru",
        "Use it when single units have to hold a bit over long times.",
        ("tiny", "long memory"),
    )
    deviations = ("the candidate has a bias, as in the package brc",)
