"""The linear recurrent unit."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from cellkit.cells import (
    LinearCell,
    TensorSpec,
    as_dtype,
    matmul,
    number,
    positive_int,
    vector_size,
)
from cellkit.registry import CellSpec, Guide, rename
from cellkit_linear._complex import (
    columns,
    complex_dtype,
    cos,
    fixed,
    from_columns,
    from_readout,
    generator,
    join,
    number_range,
    readout,
    refuse_zoneout,
    sin,
    to_complex,
    to_pairs,
)


@keras.saving.register_keras_serializable(package="cellkit_linear")
class LRUCell(LinearCell):
    """The linear recurrent unit: a complex state that turns and fades, element by element.

    Paper: Orvieto et al. 2023, "Resurrecting Recurrent Neural Networks for Long Sequences",
    arXiv:2303.06349.

    ```
    lam = exp(-exp(nu_log) + 1j * exp(theta_log))        always inside the unit circle
    s' = lam * s + exp(gamma_log) * (B @ x)
    y = Re(C @ s') + D @ x
    ```

    B and C are complex; their weights are real, real and imaginary parts side by side. There are no
    biases and no activation: in the paper a layer that mixes and one that gates follow.

    The eigenvalues lam start uniformly distributed on the ring between `r_min` and `r_max`, with
    phases up to `max_phase`, and gamma as sqrt(1 - |lam|^2), so that the states are as large as
    the inputs.

    Args:
        units: Width of the output.
        state_units: Number of complex numbers in the state. Default None: `units`.
        r_min: Smallest |lam| at the start, at least 0. Default 0.0, as in the paper's code. Values
            near 1 are for tasks with long dependencies.
        r_max: Largest |lam| at the start, at most 1. Default 1.0, as in the paper's code.
        max_phase: Largest phase at the start. Default 2 pi, as in the paper's code; a small one
            helps with very long sequences.
        **kwargs: Options of `cellkit.LinearCell`. `kernel_initializer` is for B and by default the
            paper's: normal, of variance 1 / (2 features) for each part. Activations and biases are
            not used.

    Inputs: `(batch, features)`. States: `[s]`, complex, of shape `(batch, state_units)`. Output: y
    of shape `(batch, units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(LRUCell(8, state_units=16), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 8), (None, 16))
    """

    def __init__(
        self,
        units: int,
        *,
        state_units: int | None = None,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault(
            "kernel_initializer",
            keras.initializers.VarianceScaling(0.5, "fan_in", "untruncated_normal"),
        )
        super().__init__(units, **kwargs)
        refuse_zoneout(self)
        self.r_min, self.r_max = number_range(self, r_min=r_min, r_max=r_max)
        self.max_phase = number(type(self), "max_phase", max_phase, above=0, at_most=2 * math.pi)
        if state_units is not None:
            state_units = positive_int(type(self), "state_units", state_units)
        self.state_units = state_units

    @property
    def state_size(self) -> TensorSpec:
        """The complex state."""
        return TensorSpec(self.state_units or self.units, dtype=complex_dtype(self))

    def build(self, input_shape: Any) -> None:
        """Create lam, gamma, B (`kernel`), C (`output_kernel`) and D (`feedthrough`)."""
        super().build(input_shape)
        features, size = vector_size(self, input_shape), self.state_units or self.units
        rng = generator(self)
        low, high = self.r_min**2, self.r_max**2
        # Uniform in the area of the ring; 0 and 1 themselves have no logarithm.
        radius = np.clip(np.sqrt(low + (high - low) * rng.random(size)), 1e-4, 1 - 1e-4)
        phase = np.maximum(self.max_phase * rng.random(size), 1e-4)
        weights = {
            "nu_log": np.log(-np.log(radius)),
            "theta_log": np.log(phase),
            "gamma_log": 0.5 * np.log1p(-(radius**2)),
        }
        for name, value in weights.items():
            setattr(self, name, self.add_weight(shape=(size,), initializer=fixed(value), name=name))
        self.kernel = self.add_kernel((features, 2 * size))
        normal = keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")
        shape = (2 * size, self.units)
        self.output_kernel = self.add_kernel(shape, "output_kernel", initializer=normal)
        self.feedthrough = self.add_kernel((features, self.units), "feedthrough")

    def project(self, inputs: Any) -> dict[str, Any]:
        """Return what the inputs add to the state, in pairs, and to the output."""
        gamma = keras.ops.exp(self.gamma_log + 0.0)
        gamma = keras.ops.reshape(keras.ops.stack([gamma, gamma], axis=-1), (-1,))
        return {"b": matmul(inputs, self.kernel * gamma), "y": matmul(inputs, self.feedthrough)}

    def coefficients(self, projected: Any) -> tuple[Any, Any]:
        """Return lam, and what the inputs add."""
        dtype = self.accumulator_dtype
        nu, theta = as_dtype(self.nu_log + 0.0, dtype), as_dtype(self.theta_log + 0.0, dtype)
        radius, phase = keras.ops.exp(-keras.ops.exp(nu)), keras.ops.exp(theta)
        lam = join(radius * cos(phase), radius * sin(phase))
        return lam, to_complex(as_dtype(projected["b"], dtype))

    def read(self, states: Any, projected: Any) -> Any:
        """Return the real part of what C makes of the state, and what passes by it."""
        pairs = self.as_output(to_pairs(states[0]))
        return matmul(pairs, self.output_kernel) + projected["y"]


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (s,) = states
    lam = np.exp(-np.exp(w["nu_log"]) + 1j * np.exp(w["theta_log"]))
    s = lam * s + np.exp(w["gamma_log"]) * (x @ w["B"])
    return np.real(s @ w["C"]) + x @ w["D"], [s]


LRUCell.spec = CellSpec(
    guide=Guide(
        "linear",
        "Use it when dependencies reach over thousands of steps and layers are stacked.",
        ("parallel", "long memory", "stable"),
    ),
    reference=reference,
    states=("s",),
    symbols=rename({"nu_log": "nu_log", "theta_log": "theta_log", "gamma_log": "gamma_log"})
    | rename({"kernel": "B"}, to_symbol=columns, from_symbol=from_columns)
    | rename({"output_kernel": "C"}, to_symbol=readout, from_symbol=from_readout)
    | rename({"feedthrough": "D"}),
    cases={
        "default": {"units": 4, "seed": 1},
        "wide_state": {"units": 2, "state_units": 5, "seed": 1},
        "ring": {"units": 3, "r_min": 0.9, "r_max": 0.99, "max_phase": 0.3, "seed": 2},
        "dropout": {"units": 4, "dropout": 0.4, "seed": 1},
    },
    traits={"masking", "stateful", "dropout", "linear", "fp32_state"},
    deviations=(
        "D starts by `kernel_initializer`, as it is a full matrix; in the paper's code it is a "
        "normal vector.",
    ),
).completed(LRUCell)
