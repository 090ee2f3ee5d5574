"""IntersectionRNN."""

from __future__ import annotations

import dataclasses

import keras

import cellkit
from cellkit.registry import Paper


@keras.saving.register_keras_serializable(package="cellkit_plain")
class IntersectionRNNCell(cellkit.EquationCell):
    """The +RNN, or intersection RNN: a gate for the way through time, and one for depth.

    Paper: Collins, Sohl-Dickstein and Sussillo 2016, "Capacity and Trainability in Recurrent
    Neural Networks", arXiv:1611.09913.

    The output is no state: a gate takes it from the input or from a candidate, so that it is as
    wide as the inputs. The paper and torchrecurrent want inputs of `units` features.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `y` of shape
    `(batch, features)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(IntersectionRNNCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 3)
    """

    equations = """
    y~ = relu(W_y @ x + U_y @ h + b_y)         candidate of the output
    h~ = tanh(W_h @ x + U_h @ h + b_h)         candidate of the state
    p  = s(W_p @ x + U_p @ h + b_p)            gate of the output
    q  = s(W_q @ x + U_q @ h + b_q)            gate of the state
    y  = p * x + (1 - p) * y~
    h' = q * h + (1 - q) * h~
    """
    paper = Paper(
        "Collins, Sohl-Dickstein and Sussillo",
        2016,
        "Capacity and Trainability in Recurrent Neural Networks",
        "arXiv:1611.09913",
    )


IntersectionRNNCell.spec = dataclasses.replace(
    IntersectionRNNCell.spec, aliases={"intersection_rnn": {}}
)
