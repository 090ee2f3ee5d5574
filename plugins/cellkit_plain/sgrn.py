"""SGRN."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_plain")
class SGRNCell(cellkit.EquationCell):
    """The simple gated recurrent network: one matrix for gate and candidate.

    Paper: Zu and Wei 2021, "A simple gated recurrent network for detection of power quality
    disturbances", doi:10.1049/gtd2.12056.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(SGRNCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    a  = W @ x + b
    f  = s(a + U @ h)                          gate
    h' = tanh((1 - f) * a + f * h)
    """
    guide = Guide(
        "gru",
        "Use it when gate and candidate may share their matrix, for the smallest gated cell.",
        ("tiny",),
    )
