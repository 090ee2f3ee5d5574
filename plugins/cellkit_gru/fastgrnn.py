"""FastGRNN."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_gru")
class FastGRNNCell(
    cellkit.EquationCell,
    sizes={"zeta": (), "nu": ()},
    initializers={
        "zeta": keras.initializers.Constant(1.0),
        "nu": keras.initializers.Constant(-4.0),
    },
):
    """FastGRNN: gate and candidate share their matrices, for devices with kilobytes.

    Paper: Kusupati, Singh, Bhatia, Kumar, Jain and Varma 2018, "FastGRNN: A Fast, Accurate,
    Stable and Tiny Kilobyte Sized Gated Recurrent Neural Network", arXiv:1901.02358.

    `zeta` and `nu` are logits of two numbers, which start at 1 and -4, as in the authors' code.

    Departure: no low-rank or sparse form of the matrices.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(FastGRNNCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    q  = W @ x + U @ h                         shared by gate and candidate
    z  = s(q + b_z)                            update gate
    n  = tanh(q + b_n)                         candidate
    h' = (s(zeta) * (1 - z) + s(nu)) * n + z * h
    """
    guide = Guide(
        "gru",
        "Use it when the model has to fit into kilobytes, as on a microcontroller.",
        ("tiny",),
    )
    deviations = ("no low-rank or sparse form of the matrices",)
