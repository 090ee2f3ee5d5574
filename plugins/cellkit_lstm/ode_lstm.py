"""The ODE-LSTM."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

import cellkit
from cellkit.cells import check_gaps
from cellkit.registry import Guide


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class ODELSTMCell(
    cellkit.EquationCell,
    inputs=("x", "dt"),
    states=("h", "c"),
    numbers={"ode_unfolds": 3},
    initializers={"scale": "ones"},
):
    """The ODE-LSTM: an LSTM keeps the memory, and its output moves in the time between steps.

    Paper: Lechner and Hasani 2020, "Learning Long-Term Dependencies in Irregularly-Sampled Time
    Series", arXiv:2006.04418, section 3 and algorithm 1.

    The cell state of the LSTM sees no time, so that gradients pass it as they do in an LSTM. The
    hidden state follows an ODE towards what the LSTM gives out, for as long as the gap lasts.

    Departure: the ODE is that of neuralhydrology; the paper leaves f open.

    Args:
        units: Number of units H.
        solver: `"rk4"` (default: fourth order, four evaluations), `"heun"` (two) or `"euler"`
            (one).
        ode_unfolds: Steps of the solver within a gap. Default 3: gaps of about one are solved to
            three digits and more.
        **kwargs: Options of `cellkit.Cell`. `dropout` drops elements of x; gaps come through whole.

    Inputs: `(x, dt)` of shapes `(batch, features)` and `(batch, 1)`, the gap being the time that
    the step covers. Gaps are 0 or more; a negative one is an error wherever its value is known
    before the run (not in a compiled one). States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(ODELSTMCell(8))
    >>> layer.compute_output_shape(((None, 10, 3), (None, 10, 1)))
    (None, 8)
    """

    equations = """
    i  = s(W_i @ x + U_i @ h + b_i)            input gate
    f  = s(W_f @ x + U_f @ h + b_f)            forget gate
    g  = tanh(W_g @ x + U_g @ h + b_g)         candidate
    o  = s(W_o @ x + U_o @ h + b_o)            output gate
    c' = f * c + i * g
    p  = o * tanh(c')                          what the LSTM gives out
    slope(v) = scale * tanh(P @ p + Q @ v + b) - v
    d  = dt / ode_unfolds
    v  = h
    solver="rk4":
        repeat ode_unfolds:
            k_1 := slope(v)
            k_2 := slope(v + d / 2 * k_1)
            k_3 := slope(v + d / 2 * k_2)
            k_4 := slope(v + d * k_3)
            v := v + d / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)
    solver="heun":
        repeat ode_unfolds:
            k_1 := slope(v)
            v := v + d / 2 * (k_1 + slope(v + d * k_1))
    solver="euler":
        repeat ode_unfolds:
            v := v + d * slope(v)
    h' = v
    """
    guide = Guide(
        "continuous",
        "Use it when dependencies are long and the steps come at irregular times.",
        ("irregular time", "long memory"),
    )

    def check_values(self, sequences: Any) -> None:
        """Refuse time gaps that are negative."""
        check_gaps(self, sequences[1])


ODELSTMCell.spec = dataclasses.replace(
    ODELSTMCell.spec,
    aliases={
        "ode_lstm_heun": {"solver": "heun"},
        "ode_lstm_euler": {"solver": "euler"},
    },
    deviations=("the ODE is that of neuralhydrology; the paper leaves f open",),
    # Longer gaps than the solver's steps are made for blow rounding up.
    draw_inputs=lambda inputs: [inputs[0], np.minimum(np.abs(inputs[1]), 2.0)],
    cases={
        # Tracing takes as long as there are evaluations: one case has all of the default's.
        name: {**case, "ode_unfolds": 3 if name == "no_bias" else 1}
        for name, case in ODELSTMCell.spec.cases.items()
    },
)
