"""The real-gated linear recurrent unit of Griffin."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import LinearCell, as_dtype, matmul, split, vector_size
from cellkit.registry import CellSpec, Paper, custom
from cellkit.registry.reference import activation, softplus
from cellkit_linear._complex import fixed, generator, number, number_range


@keras.saving.register_keras_serializable(package="cellkit_linear")
class RGLRUCell(LinearCell):
    """The real-gated LRU: a decay per unit that the input can hold back.

    Paper: De et al. 2024, "Griffin: Mixing Gated Linear Recurrences with Local Attention for
    Efficient Language Models", arXiv:2402.19427, section 2.4.

    ```
    u = x                                        where x is H wide, else W_u @ x + b_u
    r = s(W_a @ u + b_a)                         recurrence gate
    i = s(W_x @ u + b_x)                         input gate
    a = s(Lambda)^(c r)                          as exp(-c * softplus(-Lambda) * r)
    h' = a * h + sqrt(1 - a^2) * (i * u)
    ```

    The paper's unit acts on vectors of its own width; inputs of another width are first brought to
    it by the linear map that precedes the unit in the paper's block.

    In the recurrentgemma package the matrices W_a and W_x are block-diagonal, Lambda has the other
    sign, and at the first position of a sequence the factor sqrt(1 - a^2) is left out. The paper
    has none of this, nor has this cell.

    Args:
        units: Number of units H.
        c: Exponent of the decay. Default 8.0, as in the paper.
        min_decay: Smallest value of s(Lambda)^c at the start. Default 0.9, as in the paper.
        max_decay: Largest one. Default 0.999, as in the paper; they are uniformly distributed.
        **kwargs: Options of `cellkit.LinearCell`: `recurrent_activation` for the gates.
            `kernel_initializer` is by default LeCun's normal one, as in the authors' code.
            `activation` is not used.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`, float32 under a 16-bit
    policy. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(RGLRUCell(8), return_sequences=True)
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 10, 8)
    """

    def __init__(
        self,
        units: int,
        *,
        c: float = 8.0,
        min_decay: float = 0.9,
        max_decay: float = 0.999,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("kernel_initializer", "lecun_normal")
        super().__init__(units, **kwargs)
        self.c = number(self, "c", c, 0.0, 1e6)
        bounds = number_range(self, min_decay=min_decay, max_decay=max_decay)
        self.min_decay, self.max_decay = bounds
        self.input_kernel = self.input_bias = None

    def build(self, input_shape: Any) -> None:
        """Create the gates' `kernel` and `bias`, `decay` (Lambda), and the map to u if needed."""
        super().build(input_shape)
        features = vector_size(self, input_shape)
        if features != self.units:
            self.input_kernel = self.add_kernel((features, self.units), "input_kernel")
            self.input_bias = self.add_bias((self.units,), "input_bias")
        self.kernel = self.add_kernel((self.units, 2 * self.units))
        self.bias = self.add_bias((2 * self.units,))
        low, high = self.min_decay, self.max_decay
        start = low + (high - low) * generator(self).random(self.units)
        # s(Lambda) = start^(1/c), so exp(Lambda) = 1 / (start^(-1/c) - 1).
        decay = -np.log(np.expm1(-np.log(np.clip(start, 1e-6, 1 - 1e-6)) / self.c))
        shape = (self.units,)
        self.decay = self.add_weight(shape=shape, initializer=fixed(decay), name="decay")

    def project(self, inputs: Any) -> dict[str, Any]:
        """Return u, and what enters the gates."""
        u = inputs
        if self.input_kernel is not None:
            u = _plus(matmul(inputs, self.input_kernel), self.input_bias)
        return {"u": u, "gates": _plus(matmul(u, self.kernel), self.bias)}

    def coefficients(self, projected: Any) -> tuple[Any, Any]:
        """Return the decay, and the input scaled so that the size of the state is kept."""
        dtype = self.accumulator_dtype
        r, i = map(self.recurrent_activation, split(projected["gates"], 2))
        rate = -self.c * keras.ops.softplus(-as_dtype(self.decay + 0.0, dtype))
        log_a = rate * as_dtype(r, dtype)
        added = as_dtype(i * projected["u"], dtype)
        return keras.ops.exp(log_a), root(-keras.ops.expm1(2 * log_a)) * added


def root(x: Any) -> Any:
    """Return the square root with a finite gradient at zero, where a gate is closed for good."""
    some = x > 1e-30
    return keras.ops.where(some, keras.ops.sqrt(keras.ops.where(some, x, 1.0 + 0.0 * x)), 0.0 * x)


def _plus(x: Any, bias: Any) -> Any:
    return x if bias is None else x + bias


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (h,) = states
    s = activation(config["recurrent_activation"])
    u = x @ w["W_u"] + w["b_u"] if "W_u" in w else x
    r, i = s(u @ w["W_a"] + w["b_a"]), s(u @ w["W_x"] + w["b_x"])
    log_a = -config.get("c", 8.0) * softplus(-w["Lambda"]) * r
    h = np.exp(log_a) * h + np.sqrt(-np.expm1(2 * log_a)) * (i * u)
    return h, [h]


def _to_symbols(weights: Any, config: Any) -> dict[str, Any]:
    kernel, biased = weights["kernel"], config.get("use_bias", True)
    units = len(kernel)
    bias = weights["bias"] if biased else np.zeros(2 * units, kernel.dtype)
    symbols = {
        "W_a": kernel[:, :units],
        "W_x": kernel[:, units:],
        "b_a": bias[:units],
        "b_x": bias[units:],
        "Lambda": weights["decay"],
    }
    if "input_kernel" in weights:
        symbols["W_u"] = weights["input_kernel"]
        symbols["b_u"] = weights["input_bias"] if biased else np.zeros(units, kernel.dtype)
    return symbols


def _from_symbols(symbols: Any, config: Any) -> dict[str, Any]:
    weights = {
        "kernel": np.concatenate([symbols["W_a"], symbols["W_x"]], axis=-1),
        "decay": symbols["Lambda"],
    }
    biases = {"bias": np.concatenate([symbols["b_a"], symbols["b_x"]])}
    if "W_u" in symbols:
        weights["input_kernel"], biases["input_bias"] = symbols["W_u"], symbols["b_u"]
    return {**weights, **biases} if config.get("use_bias", True) else weights


RGLRUCell.spec = CellSpec(
    reference=reference,
    inputs=("features",),
    cases={
        "default": {"units": 4, "seed": 1},
        "as_wide": {"units": 3, "seed": 1},
        "no_bias": {"units": 2, "c": 2.0, "use_bias": False, "seed": 1},
        "dropout": {"units": 4, "dropout": 0.4, "seed": 1},
    },
    paper=Paper(
        "De et al.",
        2024,
        "Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language "
        "Models",
        "arXiv:2402.19427",
    ),
    symbols=custom(to_symbols=_to_symbols, from_symbols=_from_symbols),
    traits=frozenset({"masking", "stateful", "dropout", "zoneout", "linear", "fp32_state"}),
    deviations=(
        "Inputs of another width than `units` go through a linear map, which in the paper is a "
        "layer of its own.",
        "The recurrentgemma package has block-diagonal gates and leaves out sqrt(1 - a^2) at the "
        "first position; here both are as in the paper.",
    ),
    states=("h",),
)
