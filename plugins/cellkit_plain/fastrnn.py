"""FastRNN."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_plain")
class FastRNNCell(
    cellkit.EquationCell,
    initializers={
        "alpha": keras.initializers.Constant(-3.0),
        "beta": keras.initializers.Constant(3.0),
    },
):
    """FastRNN: a simple cell with a residual path, mixed by two numbers.

    Paper: Kusupati, Singh, Bhatia, Kumar, Jain and Varma 2018, "FastGRNN: A Fast, Accurate,
    Stable and Tiny Kilobyte Sized Gated Recurrent Neural Network", arXiv:1901.02358.

    `alpha` and `beta` are logits of the two numbers. They start at -3 and 3, as in the authors'
    code: the state moves by a twentieth of the candidate at first. RecurrentLayers.jl and
    torchrecurrent start them the other way round.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(FastRNNCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    q  = tanh(W @ x + U @ h + b)           candidate
    h' = s(alpha) * q + s(beta) * h
    """
    guide = Guide(
        "plain",
        "Use it when a simple cell is almost enough and its training has to be stable.",
        ("tiny", "stable"),
    )
