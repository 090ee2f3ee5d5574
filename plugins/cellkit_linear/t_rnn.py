"""TRNN."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_linear")
class TRNNCell(cellkit.EquationCell):
    """The strongly typed RNN: gates see inputs alone, and the state is a weighted mean of them.

    Paper: Balduzzi and Ghifary 2016, "Strongly-Typed Recurrent Neural Networks",
    arXiv:1602.02218.

    Linear in its state, it is run by the parallel scan. A quasi-recurrent network of width 1
    with pooling "f" and an identity for tanh computes the same.

    Departure: z has a bias, as in torchrecurrent.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(TRNNCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    z  = W @ x + b                             what enters
    f  = s(V @ x + b_f)                        how much of the state stays
    h' = f * h + (1 - f) * z
    """
    guide = Guide(
        "linear",
        "Use it when the state should be a plain weighted mean of the inputs, trained in parallel.",
        ("tiny", "parallel", "interpretable"),
    )
    deviations = ("z has a bias, as in torchrecurrent",)
