"""The layer-normalised GRU."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_norm")
class LayerNormGRUCell(cellkit.EquationCell, numbers={"epsilon": 1e-5}):
    """The GRU with layer normalisation of both products.

    Paper: Ba, Kiros and Hinton 2016, "Layer Normalization", arXiv:1607.06450, section on recurrent
    networks and equations in the supplement.

    Norms go over all three gates at once, as in haste. The reset gate comes after the recurrent
    product, so that this can be normalised before.

    Departure: the paper's GRU resets after the product too, and it normalises the gates' part and
    the candidate's apart; here, as in haste, they share a norm.

    Args:
        units: Number of units H.
        epsilon: Added to the variances. Default 1e-5, as in haste; the paper gives none.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(LayerNormGRUCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    norm(v) = (v - mean(v)) / sqrt(var(v) + epsilon)
    a_z, a_r, a_n = split(gamma_x * norm(W @ x) + b)
    d_z, d_r, d_n = split(gamma_h * norm(U @ h) + d)
    z  = s(a_z + d_z)                          update gate
    r  = s(a_r + d_r)                          reset gate
    n  = tanh(a_n + r * d_n)                   candidate
    h' = z * h + (1 - z) * n
    """
    guide = Guide(
        "gru",
        "Use it when a GRU learns slowly or its sizes drift, as with long or varied sequences.",
        ("normalised",),
    )
    deviations = (
        "the paper normalises the gates' part and the candidate's apart; here, as in haste, they "
        "share a norm",
    )
