"""The phased LSTM, whose units open and close with the time."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from cellkit.cells import (
    number,
    probability,
)
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, blocks, gate_blocks, rename
from cellkit_lstm.peephole_lstm import PeepholeLSTMCell


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class PhasedLSTMCell(PeepholeLSTMCell):
    """The LSTM whose units are updated only while a clock of their own holds them open.

    Paper: Neil, Pfeiffer and Liu 2016, "Phased LSTM: Accelerating Recurrent Network Training for
    Long or Event-based Sequences", arXiv:1610.09513.

    ```
    phi = ((t - shift) mod tau) / tau                      phase of each unit, in [0, 1)
    opening = 2 * phi / r_on;  closing = 2 - opening;  closed = alpha * phi
    k = opening if phi < r_on / 2 else closing if phi < r_on else closed
    i, f, o = s(W @ x + U @ h + b)                         or with peepholes, as in that LSTM
    g = tanh(W_g @ x + U_g @ h + b_g)
    c~ = f * c + i * g;  h~ = o * tanh(c~)
    c' = k * c~ + (1 - k) * c
    h' = k * h~ + (1 - k) * h
    ```

    The time t of each step is an input. It may have any unit and origin, and may run either way
    (the gate depends on t alone), so nothing is assumed of it. phased-lstm-keras counts steps
    instead; TensorFlow contrib's cell took (t, x).

    Args:
        units: Number of units H.
        alpha: The leak of closed units. Default 0.001, the paper's. It lets gradients through.
        leak_at_inference: True if closed units leak at inference too. Default True, so that a
            trained cell computes what it computed in training; False leaves them exactly as they
            are.
        ratio_on: Initial r_on, the part of its period that a unit is open. Default 0.05, as in the
            paper.
        trainable_ratio_on: True if r_on is learned. Default False: the paper keeps it fixed.
        period_range: Smallest and largest initial period tau, drawn uniformly in the logarithm.
            Default (1, 1000), that of TensorFlow contrib. Choose it to span the times in the data.
        peepholes: True if the LSTM has the peepholes of the paper. Default False: Greff et al. 2015
            (arXiv:1503.04069) found that they can be left out.
        **kwargs: `peephole_initializer` as in `PeepholeLSTMCell`, `unit_forget_bias` and `max_time`
            as in `LSTMBase`, and options of `cellkit.Cell`. `dropout` drops elements of x, never t.

    Inputs: a tuple of x `(batch, features)` and t `(batch, 1)`; so `(batch, time, features)` and
    `(batch, time, 1)` for the layer. Times take the compute dtype, as all inputs: under a 16-bit
    policy, count them from the start of the sequence. States: `[h, c]`, each `(batch, units)`.
    Output: `h'`.

    Example:
    >>> import cellkit
    >>> import numpy as np
    >>> layer = cellkit.RNN(PhasedLSTMCell(8, period_range=(1.0, 100.0)))
    >>> x, t = np.zeros((2, 10, 3)), np.cumsum(np.ones((2, 10, 1)), axis=1)
    >>> tuple(layer((x, t)).shape)
    (2, 8)
    """

    def __init__(
        self,
        units: int,
        *,
        alpha: float = 0.001,
        leak_at_inference: bool = True,
        ratio_on: float = 0.05,
        trainable_ratio_on: bool = False,
        period_range: Any = (1.0, 1000.0),
        peepholes: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, peepholes=peepholes, **kwargs)
        self.alpha = probability(type(self), "alpha", alpha)
        self.leak_at_inference = bool(leak_at_inference)
        self.ratio_on = number(type(self), "ratio_on", ratio_on, above=0, at_most=1)
        self.trainable_ratio_on = bool(trainable_ratio_on)
        self.period_range = _range(period_range)

    def build(self, input_shape: Any) -> None:
        """Create the weights of the LSTM, and period, shift and open ratio of each unit."""
        super().build(_features(input_shape))
        low, high = (math.log(p) for p in self.period_range)
        uniform, seed, size = keras.random.uniform, self.seed_generator, (self.units,)

        def periods(shape: Any, dtype: Any = None) -> Any:
            return keras.ops.exp(low + (high - low) * uniform(shape, dtype=dtype, seed=seed))

        def shifts(shape: Any, dtype: Any = None) -> Any:
            return uniform(shape, dtype=dtype, seed=seed) * keras.ops.cast(self.tau, dtype)

        self.tau = self.add_weight(shape=size, name="tau", initializer=periods)
        self.shift = self.add_weight(shape=size, name="shift", initializer=shifts)
        self.r_on = self.add_weight(
            shape=size,
            name="r_on",
            initializer=keras.initializers.Constant(self.ratio_on),
            trainable=self.trainable_ratio_on,
        )

    def drop_inputs(self, inputs: Any) -> Any:
        """Drop elements of x; the time comes through whole."""
        x, t = inputs
        return super().drop_inputs(x), t

    def project(self, inputs: Any) -> Any:
        """Return the product of the LSTM with x, and the openness of every unit."""
        x, t = inputs
        where, tau, r_on = keras.ops.where, self.tau, self.r_on
        phi = keras.ops.mod(t - self.shift, tau) / tau
        leak = self.alpha * phi if self.leak_at_inference or self.in_training else 0.0 * phi
        closing = where(phi < r_on, 2 - 2 * phi / r_on, leak)
        return super().project(x), where(phi < r_on / 2, 2 * phi / r_on, closing)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step of the LSTM, as far as each unit is open."""
        (z, k), (h, c) = projected, states
        _, (new_h, new_c) = super().step(z, states)
        h, c = k * new_h + (1 - k) * h, k * new_c + (1 - k) * c
        return h, [h, c]


