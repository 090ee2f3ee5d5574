"""MGU2."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_gru")
class MGU2Cell(cellkit.EquationCell):
    """MGU2: the minimal gated unit with a gate made of the state alone.

    Paper: Heck and Salem 2017, "Simplified Minimal Gated Unit Variations for Recurrent Neural
    Networks", arXiv:1701.03452.

    The paper takes parts of the gate away, one variation after the other, to see which of them the
    cell needs: its gate sees the state alone. `MGUCell` is the cell with the whole gate.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(MGU2Cell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    f  = s(U_f @ h)                              the gate
    n  = tanh(W @ x + U @ (f * h) + b)         candidate
    h' = (1 - f) * h + f * n
    """
    guide = Guide(
        "gru",
        "Use it when a minimal gated unit should be smaller and its gate may see the state alone.",
        ("tiny",),
    )
