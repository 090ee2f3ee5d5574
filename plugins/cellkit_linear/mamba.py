"""Mamba, the selective state space (S6)."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import (
    LinearCell,
    TensorSpec,
    as_dtype,
    matmul,
    plus,
    positive_int,
    softplus,
    split,
    vector_size,
)
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, WeightMap, blocks, configured, rename
from cellkit.registry.reference import softplus as numpy_softplus
from cellkit_linear._complex import fixed


@keras.saving.register_keras_serializable(package="cellkit_linear")
class MambaCell(LinearCell):
    """Mamba: a state space whose step, input and output maps the input chooses.

    Paper: Gu and Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
    arXiv:2312.00752, sections 3.2 to 3.4: the selective state space S6 in the block around it.

    ```
    p, z = W_p @ x, W_z @ x
    u = silu(sum of w_conv[j] * p at the last steps + b_conv)     a convolution over time
    B, C = W_B @ u, W_C @ u
    dt = softplus(W_dt @ (W_r @ u) + b_dt)
    s' = exp(-dt * exp(A_log)) * s + dt * B * u                   indices (unit, state)
    y = W_out @ ((s' @ C + D * u) * silu(z))
    ```

    The norm before the block and the residual connection around it are layers of their own. The
    convolution needs the p of the steps before: their inputs are a state. Steps that are masked are
    not in it.

    Args:
        units: Width of the output.
        inner_units: Width of p, z and u. Default None: ``2 * units``, as in the paper.
        state_units: Number of numbers in the state for each unit of u. Default 16, as in the paper.
        kernel_width: Number of steps that the convolution sees. Default 4, as in the authors' code.
        step_rank: Width of W_r @ u. Default None: units / 16, rounded up, as in the authors' code.
        **kwargs: Options of `cellkit.LinearCell`. exp(A_log) starts as 1, 2, ... for the states of
            a unit, D as 1, and b_dt so that dt is between 0.001 and 0.1, evenly spread over the
            units in its logarithm, as in the authors' code, which draws it. With `use_bias=False`
            the convolution has no bias. Activations are not used. `zoneout` needs a `kernel_width`
            of 1.

    Inputs: `(batch, features)`. States: `[s, x]`, s of shape `(batch, inner_units, state_units)`
    and float32 under a 16-bit policy; the inputs of the steps before, `(batch, kernel_width - 1,
    features)`, oldest first, with a `kernel_width` above 1. Output: y of shape `(batch, units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(MambaCell(8), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 8), (None, 16, 16), (None, 3, 3))
    """

    def __init__(
        self,
        units: int,
        *,
        inner_units: int | None = None,
        state_units: int = 16,
        kernel_width: int = 4,
        step_rank: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        for name, value in (("inner_units", inner_units), ("step_rank", step_rank)):
            if value is not None:
                positive_int(type(self), name, value)
        self.inner_units, self.step_rank = inner_units, step_rank
        self.state_units = positive_int(type(self), "state_units", state_units)
        self.kernel_width = positive_int(type(self), "kernel_width", kernel_width)
        if self.zoneout and self.kernel_width > 1:
            raise problem(
                "A MambaCell that remembers inputs has no zoneout.",
                received=f"zoneout={self.zoneout}, kernel_width={self.kernel_width}",
                expected="zoneout=0.0 or kernel_width=1: inputs before must move on at every step",
                fix="use `dropout`, or kernel_width=1",
            )
        self.window = self.kernel_width
        self.features: int | None = None

    @property
    def inner(self) -> int:
        """Width of p, z and u."""
        return self.inner_units or 2 * self.units

    @property
    def state_size(self) -> list[TensorSpec]:
        """Shapes of s and of the inputs before; the width of the latter follows from the inputs."""
        s = TensorSpec((self.inner, self.state_units), dtype=self.accumulator_dtype)
        return [s] if self.window == 1 else [s, TensorSpec((self.window - 1, None))]

    def state_spec(self) -> list[TensorSpec]:
        """Return the states with the width of the inputs, once it is known."""
        specs = super().state_spec()
        if self.window > 1:
            shape = (self.window - 1, self.features)
            specs[1] = TensorSpec(shape, dtype=self.compute_dtype)
        return specs

    @property
    def output_size(self) -> int:
        """Width of the output, which is not a state."""
        return self.units

    def build(self, input_shape: Any) -> None:
        """Create the maps in and out, the convolution, and what makes a step."""
        self.features = features = vector_size(self, input_shape)
        super().build(input_shape)
        inner, states = self.inner, self.state_units
        rank = self.step_rank or _rank(self.units)
        self.kernel = self.add_kernel((features, 2 * inner))
        self.conv_kernel = self.add_kernel((self.window, inner), "conv_kernel")
        self.conv_bias = self.add_bias((inner,), "conv_bias")
        self.select_kernel = self.add_kernel((inner, rank + 2 * states), "select_kernel")
        self.step_kernel = self.add_kernel((rank, inner), "step_kernel")
        start = np.log(np.expm1(np.exp(np.linspace(np.log(0.001), np.log(0.1), inner))))
        rates = np.log(np.tile(np.arange(1.0, states + 1), (inner, 1)))
        self.step_bias = self.add_weight((inner,), fixed(start), name="step_bias")
        self.decay = self.add_weight((inner, states), fixed(rates), name="A_log")
        self.skip = self.add_weight((inner,), "ones", name="D")
        self.output_kernel = self.add_kernel((inner, self.units), "output_kernel")

    def project(self, inputs: Any) -> Any:
        """Return what follows from the inputs where a step sees no other, else the inputs."""
        return self.look(inputs[:, None]) if self.window == 1 else inputs

    def look(self, window: Any) -> dict[str, Any]:
        """Return u, z, dt, B and C."""
        inner = self.inner
        p = matmul(window, self.kernel, slice(inner))
        z = matmul(window[:, -1], self.kernel, slice(inner, None))
        u = keras.ops.sum(p * (self.conv_kernel + 0.0), axis=1)
        u = keras.ops.silu(plus(u, self.conv_bias))
        rank = self.step_kernel.shape[0]
        chosen = matmul(u, self.select_kernel)
        low, b, c = split(chosen, [rank, self.state_units, self.state_units])
        dt = softplus(matmul(low, self.step_kernel) + self.step_bias)
        return {"u": u, "z": z, "dt": dt, "B": b, "C": c}

    def coefficients(self, projected: Any) -> tuple[Any, Any]:
        """Return what is kept of the states, and what is added to them."""
        dtype = self.accumulator_dtype
        dt, u, b = (as_dtype(projected[name], dtype) for name in ("dt", "u", "B"))
        rate = as_dtype(keras.ops.exp(self.decay + 0.0), dtype)
        return keras.ops.exp(-dt[:, :, None] * rate), (dt * u)[:, :, None] * b[:, None]

    def read(self, states: Any, projected: Any) -> Any:
        """Return the output: what C reads, what passes by, and the gate."""
        c = as_dtype(projected["C"], self.accumulator_dtype)
        y = self.as_output(keras.ops.sum(states[0] * c[:, None], axis=-1))
        y = (y + self.skip * projected["u"]) * keras.ops.silu(projected["z"])
        return matmul(y, self.output_kernel)


def _rank(units: int) -> int:
    """Return the width of the way to a step where none is given, as in the authors' code."""
    return -(-units // 16)


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    s, *memory = states
    window = np.concatenate([*memory, x[:, None]], axis=1)
    u = silu(np.einsum("bji,ji->bi", window @ w["W_p"], w["w_conv"]) + w["b_conv"])
    z, B, C = x @ w["W_z"], u @ w["W_B"], u @ w["W_C"]
    dt = numpy_softplus(u @ w["W_r"] @ w["W_dt"] + w["b_dt"])
    s = np.exp(-dt[..., None] * np.exp(w["A_log"])) * s + np.einsum("bi,bn->bin", dt * u, B)
    y = np.einsum("bin,bn->bi", s, C) + w["D"] * u
    return (y * silu(z)) @ w["W_out"], [s, *([window[:, 1:]] if memory else [])]


def silu(x: Any) -> Any:
    """Return x times its sigmoid, in NumPy."""
    return x * np.exp(-numpy_softplus(-x))


def _selected(config: Any) -> WeightMap:
    """Return the map of what makes a step, B and C."""
    rank, states = config.get("step_rank") or _rank(config["units"]), config["state_units"]
    return blocks("select_kernel", {"W_r": rank, "W_B": states, "W_C": states})


MambaCell.spec = CellSpec(
    reference=reference,
    cases={
        "default": {"units": 3, "state_units": 4},
        "narrow": {"units": 2, "inner_units": 3, "kernel_width": 1, "step_rank": 2},
        "no_bias": {"units": 2, "kernel_width": 2, "use_bias": False, "state_units": 3},
        "dropout": {"units": 3, "dropout": 0.4, "seed": 1, "state_units": 2},
    },
    symbols=blocks("kernel", ["W_p", "W_z"])
    | configured(_selected)
    | rename({"conv_bias": "b_conv"}, like="conv_kernel")
    | rename(
        {
            "conv_kernel": "w_conv",
            "step_kernel": "W_dt",
            "step_bias": "b_dt",
            "A_log": "A_log",
            "D": "D",
            "output_kernel": "W_out",
        }
    ),
    traits=frozenset({"masking", "stateful", "dropout", "linear", "fp32_state"}),
    deviations=(
        "b_dt starts evenly spread in its logarithm; the authors' code draws it.",
        "The norm before the block and the residual connection around it are left out.",
    ),
    states=("s", "x"),
    guide=Guide(
        "linear",
        "Use it when sequences are long and the input has to choose what is remembered, as in "
        "language models.",
        ("parallel", "long memory", "stable", "language"),
    ),
).completed(MambaCell)
