"""MogrifierLSTM."""

from __future__ import annotations

import dataclasses

import keras

import cellkit
from cellkit.registry import Paper


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class MogrifierLSTMCell(cellkit.EquationCell, numbers={"rounds": 5}, initializers={"b_f": "ones"}):
    """The mogrifier LSTM: inputs and state modulate each other before the step.

    Paper: Melis, Kocisky and Blunsom 2020, "Mogrifier LSTM", arXiv:1909.01792.

    Departure: one pair of matrices Q, R for all rounds, with biases, as in the package
    mogrifier; the paper has one matrix per round.

    Args:
        units: Number of units H.
        rounds: Number of rounds. Default 5, which the paper found best.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(MogrifierLSTMCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    for k = 1..rounds: odd k: x := 2 * s(Q @ h + b_Q) * x;  even k: h := 2 * s(R @ x + b_R) * h
    i  = s(W_i @ x + U_i @ h + b_i)            input gate
    f  = s(W_f @ x + U_f @ h + b_f)            forget gate
    g  = tanh(W_g @ x + U_g @ h + b_g)         candidate
    o  = s(W_o @ x + U_o @ h + b_o)            output gate
    c' = f * c + i * g
    h' = o * tanh(c')
    """
    paper = Paper(
        "Melis, Kocisky and Blunsom",
        2020,
        "Mogrifier LSTM",
        "arXiv:1909.01792",
    )


MogrifierLSTMCell.spec = dataclasses.replace(
    MogrifierLSTMCell.spec,
    aliases={"mogrifier_lstm": {}},
    deviations=(
        "one pair of matrices Q, R for all rounds, with biases, as in the package mogrifier; the "
        "paper has one matrix per round",
    ),
)
