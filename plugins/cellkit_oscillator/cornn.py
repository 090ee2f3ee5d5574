"""CoRNN."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_oscillator")
class CoRNNCell(
    cellkit.EquationCell,
    states=("y", "z"),
    output="y",
    numbers={"dt": 0.1, "gamma": 1.0, "epsilon": 1.0},
):
    """coRNN: coupled oscillators, driven by inputs, damped, and discretised in time.

    Paper: Rusch and Mishra 2021, "Coupled Oscillatory Recurrent Neural Network (coRNN): An
    accurate and (gradient) stable architecture for learning long time dependencies",
    arXiv:2010.00951.

    Positions `y` and velocities `z` of second order, whose gradients are bounded for long
    sequences.

    Args:
        units: Number of units H.
        dt: Time of one step. Default 0.1, small enough for the scheme to be stable.
        gamma: Frequency of the oscillators. Default 1.0; the paper searches for it.
        epsilon: Damping. Default 1.0, likewise.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[y, z]`, each `(batch, units)`. Output: `y'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(CoRNNCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    z' = z + dt * (tanh(U @ y + V @ z + W @ x + b) - gamma * y - epsilon * z)
    y' = y + dt * z'
    """
    guide = Guide(
        "oscillator",
        "Use it when sequences are long and gradients must neither vanish nor explode.",
        ("long memory", "stable"),
    )
