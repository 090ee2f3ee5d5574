"""The minimal LSTM whose gates see the input alone."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np

from cellkit.cells import softplus, split
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, gate_blocks
from cellkit.registry.reference import softplus as numpy_softplus
from cellkit_linear.min_gru import InputGatedCell, numpy_activation, positive


@keras.saving.register_keras_serializable(package="cellkit_linear")
class MinLSTMCell(InputGatedCell):
    """The minimal LSTM without a recurrent product: it trains in parallel over time.

    Paper: Feng et al. 2024, "Were RNNs All We Needed?", arXiv:2410.01201.

    ```
    f = s(W_f @ x + b_f)
    i = s(W_i @ x + b_i)
    F = f / (f + i),  I = i / (f + i)          so that the scale of h does not depend on time
    n = g(W_n @ x + b_n)
    g(v) = v + 0.5 if v >= 0 else sigmoid(v)
    h' = F * h + I * n
    ```

    F is computed as s(softplus(-i~) - softplus(-f~)) of what enters the gates, as in the paper's
    code: the quotient itself is 0 / 0 where both gates are closed.

    Args:
        units: Number of units H.
        activation: Activation of the candidate. Default g, named `positive`, as in the paper's
            code; `"linear"` gives the form of its text.
        **kwargs: Options of `cellkit.LinearCell`. `recurrent_activation` must be the sigmoid, for
            which the formula of F holds.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`, float32 under a 16-bit
    policy. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(MinLSTMCell(8), return_sequences=True)
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 10, 8)
    """

    gates: ClassVar[tuple[str, ...]] = ("f", "i", "n")

    def __init__(self, units: int, *, activation: Any = positive, **kwargs: Any) -> None:
        super().__init__(units, activation=activation, **kwargs)
        if self.recurrent_activation is not keras.activations.sigmoid:
            raise problem(
                "The gates of MinLSTMCell are sigmoids.",
                received=f"recurrent_activation={kwargs['recurrent_activation']!r}",
                expected="'sigmoid': the quotient of the gates has a safe formula for it alone",
                fix="leave it out",
            )

    def coefficients(self, projected: Any) -> tuple[Any, Any]:
        """Return how much is kept, and what is added."""
        f, i, n = split(projected, 3)
        difference = softplus(-i) - softplus(-f)
        kept, added = keras.ops.sigmoid(difference), keras.ops.sigmoid(-difference)
        return kept, added * self.activation(n)


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations, with the gates as logarithms."""
    (h,) = states
    log_f = -numpy_softplus(-(x @ w["W_f"] + w["b_f"]))
    log_i = -numpy_softplus(-(x @ w["W_i"] + w["b_i"]))
    total = np.logaddexp(log_f, log_i)
    n = numpy_activation(config["activation"])(x @ w["W_n"] + w["b_n"])
    h = np.exp(log_f - total) * h + np.exp(log_i - total) * n
    return h, [h]


MinLSTMCell.spec = CellSpec(
    guide=Guide(
        "linear",
        "Use it when a minimal GRU should weigh keeping and writing apart.",
        ("parallel", "long memory"),
    ),
    reference=reference,
    states=("h",),
    symbols=gate_blocks(["f", "i", "n"], recurrent_kernel=None),
    more_cases={"linear": {"units": 3, "activation": "linear"}},
    deviations=(
        "The paper's maps have no bias in its text; here they have one unless use_bias=False.",
        "The paper's code starts from g of the initial state; here the state is h itself.",
    ),
).completed(MinLSTMCell)
