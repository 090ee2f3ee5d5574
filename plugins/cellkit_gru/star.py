"""STAR."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_gru")
class STARCell(cellkit.EquationCell):
    """STAR: a gated cell made for deep stacks, whose gradients keep their size from layer to layer.

    Paper: Turkoglu, D'Aronco, Wegner and Schindler 2021, "Gating Revisited: Deep Multi-layer
    RNNs That Can Be Trained", arXiv:1911.11033.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(STARCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    z  = tanh(W_z @ x + b_z)                   transformed input
    k  = s(W_k @ x + U_k @ h + b_k)            gate
    h' = tanh((1 - k) * h + k * z)
    """
    guide = Guide(
        "gru",
        "Use it when many recurrent layers are stacked and upper layers do not learn.",
        ("tiny", "stable"),
    )
