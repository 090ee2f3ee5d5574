"""UR-LSTM."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

import cellkit
from cellkit.registry import Guide


def spread(shape: Any, dtype: Any = None) -> Any:
    """Return biases of gates that are open by amounts from 1 / n to 1 - 1 / n, evenly spread.

    Args:
        shape: `(n,)`.
        dtype: Dtype of the biases.
    """
    edge = 1.0 / max(2, shape[0])
    u = np.linspace(edge, 1.0 - edge, shape[0])
    return keras.ops.convert_to_tensor(-np.log(1.0 / u - 1.0), dtype=dtype)


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class URLSTMCell(cellkit.EquationCell, initializers={"b": spread}):
    """UR-LSTM: a refine gate moves the forget gate to where it has a gradient.

    Paper: Gu, Gulcehre, Paine, Hoffman and Pascanu 2020, "Improving the Gating Mechanism of
    Recurrent Neural Networks", arXiv:1910.09890, section 3.

    A gate near 0 or 1 is saturated and learns slowly. The effective gate g lies between ``f ^ 2``
    and ``1 - (1 - f) ^ 2``, wherever the refine gate puts it. The bias starts so that the forget
    gates are evenly spread, where the paper draws them: some units remember from the start for as
    many steps as there are units.

    Departure: ur-lstm-torch gives the two gates biases of their own besides.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(URLSTMCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    f  = s(W_f @ x + U_f @ h + b)              forget gate
    r  = s(W_r @ x + U_r @ h - b)              refine gate
    g  = 2 * r * f + (1 - 2 * r) * f ^ 2       effective gate
    u  = tanh(W_u @ x + U_u @ h + b_u)         candidate
    o  = s(W_o @ x + U_o @ h + b_o)            output gate
    c' = g * c + (1 - g) * u
    h' = o * tanh(c')
    """
    guide = Guide(
        "lstm",
        "Use it when an LSTM should remember for longer without the choice of a forget bias.",
        ("long memory", "time scales", "reinforcement learning"),
    )
    deviations = (
        "the bias starts evenly spread, where the paper draws it from a uniform distribution",
        "ur-lstm-torch gives the two gates biases of their own besides",
    )
