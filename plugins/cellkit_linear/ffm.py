"""Fast and forgetful memory."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import (
    LinearCell,
    TensorSpec,
    as_dtype,
    choice,
    matmul,
    normalize,
    plus,
    positive_int,
    positive_number,
    split,
    vector_size,
)
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, WeightMap, configured, gate_blocks, rename
from cellkit.registry.reference import activation
from cellkit_linear._complex import (
    complex_dtype,
    cos,
    fixed,
    join,
    refuse_zoneout,
    sin,
)

_SKIPS = ("linear", "identity")


@keras.saving.register_keras_serializable(package="cellkit_linear")
class FFMCell(LinearCell):
    """Fast and forgetful memory: traces that fade, each of them at several frequencies.

    Paper: Morad, Kortvelesy, Liwicki and Prorok 2023, "Reinforcement Learning with Fast and
    Forgetful Memory", arXiv:2310.04128, section 4.

    ```
    x~ = (W_p @ x + b_p) * s(W_i @ x + b_i)              what is remembered, one number a trace
    S'[m,c] = exp(-|alpha[m]| + 1j * omega[c]) * S[m,c] + x~[m]
    z  = W_z @ [Re S'; Im S'] + b_z                      the memory, mixed
    o  = s(W_o @ x + b_o)                                output gate
    u  = W_u @ x + b_u        skip="linear"
    u  = x                    skip="identity"
    y  = norm(z * o) + (1 - o) * u
    norm(v) = (v - mean(v)) / sqrt(var(v) + epsilon)
    ```

    A trace m forgets at its own rate, as human memory does, and each context c turns it at its own
    frequency, so that the phases of a trace tell when something was seen. Rates and frequencies
    are learned, and depend on no input: all steps are scanned at once.

    Args:
        units: Width of the output.
        traces: Number of traces M. Default None: `units`.
        contexts: Number of contexts C. Default 4: the state has ``2 M C`` numbers, and few
            frequencies suffice to tell times apart.
        skip: Path beside the memory: a linear map of x (`"linear"`, default, for inputs of any
            width), or x itself (`"identity"`, for inputs as wide as `units`), as in memax.
        max_decay: Largest |alpha| at the start. Default 0.5, after which a trace is gone in ten
            steps; the rates are evenly spread from nearly zero to there.
        min_period: Shortest period of a context at the start, in steps. Default 1.
        max_period: Longest one. Default 1024; the periods are evenly spread.
        epsilon: Added to the variance. Default 1e-5.
        **kwargs: Options of `cellkit.LinearCell`: `recurrent_activation` for the gates.
            `activation` is not used.

    Inputs: `(batch, features)`. States: `[S]`, complex, of shape `(batch, traces, contexts)`.
    Output: y of shape `(batch, units)`.

    Raises:
        ValueError: With `skip="identity"`, if the inputs are not `units` wide.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(FFMCell(8, traces=6), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 8), (None, 6, 4))
    """

    def __init__(
        self,
        units: int,
        *,
        traces: int | None = None,
        contexts: int = 4,
        skip: str = "linear",
        max_decay: float = 0.5,
        min_period: float = 1.0,
        max_period: float = 1024.0,
        epsilon: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        refuse_zoneout(self)
        self.traces = None if traces is None else positive_int(type(self), "traces", traces)
        self.contexts = positive_int(type(self), "contexts", contexts)
        self.skip = choice(type(self), "skip", skip, _SKIPS)
        self.max_decay = positive_number(type(self), "max_decay", max_decay)
        self.min_period = positive_number(type(self), "min_period", min_period)
        self.max_period = positive_number(type(self), "max_period", max_period)
        if self.max_period < self.min_period:
            raise problem(
                "The periods of FFMCell are not a range.",
                received=f"min_period={min_period!r}, max_period={max_period!r}",
                expected="numbers with 0 < min_period <= max_period",
                fix="leave both out for periods from 1 to 1024 steps",
            )
        self.epsilon = positive_number(type(self), "epsilon", epsilon)

    @property
    def state_size(self) -> TensorSpec:
        """The complex state."""
        return TensorSpec((self.traces or self.units, self.contexts), dtype=complex_dtype(self))

    @property
    def output_size(self) -> int:
        """Width of the output: `units`."""
        return int(self.units)

    def build(self, input_shape: Any) -> None:
        """Create alpha (`decay`), omega (`frequency`), and the maps before and behind them."""
        super().build(input_shape)
        features, traces = vector_size(self, input_shape), self.traces or self.units
        if self.skip == "identity" and features != self.units:
            raise problem(
                "An FFMCell that lets its inputs pass takes inputs as wide as itself.",
                received=f"{features} features for units={self.units}, skip='identity'",
                expected="as many features as units",
                fix=f"make the cell with units={features}, or leave `skip` out",
            )
        self.widths = [traces, traces, self.units, *([self.units] * (self.skip == "linear"))]
        self.kernel = self.add_kernel((features, sum(self.widths)))
        self.bias = self.add_bias((sum(self.widths),))
        self.mix_kernel = self.add_kernel((2 * traces * self.contexts, self.units), "mix_kernel")
        self.mix_bias = self.add_bias((self.units,), "mix_bias")
        decay = np.linspace(1e-6, self.max_decay, traces)
        frequency = 2 * np.pi / np.linspace(self.min_period, self.max_period, self.contexts)
        self.decay = self.add_weight((traces,), fixed(decay), name="decay")
        self.frequency = self.add_weight((self.contexts,), fixed(frequency), name="frequency")

    def project(self, inputs: Any) -> dict[str, Any]:
        """Return what is remembered, the output gate, and what passes by the memory."""
        projected = plus(matmul(inputs, self.kernel), self.bias)
        p, i, o, *u = split(projected, self.widths)
        s = self.recurrent_activation
        return {"x": p * s(i), "o": s(o), "u": u[0] if u else inputs}

    def coefficients(self, projected: Any) -> tuple[Any, Any]:
        """Return how the traces fade and turn, and what is added to them in all contexts."""
        dtype = self.accumulator_dtype
        alpha, omega = as_dtype(self.decay + 0.0, dtype), as_dtype(self.frequency + 0.0, dtype)
        kept = keras.ops.exp(-keras.ops.abs(alpha))[:, None]
        turned = join(kept * cos(omega), kept * sin(omega))
        x = as_dtype(projected["x"], dtype)[:, :, None]
        return turned, as_dtype(x, complex_dtype(self))

    def read(self, states: Any, projected: Any) -> Any:
        """Return the normalised memory, and what passes by it, as the gate weighs them."""
        S, o, u = states[0], projected["o"], projected["u"]
        parts = keras.ops.concatenate([keras.ops.real(S), keras.ops.imag(S)], axis=-1)
        parts = self.as_output(keras.ops.reshape(parts, (-1, self.mix_kernel.shape[0])))
        z = plus(matmul(parts, self.mix_kernel), self.mix_bias)
        return normalize(z * o, self.epsilon) + (1 - o) * u


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (S,) = states
    s = activation(config["recurrent_activation"])
    remembered = (x @ w["W_p"] + w["b_p"]) * s(x @ w["W_i"] + w["b_i"])
    S = np.exp(-np.abs(w["alpha"])[:, None] + 1j * w["omega"]) * S + remembered[:, :, None]
    parts = np.concatenate([np.real(S), np.imag(S)], axis=-1).reshape(len(x), len(w["W_z"]))
    o = s(x @ w["W_o"] + w["b_o"])
    v = (parts @ w["W_z"] + w["b_z"]) * o
    v = (v - v.mean(axis=-1, keepdims=True)) / np.sqrt(
        v.var(axis=-1, keepdims=True) + config["epsilon"]
    )
    u = x @ w["W_u"] + w["b_u"] if config["skip"] == "linear" else x
    return v + (1 - o) * u, [S]


def _gates(config: Any) -> WeightMap:
    """Return the map of the products of the input; where x itself passes by, there is no u."""
    units, traces = config["units"], config.get("traces") or config["units"]
    widths = {"p": traces, "i": traces, "o": units, "u": units}
    if config.get("skip", "linear") != "linear":
        del widths["u"]
    return gate_blocks(widths, recurrent_kernel=None)


FFMCell.spec = CellSpec(
    reference=reference,
    cases={
        "default": {"units": 4},
        "traces": {"units": 3, "traces": 2, "contexts": 5, "max_period": 20.0},
        "no_bias": {"units": 3, "contexts": 1, "use_bias": False, "epsilon": 1e-2},
        "dropout": {"units": 4, "traces": 3, "dropout": 0.4, "seed": 1},
    },
    symbols=configured(_gates)
    | rename({"decay": "alpha", "frequency": "omega", "mix_kernel": "W_z"})
    | rename({"mix_bias": "b_z"}, like="mix_kernel"),
    traits=frozenset({"masking", "stateful", "dropout", "linear", "fp32_state"}),
    deviations=("memax lets x itself pass by the memory, skip='identity'.",),
    aliases={"ffm": {"skip": "identity"}},
    states=("S",),
    guide=Guide(
        "linear",
        "Use it when an agent has to remember over long episodes and is trained on whole ones.",
        ("parallel", "long memory", "time scales", "stable", "reinforcement learning"),
    ),
).completed(FFMCell)
