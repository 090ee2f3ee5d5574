"""The simplified state space layer."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import (
    LinearCell,
    TensorSpec,
    TimeGaps,
    as_dtype,
    choice,
    constant_gap,
    features_beside_gap,
    matmul,
    positive_int,
)
from cellkit.registry import CellSpec, Guide, rename
from cellkit_linear._complex import (
    columns,
    complex_dtype,
    fixed,
    from_columns,
    from_readout,
    generator,
    number_range,
    readout,
    refuse_zoneout,
    to_complex,
    to_pairs,
)
from cellkit_linear._discrete import (
    DISCRETIZATIONS,
    discretized,
    reference_discretized,
    stored_eigenvalues,
)


@keras.saving.register_keras_serializable(package="cellkit_linear")
class S5Cell(TimeGaps, LinearCell):
    """The simplified state space layer: a diagonal linear system in continuous time.

    Paper: Smith, Warrington and Linderman 2022, "Simplified State Space Layers for Sequence
    Modeling", arXiv:2208.04933.

    ```
    step = dt * exp(log_step)                         the time that a step takes, per state
    zoh:       lb = exp(lam * step);                  Bb = (lb - 1) / lam * B
    bilinear:  lb = (1 + lam * step / 2) / (1 - lam * step / 2)
               Bb = step / (1 - lam * step / 2) * B
    s' = lb * s + Bb @ x
    y = 2 * Re(C @ s') + D * x                        Re(C @ s') without conjugate pairs
    ```

    lam, B and C are complex. The states come in conjugate pairs, of which one half is kept, hence
    the 2. D is a vector where the inputs are as wide as the output, as in the paper, else a matrix,
    ``D @ x``.

    lam starts as the eigenvalues of the normal part of the HiPPO-LegS matrix, which keeps a long
    memory, and B and C in the basis of its eigenvectors. Its real part is stored as a logarithm, so
    that no step of the training makes the system unstable; the authors' code has it plain, or
    clipped.

    Args:
        units: Width of the output.
        state_units: Number of complex numbers in the state. Default None: `units`.
        discretization: `"zoh"` (default, as in the paper) or `"bilinear"`.
        conjugate_pairs: True if each state stands for a pair. Default True, as in the paper.
        dt: A number: the time gap of every step. Default 1.0; the paper's steps are equal, and
            their size is learned. None: gaps are inputs, for sequences sampled at any times.
        dt_min: Smallest exp(log_step) at the start. Default 0.001, as in the paper.
        dt_max: Largest one. Default 0.1, as in the paper; the logarithms are uniformly distributed.
        **kwargs: Options of `cellkit.LinearCell`. `kernel_initializer` is for B and C before the
            change of basis, and by default LeCun's normal one, as in the paper's code. `dropout`
            drops elements of x; time gaps come through whole. Activations and biases are not used.

    Inputs: `(batch, features)`; with `dt=None` a pair `(x, dt)` of shapes `(batch, features)` and
    `(batch, 1)`. Gaps are 0 or more; a negative one is an error wherever its value is known before
    the run (not in a compiled one). States: `[s]`, complex, of shape `(batch, state_units)`.
    Output: y of shape `(batch, units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(S5Cell(8, state_units=16, dt=None), return_sequences=True)
    >>> layer.compute_output_shape(((None, 10, 3), (None, 10, 1)))
    (None, 10, 8)
    """

    def __init__(
        self,
        units: int,
        *,
        state_units: int | None = None,
        discretization: str = "zoh",
        conjugate_pairs: bool = True,
        dt: float | None = 1.0,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("kernel_initializer", "lecun_normal")
        super().__init__(units, **kwargs)
        refuse_zoneout(self)
        if state_units is not None:
            state_units = positive_int(type(self), "state_units", state_units)
        self.state_units = state_units
        self.discretization = choice(type(self), "discretization", discretization, DISCRETIZATIONS)
        self.conjugate_pairs = bool(conjugate_pairs)
        self.dt = constant_gap(type(self), dt, "leave it out for regular steps")
        self.dt_min, self.dt_max = number_range(self, dt_min=dt_min, dt_max=dt_max)

    @property
    def state_size(self) -> TensorSpec:
        """The complex state."""
        return TensorSpec(self.state_units or self.units, dtype=complex_dtype(self))

    def build(self, input_shape: Any) -> None:
        """Create lam, the step, B (`kernel`), C (`output_kernel`) and D (`feedthrough`)."""
        super().build(input_shape)
        features, size = (
            features_beside_gap(self, input_shape, "leave `dt` out for regular steps"),
            self.state_units or self.units,
        )
        lam, basis = hippo(size, self.conjugate_pairs)
        low, high = np.log(max(self.dt_min, 1e-6)), np.log(self.dt_max)
        steps = low + (high - low) * generator(self).random(size)
        weights = {"log_decay": np.log(-lam.real), "frequency": lam.imag, "log_step": steps}
        for name, value in weights.items():
            setattr(self, name, self.add_weight(shape=(size,), initializer=fixed(value), name=name))

        def real(shape: Any, dtype: Any) -> Any:
            draw = self.draw_apart(self.kernel_initializer, tuple(shape))
            return keras.ops.convert_to_numpy(draw(shape, dtype=dtype))

        def input_map(shape: Any, dtype: Any = None) -> Any:
            values = real((features, len(basis)), dtype) @ basis.conj()
            return fixed(from_columns(values))(shape, dtype)

        def output_map(shape: Any, dtype: Any = None) -> Any:
            values = basis.T @ real((len(basis), self.units), dtype)
            return fixed(from_readout(values))(shape, dtype)

        self.kernel = self.add_kernel((features, 2 * size), initializer=input_map)
        shape = (2 * size, self.units)
        self.output_kernel = self.add_kernel(shape, "output_kernel", initializer=output_map)
        shape = (self.units,) if features == self.units else (features, self.units)
        self.feedthrough = self.add_weight(
            shape=shape,
            initializer=keras.initializers.RandomNormal(stddev=1.0, seed=self.seed),
            name="feedthrough",
        )

    def project(self, inputs: Any) -> dict[str, Any]:
        """Return ``B @ x`` in pairs, what passes by the state, and the time gaps if there are."""
        x, gaps = (inputs, {}) if self.dt is not None else (inputs[0], {"dt": inputs[1]})
        vector = len(self.feedthrough.shape) == 1
        y = x * self.feedthrough if vector else matmul(x, self.feedthrough)
        return {"b": matmul(x, self.kernel), "y": y, **gaps}

    def coefficients(self, projected: Any) -> tuple[Any, Any]:
        """Return the discretized system."""
        dtype = self.accumulator_dtype
        rate, frequency, log_step = (
            as_dtype(w + 0.0, dtype) for w in (self.log_decay, self.frequency, self.log_step)
        )
        dt = self.dt if self.dt is not None else as_dtype(projected["dt"], dtype)
        step, rate = dt * keras.ops.exp(log_step), -keras.ops.exp(rate)
        a, factor = discretized(self, rate, frequency, step)
        return a, factor * to_complex(as_dtype(projected["b"], dtype))

    def read(self, states: Any, projected: Any) -> Any:
        """Return the real part of what C makes of the state, and what passes by it."""
        y = matmul(self.as_output(to_pairs(states[0])), self.output_kernel)
        return (2 * y if self.conjugate_pairs else y) + projected["y"]


def hippo(size: int, conjugate_pairs: bool) -> tuple[Any, Any]:
    """Return eigenvalues and eigenvectors of the normal part of the HiPPO-LegS matrix.

    Args:
        size: Number of them.
        conjugate_pairs: True to take one of each conjugate pair, of a matrix twice as large.

    Returns:
        The eigenvalues `(size,)`, and the eigenvectors as columns, `(n, size)`.
    """
    n = 2 * size if conjugate_pairs else size
    root = np.sqrt(np.arange(n) + 0.5)
    # LegS plus the rank-one term that makes it normal: minus a half of the identity plus a skew
    # matrix, whose eigenvalues are imaginary.
    upper = np.triu(np.outer(root, root), 1)
    skew = upper - upper.T
    imaginary, vectors = np.linalg.eigh(-1j * skew)
    chosen = slice(n - size, n)  # in ascending order: the upper half is positive
    return -0.5 + 1j * imaginary[chosen], vectors[:, chosen]


def reference(w: Any, inputs: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (s,) = states
    gap = config.get("dt", 1.0)
    x, dt = inputs if gap is None else (inputs, gap)
    lb, factor = reference_discretized(w["lam"], dt * np.exp(w["log_step"]), config)
    s = lb * s + factor * (x @ w["B"])
    y = np.real(s @ w["C"]) * (2 if config.get("conjugate_pairs", True) else 1)
    return y + (x * w["D"] if w["D"].ndim == 1 else x @ w["D"]), [s]


S5Cell.spec = CellSpec(
    guide=Guide(
        "linear",
        "Use it when long signals are sampled from continuous time, such as sound or measurements.",
        ("parallel", "long memory", "irregular time"),
    ),
    reference=reference,
    states=("s",),
    symbols=stored_eigenvalues("S5Cell")
    | rename({"kernel": "B"}, to_symbol=columns, from_symbol=from_columns)
    | rename({"output_kernel": "C"}, to_symbol=readout, from_symbol=from_readout)
    | rename({"feedthrough": "D", "log_step": "log_step"}),
    cases={
        "default": {"units": 4, "seed": 1},
        "as_wide": {"units": 3, "state_units": 5, "conjugate_pairs": False, "seed": 1},
        "bilinear": {"units": 2, "discretization": "bilinear", "dt": 0.5, "seed": 1},
        "dropout": {"units": 4, "dropout": 0.4, "seed": 1},
    },
    traits={"masking", "stateful", "dropout", "linear", "fp32_state"},
    deviations=(
        "The real part of lam is stored as a logarithm, which keeps it negative.",
        "One block of HiPPO at the start; the paper can divide the states into several.",
        "D is a matrix where inputs and output differ in width.",
    ),
).completed(S5Cell)
