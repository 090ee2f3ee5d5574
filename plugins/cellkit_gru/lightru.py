"""LightRU."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_gru")
class LightRUCell(cellkit.EquationCell):
    """The light recurrent unit: one gate, and a candidate that does not see the state.

    Paper: Ye, Zhang, Zhang and Liu 2024, "Light Recurrent Unit: Towards an Interpretable
    Recurrent Neural Network for Modeling Long-Range Dependency",
    doi:10.3390/electronics13163204.

    Departure: the candidate has a bias, as in torchrecurrent.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(LightRUCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    n  = tanh(W @ x + b)                       candidate
    f  = s(W_f @ x + U_f @ h + b_f)            gate
    h' = (1 - f) * h + f * n
    """
    guide = Guide(
        "gru",
        "Use it when a GRU should be halved and its candidate need not see the state.",
        ("tiny",),
    )
    deviations = ("the candidate has a bias, as in torchrecurrent",)
