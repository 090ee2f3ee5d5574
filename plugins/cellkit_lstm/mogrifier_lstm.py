"""MogrifierLSTM."""

from __future__ import annotations

import keras

import cellkit
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class MogrifierLSTMCell(
    cellkit.EquationCell,
    numbers={"rounds": 5},
    initializers={"b_f": "ones"},
    sizes={"p": "rank", "q": "rank"},
):
    """The mogrifier LSTM: inputs and state modulate each other before the step.

    Paper: Melis, Kocisky and Blunsom 2020, "Mogrifier LSTM", arXiv:1909.01792.

    Departure: by default one pair of matrices Q, R serves all rounds, with biases, as in the
    package mogrifier. The paper has a matrix for each round and no biases, ``matrices="each"``,
    and factorises them to save weights, ``matrices="low_rank"``.

    Args:
        units: Number of units H.
        matrices: `"shared"` (default, the smallest), `"each"` or `"low_rank"`.
        rounds: Number of rounds. Default 5, which the paper found best.
        rank: Width between the two factors of a matrix with ``matrices="low_rank"``. Default None:
            `units`, which saves nothing; choose it well below both widths.
        **kwargs: Options of `cellkit.Cell`.

    Inputs: `(batch, features)`. States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(MogrifierLSTMCell(8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    equations = """
    matrices="shared":
        for k = 1..rounds: odd k: x := 2 * s(Q @ h + b_Q) * x;  even k: h := 2 * s(R @ x + b_R) * h
    matrices="each":
        for k = 1..rounds: odd k: x := 2 * s(Q_k @ h) * x;  even k: h := 2 * s(R_k @ x) * h
    matrices="low_rank":
        repeat k = 1..rounds:
            odd k: p := P_k @ h;  x := 2 * s(Q_k @ p) * x
            even k: q := S_k @ x;  h := 2 * s(R_k @ q) * h
    i  = s(W_i @ x + U_i @ h + b_i)            input gate
    f  = s(W_f @ x + U_f @ h + b_f)            forget gate
    g  = tanh(W_g @ x + U_g @ h + b_g)         candidate
    o  = s(W_o @ x + U_o @ h + b_o)            output gate
    c' = f * c + i * g
    h' = o * tanh(c')
    """
    guide = Guide(
        "lstm",
        "Use it when you model text and inputs and state should sharpen each other before the "
        "step.",
        ("language", "depth"),
    )
    deviations = (
        "By default one pair of matrices Q, R serves all rounds, with biases, as in the package "
        "mogrifier; the paper has one matrix per round, matrices='each' or 'low_rank'.",
    )
