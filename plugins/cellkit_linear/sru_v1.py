"""The first version of the simple recurrent unit."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_linear")
class SRUV1Cell(cellkit.EquationCell, states=("c",)):
    """The simple recurrent unit of the paper's first version: linear in its state.

    Paper: Lei, Zhang, Wang, Dai and Artzi 2018, "Simple Recurrent Units for Highly Parallelizable
    Recurrence", arXiv:1709.02755; the form of its first version of 2017.

    Gates see inputs alone, so the layer scans over all steps in parallel. `SRUCell` is the later
    form, whose gates see the state of their unit.

    Departure: the way past the state has a matrix, as in the authors' code where inputs and units
    differ in number; the paper adds inputs as they are.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[c]` of shape `(batch, units)`, float32 under a 16-bit
    policy. Output: `y` of shape `(batch, units)`, which is not a state.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(SRUV1Cell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    f  = s(W_f @ x + b_f)                      forget gate
    r  = s(W_r @ x + b_r)                      reset gate
    c' = f * c + (1 - f) * (W @ x)
    y  = r * tanh(c') + (1 - r) * (W_s @ x)    past the state
    """
    guide = Guide(
        "linear",
        "Use it when sequences are long and an elementwise gate is memory enough.",
        ("parallel", "language"),
    )
    deviations = (
        "the way past the state has a matrix, as in the authors' code where inputs and units "
        "differ in number",
    )
