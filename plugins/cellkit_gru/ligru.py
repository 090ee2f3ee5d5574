"""LiGRU."""

from __future__ import annotations

import dataclasses

import keras

import cellkit
from cellkit.registry import Paper


@keras.saving.register_keras_serializable(package="cellkit_gru")
class LiGRUCell(cellkit.EquationCell):
    """Li-GRU: a GRU without reset gate, with rectified candidates.

    Paper: Ravanelli, Brakel, Omologo and Bengio 2018, "Light Gated Recurrent Units for Speech
    Recognition", arXiv:1803.10225.

    The paper normalises ``W @ x`` over the batch, which a cell of one step leaves to a layer
    before it; without normalisation the states of a rectified cell may grow.

    Departure: no batch normalisation of the inputs' products.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(LiGRUCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    z  = s(W_z @ x + U_z @ h + b_z)            update gate
    n  = relu(W_n @ x + U_n @ h + b_n)         candidate
    h' = z * h + (1 - z) * n
    """
    paper = Paper(
        "Ravanelli, Brakel, Omologo and Bengio",
        2018,
        "Light Gated Recurrent Units for Speech Recognition",
        "arXiv:1803.10225",
    )


LiGRUCell.spec = dataclasses.replace(
    LiGRUCell.spec,
    aliases={"ligru": {}},
    deviations=("no batch normalisation of the inputs' products",),
)
