"""LEM."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_oscillator")
class LEMCell(cellkit.EquationCell, states=("y", "z"), output="y", numbers={"dt": 1.0}):
    """LEM: long expressive memory, two states with time steps that the inputs decide.

    Paper: Rusch, Mishra, Erichson and Mahoney 2022, "Long Expressive Memory for Sequence
    Modeling", arXiv:2110.04744.

    Departure: torchrecurrent and RecurrentLayers.jl compute y' from the old z.

    Args:
        units: Number of units H.
        dt: Largest time step. Default 1.0, as in the authors' code.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[y, z]`, each `(batch, units)`. Output: `y'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(LEMCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    d1 = dt * s(W_1 @ x + U_1 @ y + b_1)       time step of y
    d2 = dt * s(W_2 @ x + U_2 @ y + b_2)       time step of z
    z' = (1 - d2) * z + d2 * tanh(W_z @ x + U_z @ y + b_z)
    y' = (1 - d1) * y + d1 * tanh(W_y @ x + V @ z' + b_y)
    """
    guide = Guide(
        "oscillator",
        "Use it when one signal has several time scales and long dependencies.",
        ("long memory", "time scales", "stable"),
    )
    deviations = ("torchrecurrent and RecurrentLayers.jl compute y' from the old z",)