def _features(shapes: Any) -> Any:
    """Return the shape of x, and raise when the inputs are not x and t."""
    pair = isinstance(shapes, (list, tuple)) and len(shapes) == 2
    if pair and all(isinstance(s, (list, tuple)) and len(s) == 2 for s in shapes):
        if shapes[1][1] == 1:
            return shapes[0]
    raise problem(
        "PhasedLSTMCell needs the time of every step beside the inputs.",
        received=f"inputs of one step with shape {shapes}",
        expected="a pair of x, (batch, features), and t, (batch, 1); for the layer (batch, time, "
        "features) and (batch, time, 1)",
        fix="call `layer((x, t))`; where the steps are regular, t may count them; a t of shape "
        "(batch, time) needs `t[..., None]`",
    )


def _range(value: Any) -> tuple[float, float]:
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    if (
        not pair
        or not all(isinstance(p, (int, float)) for p in value)
        or not 0 < value[0] <= value[1]
    ):
        raise problem(
            "`period_range` of PhasedLSTMCell is not a range of periods.",
            received=f"period_range={value!r}",
            expected="two numbers above 0, the smaller one first",
            fix="pass e.g. period_range=(1.0, 1000.0), in the unit of the times",
        )
    return float(value[0]), float(value[1])


def reference(w: Any, inputs: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step at inference from the equations."""
    (x, t), (h, c) = inputs, states
    tau, r_on = w["tau"], w["r_on"]
    phi = ((t - w["shift"]) % tau) / tau
    closed = config["alpha"] * phi if config["leak_at_inference"] else 0 * phi
    k = np.select([phi < r_on / 2, phi < r_on], [2 * phi / r_on, 2 - 2 * phi / r_on], closed)
    _, (updated_h, updated_c) = PeepholeLSTMCell.spec.reference(w, x, states, config)
    new_h, new_c = k * updated_h + (1 - k) * h, k * updated_c + (1 - k) * c
    return new_h, [new_h, new_c]


PhasedLSTMCell.spec = CellSpec(
    guide=Guide(
        "lstm",
        "Use it when samples come at their own times, from several sensors, or very many of them.",
        ("long memory", "time scales", "irregular time"),
    ),
    reference=reference,
    inputs=(("features",), (1,)),
    states=("h", "c"),
    symbols=gate_blocks(["i", "f", "g", "o"])
    | rename({"tau": "tau", "shift": "shift", "r_on": "r_on"})
    | blocks("peephole_kernel", ["p_i", "p_f", "p_o"], optional=True),
    cases={
        "default": {"units": 4},
        "peepholes": {"units": 3, "peepholes": True, "ratio_on": 0.4, "trainable_ratio_on": True},
        "no_leak": {"units": 3, "leak_at_inference": False, "ratio_on": 1.0, "activation": "relu"},
        "no_bias": {"units": 2, "use_bias": False, "alpha": 0.01, "period_range": (2.0, 10.0)},
        "dropout": {"units": 4, "dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1},
    },
    # The rounding of a phase is multiplied by the slope of the gate, 2 / r_on = 40.
    tolerance=40.0,
    deviations=(
        "The paper's LSTM has peepholes; here they are an option, and off.",
        "phased-lstm-keras has no time input: it counts the steps.",
    ),
).completed(PhasedLSTMCell)
