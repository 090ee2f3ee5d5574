"""SGU."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_gru")
class SGUCell(cellkit.EquationCell):
    """SGU: the simple gated unit, in which input and state are multiplied.

    Paper: Gao and Glowacka 2016, "Deep Gate Recurrent Neural Network", arXiv:1604.02910.

    Departure: the product's input has a bias, as in torchrecurrent.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(SGUCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    g  = tanh(U_g @ ((W_g @ x + b_x) * h) + b_g)       product of input and state
    n  = softplus(g * h)                               candidate
    z  = hard_sigmoid(W_z @ x + U_z @ h + b_z)         update gate
    h' = (1 - z) * h + z * n
    """
    guide = Guide(
        "gru",
        "Use it when input and state should be multiplied, with fewer weights than a GRU.",
        ("tiny",),
    )
    deviations = ("the product's input has a bias, as in torchrecurrent",)
