"""CFN."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_plain")
class CFNCell(cellkit.EquationCell):
    """The chaos-free network: without inputs its states go to zero.

    Paper: Laurent and von Brecht 2016, "A recurrent neural network without chaos",
    arXiv:1612.06212.

    Laurent and von Brecht show that gated cells are chaotic dynamical systems, and that this
    one is not.

    Departure: the input has a bias, as in torchrecurrent.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(CFNCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    theta = s(W_t @ x + U_t @ h + b_t)         how much of the state remains
    eta   = s(W_e @ x + U_e @ h + b_e)         how much of the input enters
    h'    = theta * tanh(h) + eta * tanh(W @ x + b)
    """
    guide = Guide(
        "gru",
        "Use it when the dynamics must stay predictable and fade once inputs end.",
        ("stable", "interpretable", "language"),
    )
    deviations = ("the input has a bias, as in torchrecurrent",)
