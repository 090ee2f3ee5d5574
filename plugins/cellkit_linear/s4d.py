"""The diagonal structured state space model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import LinearCell, TensorSpec, as_dtype, choice, positive_int, vector_size
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, rename
from cellkit_linear._complex import (
    columns,
    complex_dtype,
    fixed,
    from_columns,
    generator,
    number_range,
    refuse_zoneout,
    to_complex,
)
from cellkit_linear._discrete import (
    DISCRETIZATIONS,
    discretized,
    reference_discretized,
    stored_eigenvalues,
)

_STARTS = ("lin", "inv")


@keras.saving.register_keras_serializable(package="cellkit_linear")
class S4DCell(LinearCell):
    """The diagonal state space model: every channel has a small linear system of its own.

    Paper: Gu, Gupta, Goel and Re 2022, "On the Parameterization and Initialization of Diagonal
    State Space Models", arXiv:2206.11893, sections 3 and 4.

    ```
    per channel h and mode n, with dt[h] = exp(log_dt[h]):
    zoh:       lb = exp(lam * dt);                  Bb = (lb - 1) / lam * B
    bilinear:  lb = (1 + lam * dt / 2) / (1 - lam * dt / 2)
               Bb = dt / (1 - lam * dt / 2) * B
    s'[h,n] = lb[h,n] * s[h,n] + Bb[h,n] * x[h]
    y[h] = 2 * Re(sum_n C[h,n] * s'[h,n]) + D[h] * x[h]
    ```

    lam, B and C are complex. The modes come in conjugate pairs, of which one half is kept, hence
    the 2. Channels do not mix: in the paper an activation and a matrix follow, which are layers of
    their own here. `S5Cell` is the relative with one system for all channels.

    The real part of lam is stored as a logarithm, as in the paper, so that no step of the training
    makes the system unstable.

    Args:
        units: Number of channels H. Inputs must be as wide.
        state_units: Number of modes N kept per channel. Default 32, a state of 64 as in the paper.
        discretization: `"zoh"` (default, as in the paper) or `"bilinear"`.
        start: Of lam: `"lin"` (default), ``-1/2 + i pi n``, or `"inv"`,
            ``-1/2 + i (2 N / pi) (2 N / (2 n + 1) - 1)``. The paper finds both good, and "lin" the
            simplest.
        dt_min: Smallest exp(log_dt) at the start. Default 0.001, as in the paper.
        dt_max: Largest one. Default 0.1, as in the paper; the logarithms are uniformly distributed.
        **kwargs: Options of `cellkit.LinearCell`. Activations, biases and initializers are not
            used: B starts at one, C and D are normal, as in the paper.

    Inputs: `(batch, units)`. States: `[s]`, complex, of shape `(batch, units, state_units)`.
    Output: y of shape `(batch, units)`.

    Raises:
        ValueError: If the inputs are not `units` wide.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(S4DCell(8), return_sequences=True)
    >>> layer.compute_output_shape((None, 10, 8))
    (None, 10, 8)
    """

    def __init__(
        self,
        units: int,
        *,
        state_units: int = 32,
        discretization: str = "zoh",
        start: str = "lin",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        refuse_zoneout(self)
        self.state_units = positive_int(type(self), "state_units", state_units)
        self.discretization = choice(type(self), "discretization", discretization, DISCRETIZATIONS)
        self.start = choice(type(self), "start", start, _STARTS)
        self.dt_min, self.dt_max = number_range(self, dt_min=dt_min, dt_max=dt_max)

    @property
    def state_size(self) -> TensorSpec:
        """The complex state."""
        return TensorSpec((self.units, self.state_units), dtype=complex_dtype(self))

    @property
    def output_size(self) -> int:
        """Width of the output: `units`."""
        return int(self.units)

    def build(self, input_shape: Any) -> None:
        """Create lam, B and C in pairs, D (`feedthrough`) and `log_dt`."""
        super().build(input_shape)
        features, size = vector_size(self, input_shape), (self.units, self.state_units)
        if features != self.units:
            raise problem(
                "An S4DCell takes inputs as wide as itself.",
                received=f"{features} features for units={self.units}",
                expected="as many features as units: each channel has a system of its own",
                fix=f"make the cell with units={features}, or put a `keras.layers.Dense"
                f"({self.units})` in front of it",
            )
        rng, modes = generator(self), self.state_units
        n, low, high = np.arange(modes), np.log(max(self.dt_min, 1e-6)), np.log(self.dt_max)
        turns = {"lin": np.pi * n, "inv": 2 * modes / np.pi * (2 * modes / (2 * n + 1) - 1)}
        pairs = rng.normal(size=(*size, 2)) * np.sqrt(0.5)
        weights = {
            "log_decay": np.full(size, np.log(0.5)),
            "frequency": np.tile(turns[self.start], (self.units, 1)),
            "input_pairs": np.tile([1.0, 0.0], (self.units, modes)),
            "output_pairs": pairs.reshape(self.units, -1),
            "feedthrough": rng.normal(size=self.units),
            "log_dt": low + (high - low) * rng.random(self.units),
        }
        for name, value in weights.items():
            made = self.add_weight(shape=value.shape, initializer=fixed(value), name=name)
            setattr(self, name, made)

    def coefficients(self, projected: Any) -> tuple[Any, Any]:
        """Return the discretized systems."""
        dtype = self.accumulator_dtype
        rate, frequency, log_dt, pairs = (
            as_dtype(w + 0.0, dtype)
            for w in (self.log_decay, self.frequency, self.log_dt, self.input_pairs)
        )
        dt, rate = keras.ops.exp(log_dt)[:, None], -keras.ops.exp(rate)
        a, factor = discretized(self, rate, frequency, dt)
        x = as_dtype(as_dtype(projected, dtype)[:, :, None], complex_dtype(self))
        return a, factor * to_complex(pairs) * x

    def read(self, states: Any, projected: Any) -> Any:
        """Return the real part of what C makes of the state, and what passes by it."""
        dtype = self.accumulator_dtype
        c = to_complex(as_dtype(self.output_pairs + 0.0, dtype))
        y = 2 * keras.ops.sum(keras.ops.real(c * states[0]), axis=-1)
        return self.as_output(y) + self.feedthrough * projected


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (s,) = states
    lb, factor = reference_discretized(w["lam"], np.exp(w["log_dt"])[:, None], config)
    s = lb * s + factor * w["B"] * x[:, :, None]
    return 2 * np.real((w["C"] * s).sum(axis=-1)) + w["D"] * x, [s]


S4DCell.spec = CellSpec(
    guide=Guide(
        "linear",
        "Use it when sequences are very long and every channel can remember for itself.",
        ("parallel", "long memory"),
    ),
    reference=reference,
    inputs=(4,),
    states=("s",),
    symbols=stored_eigenvalues("S4DCell")
    | rename({"input_pairs": "B", "output_pairs": "C"}, to_symbol=columns, from_symbol=from_columns)
    | rename({"feedthrough": "D", "log_dt": "log_dt"}),
    cases={
        "default": {"units": 4, "state_units": 3, "seed": 1},
        "bilinear": {"units": 4, "state_units": 2, "discretization": "bilinear", "seed": 1},
        "inv": {"units": 4, "state_units": 5, "start": "inv", "dt_max": 0.5, "seed": 2},
        "dropout": {"units": 4, "state_units": 2, "dropout": 0.4, "seed": 1},
    },
    traits={"masking", "stateful", "dropout", "linear", "fp32_state"},
    deviations=("The paper's activation and output matrix are layers of their own.",),
).completed(S4DCell)
