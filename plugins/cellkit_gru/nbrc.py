"""NBRC."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_gru")
class NBRCCell(cellkit.EquationCell):
    """The recurrently neuromodulated bistable cell: a BRC whose units modulate each other.

    Paper: Vecoven, Ernst and Drion 2021, "A bio-inspired bistable recurrent cell allows for
    long-lasting memory", arXiv:2006.05252.

    Departure: the candidate has a bias, as in the package brc.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(NBRCCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    a  = 1 + tanh(W_a @ x + U_a @ h + b_a)     between 0 and 2: bistable above 1
    k  = s(W_c @ x + U_c @ h + b_c)            update gate
    h' = k * h + (1 - k) * tanh(W @ x + a * h + b)
    """
    guide = Guide(
        "gru",
        "Use it when bits have to be held for long and other units should say when to flip them.",
        ("long memory",),
    )
    deviations = ("the candidate has a bias, as in the package brc",)
