"""The simple recurrent unit."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_linear")
class SRUCell(cellkit.EquationCell, states=("c",)):
    """The simple recurrent unit: gates see the state of their own unit alone.

    Paper: Lei, Zhang, Wang, Dai and Artzi 2018, "Simple Recurrent Units for Highly Parallelizable
    Recurrence", arXiv:1709.02755, section 3.

    All products are with inputs and are done for all steps at once; what is left per step is a few
    operations on each unit. `SRUV1Cell` is the earlier form, whose gates do not see the state: its
    recurrence is linear.

    Departure: the way past the state has a matrix, as in the authors' code where inputs and units
    differ in number; the paper adds inputs as they are, scaled.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[c]` of shape `(batch, units)`. Output: `y` of shape
    `(batch, units)`, which is not a state.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(SRUCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    f  = s(W_f @ x + v_f * c + b_f)            forget gate
    r  = s(W_r @ x + v_r * c + b_r)            reset gate
    c' = f * c + (1 - f) * (W @ x)
    y  = r * c' + (1 - r) * (W_s @ x)          past the state
    """
    guide = Guide(
        "linear",
        "Use it when speed counts as much as accuracy and many layers are stacked.",
        ("tiny", "language"),
    )
    deviations = (
        "the way past the state has a matrix, as in the authors' code where inputs and units "
        "differ in number",
    )
