"""MUT2."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_gru")
class MUT2Cell(cellkit.EquationCell):
    """MUT2: the second of three cells that a search by mutations found better than a GRU.

    Paper: Jozefowicz, Zaremba and Sutskever 2015, "An Empirical Exploration of Recurrent
    Network Architectures", https://proceedings.mlr.press/v37/jozefowicz15.html.

    Departure: inputs have a matrix where the paper adds them as they are, which fits one width
    alone.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(MUT2Cell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    z  = s(W_z @ x + U_z @ h + b_z)            update gate
    r  = s(W_r @ x + U_r @ h + b_r)            reset gate
    n  = tanh(U @ (r * h) + W @ x + b)         candidate
    h' = z * n + (1 - z) * h
    """
    guide = Guide(
        "gru",
        "Use it when you compare variants of the GRU and want one whose reset gate sees little.",
        (),
    )
    deviations = (
        "inputs have a matrix where the paper adds them as they are, which fits one width alone",
    )
