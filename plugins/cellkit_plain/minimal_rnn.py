"""MinimalRNN."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_plain")
class MinimalRNNCell(cellkit.EquationCell):
    """MinimalRNN: inputs are mapped to a latent space, in which one gate updates the state.

    Paper: Chen 2017, "MinimalRNN: Toward More Interpretable and Trainable Recurrent Neural
    Networks", arXiv:1711.06788.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(MinimalRNNCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    z  = tanh(W_z @ x + b_z)                   latent input
    u  = s(U_h @ h + U_z @ z + b_u)            update gate
    h' = u * h + (1 - u) * z
    """
    guide = Guide(
        "gru",
        "Use it when one gate should update a latent space whose directions can be read.",
        ("tiny", "interpretable"),
    )
