"""IndRNN."""

from __future__ import annotations

from typing import Any

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_plain")
class IndRNNCell(cellkit.EquationCell):
    """IndRNN: every unit sees its own past alone, so that many layers can be stacked.

    Paper: Li, Li, Cook, Zhu and Gao 2018, "Independently Recurrent Neural Network (IndRNN):
    Building a Longer and Deeper RNN", arXiv:1803.04831.

    Without a recurrent matrix the gradient of each unit is that of a product of numbers, which
    stays bounded where `u` does. The paper bounds it by ``2 ** (1 / T)`` for sequences of T
    steps: pass `recurrent_constraint` for that.

    Departure: no bound on the recurrent weights; pass `recurrent_constraint` for the paper's.

    Args:
        units: Number of units H.
        activation: The function around the sum. Default `"relu"`, as in the paper; haste has tanh.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(IndRNNCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    h' = tanh(W @ x + u * h + b)
    """
    guide = Guide(
        "plain",
        "Use it when many layers are stacked and each unit should keep a past of its own.",
        ("tiny", "long memory", "interpretable"),
    )
    aliases = {"indrnn": {"activation": "tanh"}}
    deviations = ("no bound on the recurrent weights; pass `recurrent_constraint` for the paper's",)

    def __init__(self, units: int, *, activation: Any = "relu", **kwargs: Any) -> None:
        super().__init__(units, activation=activation, **kwargs)
