"""HGRN."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_linear")
class HGRNCell(cellkit.EquationCell, output="y", numbers={"gamma": 0.0}):
    """HGRN: a linear recurrence whose forget gate has a lower bound.

    Paper: Qin, Yang and Zhong 2023, "Hierarchically Gated Recurrent Neural Network for Sequence
    Modeling", arXiv:2311.04823, section 3.

    Layers further up are given larger bounds, and so a longer memory. Linear in its state, it is
    run by the parallel scan.

    Departure: the paper's state is complex and turns by a learned angle; here it is real, as in
    the authors' later code. The norm and the projection after the output gate are layers of their
    own.

    Args:
        units: Number of units H.
        gamma: Lower bound of the forget gate. Default 0.0, that of the lowest layer; the paper
            learns those of the others, which grow from layer to layer towards 1.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: y of shape
    `(batch, units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(HGRNCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    c  = silu(W_c @ x + b_c)                        what enters
    f  = gamma + (1 - gamma) * s(W_f @ x + b_f)     how much of the state stays
    h' = f * h + (1 - f) * c
    y  = s(W_g @ x + b_g) * h'                      output gate
    """
    guide = Guide(
        "linear",
        "Use it when layers are stacked and those further up are to remember longer.",
        ("parallel", "long memory", "time scales", "language"),
    )
    deviations = (
        "The paper's state is complex and turns by a learned angle; here it is real, as in the "
        "authors' later code.",
        "The norm and the projection after the output gate are left out.",
    )
