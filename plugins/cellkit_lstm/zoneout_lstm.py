"""The LSTM with zoneout."""

from __future__ import annotations

from typing import Any

import keras

from cellkit.cells import probability
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide
from cellkit.registry.reference import activation
from cellkit_lstm._base import LSTMBase


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class ZoneoutLSTMCell(LSTMBase):
    """The LSTM whose states keep random entries of their old values in training.

    Paper: Krueger et al. 2016, "Zoneout: Regularizing RNNs by Randomly Preserving Hidden
    Activations", arXiv:1606.01305.

    ```
    i = s(W_i @ x + U_i @ h + b_i)
    f = s(W_f @ x + U_f @ h + b_f)
    g = tanh(W_g @ x + U_g @ h + b_g)
    o = s(W_o @ x + U_o @ h + b_o)
    c~ = f * c + i * g
    h~ = o * tanh(c~)
    c' = d_c * c + (1 - d_c) * c~        d_c ~ Bernoulli(zoneout_c), anew at every step
    h' = d_h * h + (1 - d_h) * h~        d_h ~ Bernoulli(zoneout_h)
    ```

    At inference d_c and d_h are their expectations, the rates. h~ sees c~, not the zoned-out c'.
    The output is h' after zoneout (an earlier RETURNN returned h~). haste zones out h alone:
    `zoneout_c=0`.

    Args:
        units: Number of units H.
        zoneout_h: Rate for h, in `[0, 1)`. Default 0.05.
        zoneout_c: Rate for c. Default 0.5. Both are rates of the paper's character-level language
            models; the cell state bears more.
        **kwargs: `unit_forget_bias` and `max_time` as in `LSTMBase`, and options of `cellkit.Cell`
            but for `zoneout`, which has one rate for all states.

    Inputs: `(batch, features)`. States: `[h, c]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(ZoneoutLSTMCell(8, zoneout_h=0.1, zoneout_c=0.0))  # as haste
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    def __init__(
        self, units: int, *, zoneout_h: float = 0.05, zoneout_c: float = 0.5, **kwargs: Any
    ) -> None:
        if kwargs.get("zoneout"):
            raise problem(
                "ZoneoutLSTMCell has one rate of zoneout per state.",
                received=f"zoneout={kwargs['zoneout']!r}",
                expected="`zoneout_h` and `zoneout_c`",
                fix="pass e.g. zoneout_h=0.05, zoneout_c=0.5",
            )
        super().__init__(units, **kwargs)
        self.zoneout_h = probability(type(self), "zoneout_h", zoneout_h)
        self.zoneout_c = probability(type(self), "zoneout_c", zoneout_c)

    def combine(self, gates: dict[str, Any], states: Any) -> tuple[Any, Any]:
        """Update the states as the LSTM does, and keep some of the old ones."""
        updated = gates["f"] * states[1] + gates["i"] * gates["g"]
        h = self.zone(states[0], gates["o"] * self.activation(updated), self.zoneout_h)
        c = self.zone(states[1], updated, self.zoneout_c)
        return h, [h, c]


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step at inference from the equations."""
    h, c = states
    s, tanh = activation(config["recurrent_activation"]), activation(config["activation"])
    i = s(x @ w["W_i"] + h @ w["U_i"] + w["b_i"])
    f = s(x @ w["W_f"] + h @ w["U_f"] + w["b_f"])
    g = tanh(x @ w["W_g"] + h @ w["U_g"] + w["b_g"])
    o = s(x @ w["W_o"] + h @ w["U_o"] + w["b_o"])
    updated_c = f * c + i * g
    updated_h = o * tanh(updated_c)
    d_h, d_c = config["zoneout_h"], config["zoneout_c"]
    new_h, new_c = d_h * h + (1 - d_h) * updated_h, d_c * c + (1 - d_c) * updated_c
    return new_h, [new_h, new_c]


ZoneoutLSTMCell.spec = CellSpec(
    guide=Guide(
        "lstm",
        "Use it when an LSTM overfits and dropout of states would cut its memory.",
        ("regularised", "language"),
    ),
    reference=reference,
    states=("h", "c"),
    more_cases={"h_only": {"units": 3, "zoneout_h": 0.3, "zoneout_c": 0.0}},
    deviations=("haste zones out h only: zoneout_c=0.",),
    aliases={"zoneout": {"zoneout_c": 0.0}},
).completed(ZoneoutLSTMCell)
