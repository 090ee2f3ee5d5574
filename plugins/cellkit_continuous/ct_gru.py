"""The continuous-time GRU."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from cellkit.cells import (
    Cell,
    TensorSpec,
    TimeGaps,
    constant_gap,
    features_beside_gap,
    matmul,
    plus,
    positive_int,
    positive_number,
    split,
)
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, gate_blocks
from cellkit.registry.reference import activation


@keras.saving.register_keras_serializable(package="cellkit_continuous")
class CTGRUCell(TimeGaps, Cell):
    """The continuous-time GRU: traces that fade at fixed speeds, and gates that choose a speed.

    Paper: Mozer, Kazakov and Lindsey 2017, "Discrete Event, Continuous Time RNNs",
    arXiv:1710.04110, section 2.

    ```
    with time scales tau[i] = shortest * ratio^i, i = 0 .. scales - 1:
    h = sum_i m[i]
    r[i] = softmax_i(-(W_r @ x + U_r @ h + b_r - log tau[i])^2)     scales that are read
    q = tanh(W_q @ x + U_q @ (sum_i r[i] * m[i]) + b_q)             event
    s[i] = softmax_i(-(W_s @ x + U_s @ h + b_s - log tau[i])^2)     scales that are written
    m'[i] = ((1 - s[i]) * m[i] + s[i] * q) * exp(-dt / tau[i])
    h' = sum_i m'[i]
    ```

    The gates of a GRU choose how much is read and written; those of this cell choose for how long
    it is to last. Each unit has a trace for every time scale, and what a gate asks for, the
    logarithm of a time, is shared out among the scales nearby.

    Args:
        units: Number of units H.
        scales: Number of time scales M. Default 8: with a `ratio` of sqrt(10) they span 3.5 powers
            of ten.
        shortest: The shortest time scale, in the unit of the gaps. Default 1.0. It should be near
            the shortest time that matters.
        ratio: Each time scale over the one before, above 1. Default sqrt(10), as in the paper:
            sums of such traces come near to one that fades at any speed in between.
        dt: A number: the time gap of every step; the inputs are then x alone. Default None: gaps
            are inputs.
        **kwargs: Options of `cellkit.Cell`: `activation` for q; `recurrent_activation` is not used.
            `dropout` drops elements of x; time gaps come through whole.

    Inputs: `(x, dt)` of shapes `(batch, features)` and `(batch, 1)`, the gap being the time over
    which the traces fade after what the step wrote; with `dt=1.0` in the constructor x alone. Gaps
    are 0 or more; a negative one is an error wherever its value is known before the run (not in a
    compiled one). States: `[m]` of shape `(batch, units, scales)`. Output: `h'` of shape
    `(batch, units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(CTGRUCell(8), return_state=True)
    >>> layer.compute_output_shape(((None, 10, 3), (None, 10, 1)))
    ((None, 8), (None, 8, 8))
    """

    def __init__(
        self,
        units: int,
        *,
        scales: int = 8,
        shortest: float = 1.0,
        ratio: float = math.sqrt(10),
        dt: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        self.scales = positive_int(type(self), "scales", scales)
        self.shortest = positive_number(type(self), "shortest", shortest)
        self.ratio = positive_number(type(self), "ratio", ratio)
        if not 1 < self.ratio < math.inf:
            raise problem(
                "The time scales of CTGRUCell do not grow.",
                received=f"ratio={ratio!r}",
                expected="a number above 1: each scale over the one before",
                fix="leave it out for the square root of ten",
            )
        self.dt = constant_gap(type(self), dt, "pass e.g. dt=1.0 for regular steps")

    @property
    def state_size(self) -> TensorSpec:
        """A trace of each unit for every time scale."""
        return TensorSpec((self.units, self.scales))

    @property
    def output_size(self) -> int:
        """Width of the output: `units`."""
        return int(self.units)

    def build(self, input_shape: Any) -> None:
        """Create `kernel`, `recurrent_kernel` and `bias`, in the order r, q, s."""
        super().build(input_shape)
        features = features_beside_gap(
            self, input_shape, "make the cell with dt=1.0 for regular steps"
        )
        self.kernel = self.add_kernel((features, 3 * self.units))
        self.recurrent_kernel = self.add_recurrent_kernel((self.units, 3 * self.units))
        self.bias = self.add_bias((3 * self.units,))
        log_tau = np.log(self.shortest) + np.arange(self.scales) * np.log(self.ratio)
        # Numbers of Python: PyTorch's compiler makes no tensor of an array of NumPy's.
        self.log_tau = tuple(log_tau.tolist())

    def project(self, inputs: Any) -> Any:
        """Return what the inputs bring to r, q and s, and the gap."""
        x, dt = inputs if self.dt is None else (inputs, None)
        projected = plus(matmul(x, self.kernel), self.bias)
        return (projected, dt) if self.dt is None else projected

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        m, U, n = states[0], self.recurrent_kernel, self.units
        projected, dt = projected if self.dt is None else (projected, self.dt)
        x_r, x_q, x_s = split(projected, 3)
        h = self.drop(keras.ops.sum(m, axis=-1))
        r = self.shares(x_r + matmul(h, U, slice(n)))
        read = self.drop(keras.ops.sum(r * m, axis=-1), "read")
        q = self.activation(x_q + matmul(read, U, slice(n, 2 * n)))[:, :, None]
        s = self.shares(x_s + matmul(h, U, slice(2 * n, None)))
        m = ((1 - s) * m + s * q) * self.fading(dt)
        return keras.ops.sum(m, axis=-1), [m]

    def shares(self, log_time: Any) -> Any:
        """Return how much of each scale a gate takes: the softmax of minus a squared distance."""
        log_tau = keras.ops.convert_to_tensor(self.log_tau, dtype=log_time.dtype)
        # The square of the time itself is the same for all scales, so the softmax loses it.
        return keras.ops.softmax((2 * log_time[:, :, None] - log_tau) * log_tau, axis=-1)

    def fading(self, dt: Any) -> Any:
        """Return what is left of a trace of each scale after a gap."""
        if self.dt is not None:
            kept = [math.exp(-dt / math.exp(log_tau)) for log_tau in self.log_tau]
            return keras.ops.convert_to_tensor(kept, dtype=self.compute_dtype)
        rate = [math.exp(-log_tau) for log_tau in self.log_tau]
        rate = keras.ops.convert_to_tensor(rate, dtype=dt.dtype)
        return keras.ops.exp(-dt * rate)[:, None]


def reference(w: Any, inputs: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (m,) = states
    x, dt = inputs if config["dt"] is None else (inputs, config["dt"])
    tau = config["shortest"] * config["ratio"] ** np.arange(config["scales"])

    def shares(log_time: Any) -> Any:
        distance = (log_time[:, :, None] - np.log(tau)) ** 2
        share = np.exp(-(distance - distance.min(axis=-1, keepdims=True)))
        return share / share.sum(axis=-1, keepdims=True)

    h = m.sum(axis=-1)
    r = shares(x @ w["W_r"] + h @ w["U_r"] + w["b_r"])
    q = activation(config["activation"])(x @ w["W_q"] + (r * m).sum(axis=-1) @ w["U_q"] + w["b_q"])
    s = shares(x @ w["W_s"] + h @ w["U_s"] + w["b_s"])
    fading = np.exp(-np.asarray(dt)[..., None] / tau)
    m = ((1 - s) * m + s * q[:, :, None]) * fading
    return m.sum(axis=-1), [m]


CTGRUCell.spec = CellSpec(
    reference=reference,
    inputs=(("features",), (1,)),
    cases={
        "default": {"units": 4},
        "few_scales": {"units": 3, "scales": 2, "shortest": 0.3, "ratio": 2.0},
        "no_bias": {"units": 3, "scales": 3, "use_bias": False, "activation": "relu"},
        "dropout": {
            "units": 4,
            "scales": 4,
            "dropout": 0.4,
            "recurrent_dropout": 0.3,
            "seed": 1,
        },
    },
    symbols=gate_blocks(["r", "q", "s"]),
    states=("m",),
    draw_inputs=lambda inputs: (inputs[0], np.abs(inputs[1])),
    guide=Guide(
        "continuous",
        "Use it when events come at irregular times and each is to be remembered for a time of "
        "its own.",
        ("time scales", "irregular time", "interpretable"),
    ),
).completed(CTGRUCell)
