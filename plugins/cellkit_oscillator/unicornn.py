"""UnICORNN."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_oscillator")
class UnICORNNCell(
    cellkit.EquationCell, states=("y", "z"), output="y", numbers={"dt": 0.1, "alpha": 1.0}
):
    """UnICORNN: oscillators that do not see each other, each with a frequency of its own.

    Paper: Rusch and Mishra 2021, "UnICORNN: A recurrent model for learning very long time
    dependencies", arXiv:2103.05487.

    A Hamiltonian system, discretised so that it keeps its structure: gradients neither vanish
    nor explode.

    Args:
        units: Number of units H.
        dt: Time of one step. Default 0.1, small enough for the scheme to be stable.
        alpha: Strength of the spring. Default 1.0; the paper searches for it.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[y, z]`, each `(batch, units)`. Output: `y'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(UnICORNNCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    z' = z - dt * s(k) * (tanh(u * y + W @ x + b) + alpha * y)
    y' = y + dt * s(k) * z'
    """
    guide = Guide(
        "oscillator",
        "Use it when sequences are very long and memory for training is scarce.",
        ("long memory", "stable"),
    )
