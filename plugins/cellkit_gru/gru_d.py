"""GRU-D: a GRU for series with missing values, measured at irregular times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from cellkit.cells import Cell, TensorSpec, check_gaps, choice, matmul, plus, resolve, split
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, blocks, gate_blocks, rename
from cellkit.registry.reference import activation, relu

_NAMES = ("values", "observed", "dt")


@keras.saving.register_keras_serializable(package="cellkit_gru")
class GRUDCell(Cell):
    """GRU-D: a missing value decays from the last one observed to the mean, and so does the state.

    Paper: Che, Purushotham, Cho, Sontag and Liu 2016, "Recurrent Neural Networks for Multivariate
    Time Series with Missing Values", arXiv:1606.01865.

    ```
    d: time since each variable was last observed; m: 1 where it is observed now, else 0
    gx = exp(-relu(w_x * d + c_x))                             decay of the inputs
    gh = exp(-relu(W_d @ d + c_h))                             decay of the state
    x^ = m * x + (1 - m) * (gx * x_last + (1 - gx) * x_mean)
    h^ = gh * h
    z = s(W_z @ x^ + U_z @ h^ + V_z @ m + b_z)                 update gate
    r = s(W_r @ x^ + U_r @ h^ + V_r @ m + b_r)                 reset gate
    n = tanh(W_n @ x^ + U_n @ (r * h^) + V_n @ m + b_n)        candidate
    h' = (1 - z) * h^ + z * n
    x_last' = m * x + (1 - m) * x_last
    ```

    The paper's `d` grows with the missing values of a variable: it is the time since the step
    before, plus the `d` of that step where the variable was missing then. It is an input, as in
    the paper, or the cell keeps count itself (`gaps="step"`), which streams want.

    Not fixed by the paper: `x_last` before the first observation. It starts at the mean here, so
    that a variable never observed counts as its mean. PyPOTS feeds (x^, h^, m) to a GRU that
    resets after the product: another cell.

    Args:
        units: Number of units H.
        mean: The empirical means of the variables, a sequence of F numbers. They become the weight
            `mean`, which does not train. Default None: zeros, right for standardised variables.
        gaps: Form of `dt`. `"variable"` (default): the paper's d, F numbers per step. `"step"`:
            one number, the time since the step before; the cell makes d from it.
        decay_initializer: Initializer of w_x and W_d. Default None: uniform in [0, 0.1], because
            relu passes no gradient to a decay that starts below zero.
        **kwargs: Options of `cellkit.Cell`: `activation` for n, `recurrent_activation` for z and
            r. `dropout` drops elements of x^; masks and gaps come through whole.

    Inputs: a dict of `"values"` `(batch, F)`, `"observed"` `(batch, F)` and `"dt"` `(batch, F)`, or
    `(batch, 1)` with `gaps="step"`; or a tuple in this order. `observed`
    holds flags: where it is zero or false the value is not looked at, and may be NaN.
    States: `[h, x_last]` of shapes `(batch, units)`, `(batch, F)`; with `gaps="step"` also the time
    `(batch, F)` since the last observation, zero where the variable has just been observed.
    Output: `h'`.

    Example:
    >>> import cellkit
    >>> import numpy as np
    >>> series = {
    ...     "values": np.array([[[0.5, np.nan], [np.nan, np.nan], [0.1, 2.0]]]),
    ...     "observed": np.array([[[1, 0], [0, 0], [1, 1]]]),
    ...     "dt": np.array([[[0.0], [0.3], [1.2]]]),
    ... }
    >>> layer = cellkit.RNN(GRUDCell(8, mean=[0.2, 1.0], gaps="step"), return_sequences=True)
    >>> tuple(layer(series).shape)
    (1, 3, 8)
    """

    def __init__(
        self,
        units: int,
        *,
        mean: Any = None,
        gaps: str = "variable",
        decay_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        self.mean = None if mean is None else _means(mean)
        self.gaps = choice(type(self), "gaps", gaps, ("variable", "step"))
        decay = decay_initializer or keras.initializers.RandomUniform(0.0, 0.1)
        self.decay_initializer = resolve(type(self), "decay_initializer", decay)

    @property
    def state_size(self) -> list[Any]:
        """Sizes of h, x_last and, with gaps per step, the time since the last observation."""
        waited = [TensorSpec((None,))] if self.gaps == "step" else []
        return [TensorSpec((self.units,)), TensorSpec((None,), initializer=self._start), *waited]

    def state_spec(self) -> list[TensorSpec]:
        """Return the shapes of the states with the number of variables of the built cell."""
        h, *rest = super().state_spec()
        size = getattr(self, "features", None)
        return [h, *(TensorSpec((size,), s.dtype, s.initializer) for s in rest)]

    def _start(self, shape: Any, dtype: Any = None) -> Any:
        return keras.ops.cast(self.empirical_mean, dtype)

    def build(self, input_shape: Any) -> None:
        """Create the weights of the gates, of the two decays, and the means."""
        self.features = _features(self, _named(self, input_shape))
        super().build(input_shape)
        size, width = self.features, 3 * self.units
        self.empirical_mean = self.add_weight(
            shape=(size,), name="empirical_mean", trainable=False, initializer=self._mean
        )
        self.input_decay = self.add_kernel(
            (size,), "input_decay", initializer=self.decay_initializer
        )
        self.state_decay = self.add_kernel(
            (size, self.units), "state_decay", initializer=self.decay_initializer
        )
        self.input_decay_bias = self.add_bias((size,), "input_decay_bias")
        self.state_decay_bias = self.add_bias((self.units,), "state_decay_bias")
        self.kernel = self.add_kernel((size, width))
        self.mask_kernel = self.add_kernel((size, width), "mask_kernel")
        self.recurrent_kernel = self.add_recurrent_kernel((self.units, width))
        self.bias = self.add_bias((width,))

    def _mean(self, shape: Any, dtype: Any = None) -> Any:
        return keras.ops.convert_to_tensor(np.zeros(shape) + (self.mean or 0), dtype=dtype)

    def drop_inputs(self, inputs: Any) -> Any:
        """Leave the inputs whole: what is dropped is x^, which `step` makes from them."""
        return inputs

    def check_values(self, sequences: Any) -> None:
        """Refuse time gaps that are negative."""
        check_gaps(self, _named(self, sequences)["dt"])

    def project(self, inputs: Any) -> Any:
        """Return x, m and the gaps, and the part of the gates that depends on m."""
        named = _named(self, inputs)
        m = named["observed"]
        x = keras.ops.where(m == 0, 0.0, named["values"])  # nothing, not even NaN, where missing
        gates = matmul(m, self.mask_kernel)
        return x, m, named["dt"], plus(gates, self.bias)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        x, m, d, v = projected
        h, last = states[:2]
        d = d + states[2] if self.gaps == "step" else d
        gx = _decay(d * self.input_decay, self.input_decay_bias)
        gh = _decay(matmul(d, self.state_decay), self.state_decay_bias)
        filled = m * x + (1 - m) * (gx * last + (1 - gx) * self.empirical_mean)
        h, last = gh * h, m * x + (1 - m) * last
        dropped, u = self.drop(h), self.recurrent_kernel
        a_z, a_r, a_n = split(matmul(super().drop_inputs(filled), self.kernel) + v, 3)
        h_z, h_r = split(matmul(dropped, u, slice(2 * self.units)), 2)
        z, r = self.recurrent_activation(a_z + h_z), self.recurrent_activation(a_r + h_r)
        n = self.activation(a_n + matmul(r * dropped, u, slice(2 * self.units, None)))
        h = (1 - z) * h + z * n
        return h, [h, last, (1 - m) * d][: len(states)]


def _means(mean: Any) -> list[float]:
    means = np.asarray(mean)
    if means.ndim != 1 or means.dtype.kind not in "iuf" or not np.isfinite(means).all():
        raise problem(
            "The means of GRUDCell are not one number per variable.",
            received=f"mean={mean!r}",
            expected="a sequence of finite numbers, as many as there are variables",
            fix="pass e.g. mean=np.nanmean(values, axis=(0, 1))",
        )
    return [float(value) for value in means]


def _decay(x: Any, bias: Any) -> Any:
    return keras.ops.exp(-keras.ops.relu(plus(x, bias)))


def _named(cell: GRUDCell, inputs: Any) -> dict[str, Any]:
    """Return the three inputs, or their shapes, by name."""
    if isinstance(inputs, Mapping) and set(inputs) == set(_NAMES):
        return dict(inputs)
    if isinstance(inputs, (list, tuple)) and len(inputs) == 3:
        if not any(x is None or isinstance(x, int) for x in inputs):  # not one shape
            return dict(zip(_NAMES, inputs, strict=True))
    raise problem(
        f"{type(cell).__name__} takes values, a mask of what was observed, and time gaps.",
        received=f"the inputs {sorted(inputs)}" if isinstance(inputs, Mapping) else f"{inputs}",
        expected="a dict with 'values', 'observed' and 'dt', or a tuple in this order",
        fix="pass all three; with gaps='step', 'dt' is the time since the step before",
    )


def _features(cell: GRUDCell, shapes: dict[str, Any]) -> int:
    """Return the number of variables, after checking that the inputs agree on it."""
    size = shapes["values"][-1]
    gaps = size if cell.gaps == "variable" else 1
    mean = size if cell.mean is None else len(cell.mean)
    widths = [tuple(shapes[name][1:]) for name in _NAMES]
    if size is None or mean != size or widths != [(size,), (size,), (gaps,)]:
        raise problem(
            "The inputs of GRUDCell do not fit each other.",
            received=", ".join(f"{n} of shape {tuple(shapes[n])}" for n in _NAMES)
            + ("" if cell.mean is None else f", and mean of length {len(cell.mean)}"),
            expected=f"values and observed (batch, F), dt (batch, {'F' if gaps != 1 else 1}), "
            "and F means",
            fix="give every variable a value, a flag and a mean; with one gap per step, make the "
            "cell with gaps='step'",
        )
    return int(size)


def reference(w: Any, inputs: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    x, m, d = inputs["values"], inputs["observed"], inputs["dt"]
    x = np.where(m == 0, 0, x)
    h, last = states[:2]
    if config["gaps"] == "step":
        d = d + states[2]
    s, tanh = activation(config["recurrent_activation"]), activation(config["activation"])
    gx = np.exp(-relu(w["w_x"] * d + w.get("c_x", 0)))
    gh = np.exp(-relu(d @ w["W_d"] + w.get("c_h", 0)))
    x_hat = m * x + (1 - m) * (gx * last + (1 - gx) * w["x_mean"])
    h = gh * h
    z = s(x_hat @ w["W_z"] + h @ w["U_z"] + m @ w["V_z"] + w["b_z"])
    r = s(x_hat @ w["W_r"] + h @ w["U_r"] + m @ w["V_r"] + w["b_r"])
    n = tanh(x_hat @ w["W_n"] + (r * h) @ w["U_n"] + m @ w["V_n"] + w["b_n"])
    h = (1 - z) * h + z * n
    last = m * x + (1 - m) * last
    return h, [h, last, (1 - m) * d][: len(states)]


def initial_state(w: Any, batch: int, config: Any) -> list[Any]:
    """Return h = 0, x_last = the means, and no time since the last observation."""
    mean = np.tile(w["x_mean"], (batch, 1))
    rest = [np.zeros_like(mean)] if config["gaps"] == "step" else []
    return [np.zeros((batch, config["units"])), mean, *rest]


GRUDCell.spec = CellSpec(
    guide=Guide(
        "gru",
        "Use it when values are missing and times uneven, and that they are missing tells "
        "something.",
        ("irregular time", "missing values", "several inputs"),
    ),
    reference=reference,
    initial_state=initial_state,
    inputs={"values": ("features",), "observed": ("features",), "dt": ("features",)},
    dims={"features": 3},
    states=("h", "x_last", "waited"),
    symbols=gate_blocks(["z", "r", "n"])
    | blocks("mask_kernel", ["V_z", "V_r", "V_n"])
    | rename({"input_decay": "w_x", "state_decay": "W_d", "empirical_mean": "x_mean"})
    | rename({"input_decay_bias": "c_x", "state_decay_bias": "c_h"}, optional=True),
    more_cases={"mean": {"units": 3, "mean": [0.3, -0.2, 0.5]}},
    deviations=(
        "The last observed value starts at the mean, which the paper leaves open.",
        "PyPOTS feeds the imputed values, the state and the mask to a GRU that resets after the "
        "product: another cell.",
    ),
    aliases={"grud": {}},
    draw_inputs=lambda inputs: {**inputs, "dt": np.abs(inputs["dt"])},
).completed(GRUDCell)
