"""The real-gated linear recurrent unit of Griffin."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import (
    LinearCell,
    TensorSpec,
    as_dtype,
    matmul,
    number,
    plus,
    positive_int,
    softplus,
    split,
    vector_size,
)
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, custom
from cellkit.registry.reference import activation
from cellkit.registry.reference import softplus as numpy_softplus
from cellkit_linear._complex import fixed, generator, number_range


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
    h' = i * u                                   at a first step with whole_first_input=True
    ```

    The paper's unit acts on vectors of its own width; inputs of another width are first brought to
    it by the linear map that precedes the unit in the paper's block.

    The authors' package, recurrentgemma, has block-diagonal matrices W_a and W_x: ``num_heads``.
    At the first position of a sequence it takes the input whole and drops the state before:
    ``whole_first_input=True``. It stores -Lambda, as `a_param`. Its weights can be imported under
    its own names (`a_gate.w`, `a_gate.b`, `input_gate.w`, `input_gate.b`, `a_param`), as those of
    the RG-LRU in transformers.

    Args:
        units: Number of units H.
        c: Exponent of the decay. Default 8.0, as in the paper.
        min_decay: Smallest value of s(Lambda)^c at the start. Default 0.9, as in the paper.
        max_decay: Largest one. Default 0.999, as in the paper; they are uniformly distributed.
        num_heads: Number of blocks on the diagonals of W_a and W_x; must divide `units`. Default
            1: full matrices, as in the paper's equations.
        whole_first_input: True if the first step of a sequence takes the input whole. Default
            False, as in the paper. True keeps a mark of earlier steps in a second state.
        **kwargs: Options of `cellkit.LinearCell`: `recurrent_activation` for the gates.
            `kernel_initializer` is by default LeCun's normal one, as in the authors' code, and
            draws each block by itself. `activation` is not used.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`, float32 under a 16-bit
    policy; with `whole_first_input=True` also the u before, with a 1 behind it that tells it from
    no step, `(batch, 1, units + 1)`. Output: `h'`.

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
        num_heads: int = 1,
        whole_first_input: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("kernel_initializer", "lecun_normal")
        super().__init__(units, **kwargs)
        self.c = number(type(self), "c", c, above=0, at_most=1e6)
        bounds = number_range(self, min_decay=min_decay, max_decay=max_decay)
        self.min_decay, self.max_decay = bounds
        self.num_heads = positive_int(type(self), "num_heads", num_heads)
        if self.units % self.num_heads:
            raise problem(
                "The heads of RGLRUCell do not divide its units.",
                received=f"units={self.units}, num_heads={num_heads}",
                expected="a number of units that is a multiple of the number of heads",
                fix=f"pass e.g. units={num_heads * (self.units // num_heads + 1)}",
            )
        self.whole_first_input = bool(whole_first_input)
        self.window = 2 if self.whole_first_input else 1
        self.input_kernel = self.input_bias = None

    @property
    def state_size(self) -> Any:
        """The state, and with `whole_first_input` the step before."""
        h = TensorSpec(self.units, dtype=self.accumulator_dtype)
        return [h, TensorSpec((1, self.units + 1))] if self.whole_first_input else h

    @property
    def output_size(self) -> int:
        """Width of the output."""
        return self.units

    def build(self, input_shape: Any) -> None:
        """Create the gates' `kernel` and `bias`, `decay` (Lambda), and the map to u if needed."""
        super().build(input_shape)
        features = vector_size(self, input_shape)
        if features != self.units:
            self.input_kernel = self.add_kernel((features, self.units), "input_kernel")
            self.input_bias = self.add_bias((self.units,), "input_bias")
        heads, size = self.num_heads, self.units // self.num_heads
        if heads == 1:
            self.kernel = self.add_kernel((size, 2 * size))
        else:
            blocks = [self.draw_apart(self.kernel_initializer, (size, 2 * size))] * heads

            def draw(shape: Any, dtype: Any = None) -> Any:
                return keras.ops.stack([block(shape[1:], dtype=dtype) for block in blocks])

            self.kernel = self.add_kernel((heads, size, 2 * size), initializer=draw)
        self.bias = self.add_bias((2 * self.units,))
        low, high = self.min_decay, self.max_decay
        start = low + (high - low) * generator(self).random(self.units)
        # s(Lambda) = start^(1/c), so exp(Lambda) = 1 / (start^(-1/c) - 1).
        decay = -np.log(np.expm1(-np.log(np.clip(start, 1e-6, 1 - 1e-6)) / self.c))
        shape = (self.units,)
        self.decay = self.add_weight(shape=shape, initializer=fixed(decay), name="decay")

    def project(self, inputs: Any) -> Any:
        """Return u and what enters the gates; for `look`, u with a 1 behind it."""
        u = inputs
        if self.input_kernel is not None:
            u = plus(matmul(inputs, self.input_kernel), self.input_bias)
        if not self.whole_first_input:
            return {"u": u, "gates": self.gates(u)}
        return keras.ops.concatenate([u, keras.ops.ones_like(u[:, :1])], axis=-1)

    def look(self, window: Any) -> dict[str, Any]:
        """Return u, what enters the gates, and whether there was a step before."""
        u = window[:, 1, :-1]
        return {"u": u, "gates": self.gates(u), "later": window[:, 0, -1:]}

    def gates(self, u: Any) -> Any:
        """Return what enters both gates, side by side."""
        if self.num_heads == 1:
            return plus(matmul(u, self.kernel), self.bias)
        blocks = keras.ops.reshape(u, (-1, self.num_heads, self.units // self.num_heads))
        blocks = keras.ops.transpose(blocks, (1, 0, 2)) @ (self.kernel + 0.0)
        parts = [keras.ops.transpose(x, (1, 0, 2)) for x in split(blocks, 2)]
        flat = [keras.ops.reshape(x, (-1, self.units)) for x in parts]
        return plus(keras.ops.concatenate(flat, axis=-1), self.bias)

    def coefficients(self, projected: Any) -> tuple[Any, Any]:
        """Return the decay, and the input scaled so that the size of the state is kept."""
        dtype = self.accumulator_dtype
        r, i = map(self.recurrent_activation, split(projected["gates"], 2))
        rate = -self.c * softplus(-as_dtype(self.decay + 0.0, dtype))
        log_a = rate * as_dtype(r, dtype)
        added = as_dtype(i * projected["u"], dtype)
        a, scale = keras.ops.exp(log_a), root(-keras.ops.expm1(2 * log_a))
        if self.whole_first_input:
            later = projected["later"] > 0.5
            a, scale = (keras.ops.where(later, x, y + 0.0 * x) for x, y in ((a, 0.0), (scale, 1.0)))
        return a, scale * added


def root(x: Any) -> Any:
    """Return the square root with a finite gradient at zero, where a gate is closed for good."""
    some = x > 1e-30
    return keras.ops.where(some, keras.ops.sqrt(keras.ops.where(some, x, 1.0 + 0.0 * x)), 0.0 * x)


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    h, *before = states
    s = activation(config["recurrent_activation"])
    u = x @ w["W_u"] + w["b_u"] if "W_u" in w else x

    def gate(name: str) -> Any:
        blocks = w[f"W_{name}"] if w[f"W_{name}"].ndim == 3 else [w[f"W_{name}"]]
        parts = np.split(u, len(blocks), axis=-1)
        parts = [part @ block for part, block in zip(parts, blocks, strict=True)]
        return s(np.concatenate(parts, axis=-1) + w[f"b_{name}"])

    r, i = gate("a"), gate("x")
    log_a = -config.get("c", 8.0) * numpy_softplus(-w["Lambda"]) * r
    paper = np.exp(log_a) * h + np.sqrt(-np.expm1(2 * log_a)) * (i * u)
    if not before:
        return paper, [paper]
    h = np.where(before[0][:, 0, -1:] > 0.5, paper, i * u)
    return h, [h, np.concatenate([u, np.ones((len(u), 1))], axis=-1)[:, None]]


_AUTHORS = {
    "W_a": ("a_gate.w", "W_r"),
    "b_a": ("a_gate.b", "b_r"),
    "W_x": ("input_gate.w", "W_i"),
    "b_x": ("input_gate.b", "b_i"),
}
"""The letters of the paper, with the authors' names, and those of the gates r and i."""


def _to_symbols(weights: Any, config: Any) -> dict[str, Any]:
    kernel, biased = weights["kernel"], config.get("use_bias", True)
    size, units = kernel.shape[-2], kernel.shape[-2] * (len(kernel) if kernel.ndim == 3 else 1)
    bias = weights["bias"] if biased else np.zeros(2 * units, kernel.dtype)
    symbols = {
        "W_a": kernel[..., :size],
        "W_x": kernel[..., size:],
        "b_a": bias[:units],
        "b_x": bias[units:],
        "Lambda": weights["decay"],
    }
    if "input_kernel" in weights:
        symbols["W_u"] = weights["input_kernel"]
        symbols["b_u"] = weights["input_bias"] if biased else np.zeros(units, kernel.dtype)
    return symbols


def _from_symbols(symbols: Any, config: Any) -> dict[str, Any]:
    count = config.get("num_heads", 1)

    def take(letter: str) -> Any:
        return symbols[next((n for n in _AUTHORS[letter] if n in symbols), letter)]

    negative = next((n for n in ("a_param", "L") if n in symbols), None)
    decay = symbols["Lambda"] if negative is None else -symbols[negative]
    weights = {
        "kernel": np.concatenate([_blocks(take(n), count) for n in ("W_a", "W_x")], axis=-1),
        "decay": decay,
    }
    biases = {"bias": np.concatenate([take("b_a").reshape(-1), take("b_x").reshape(-1)])}
    if "W_u" in symbols:
        weights["input_kernel"], biases["input_bias"] = symbols["W_u"], symbols["b_u"]
    return weights | biases if config.get("use_bias", True) else weights


def _blocks(matrix: Any, count: int) -> Any:
    """Return the blocks `(heads, size, size)` of a gate's matrix, or the matrix of one head."""
    if matrix.ndim == 3 and len(matrix) == count:
        return matrix[0] if count == 1 else matrix
    if matrix.ndim == 2 and count == 1:
        return matrix
    if matrix.ndim == 2 and matrix.shape[0] % count == 0:
        size = matrix.shape[0] // count
        blocks = matrix.reshape(count, size, count, size)
        own = np.stack([blocks[i, :, i] for i in range(count)])
        if np.count_nonzero(matrix) == np.count_nonzero(own):
            return own
    raise problem(
        "A gate's matrix has no such blocks.",
        received=f"an array of shape {matrix.shape}, and num_heads={count}",
        expected="(num_heads, units / num_heads, units / num_heads), or a block-diagonal matrix",
        fix="make the cell with the number of heads of the weights",
    )


def configure(hyper: Any, arrays: Any) -> dict[str, Any]:
    """Read the options of a frozen file; its first output tells which rule it was made with."""
    symbols = {key[2:]: value for key, value in arrays.items() if key.startswith("w.")}
    gate = next(symbols[n] for n in ("W_a", *_AUTHORS["W_a"]) if n in symbols)
    heads = hyper.get("num_heads", len(gate) if gate.ndim == 3 else 1)
    width = gate.shape[0] * gate.shape[-1] if gate.ndim == 3 else len(gate)
    options = {"units": width, "num_heads": int(heads), "c": float(hyper.get("c", 8.0))}
    w = _to_symbols(_from_symbols(symbols, options), options)
    config = {**options, "recurrent_activation": "sigmoid"}
    h = arrays.get("state0.h", np.zeros((len(arrays["x"]), width)))
    first = arrays["x"][:, 0]
    marks = ([h], [h, np.zeros((len(h), 1, width + 1))])
    errors = [np.abs(reference(w, first, m, config)[0] - arrays["y"][:, 0]).max() for m in marks]
    return {**options, "whole_first_input": bool(errors[1] < errors[0])}


RGLRUCell.spec = CellSpec(
    guide=Guide(
        "linear",
        "Use it when a linear cell has to choose from its input what to keep, as in language "
        "models.",
        ("parallel", "long memory", "stable", "language"),
    ),
    reference=reference,
    states=("h", "u"),
    symbols=custom(to_symbols=_to_symbols, from_symbols=_from_symbols),
    cases={
        "default": {"units": 4, "seed": 1},
        "as_wide": {"units": 3, "seed": 1},
        "no_bias": {"units": 2, "c": 2.0, "use_bias": False, "seed": 1},
        "heads": {"units": 6, "num_heads": 3, "seed": 1},
        "authors": {"units": 4, "num_heads": 2, "whole_first_input": True, "seed": 1},
        "dropout": {"units": 4, "dropout": 0.4, "seed": 1},
    },
    deviations=(
        "Inputs of another width than `units` go through a linear map, which in the paper is a "
        "layer of its own.",
        "The recurrentgemma package has block-diagonal gates, num_heads, and leaves out "
        "sqrt(1 - a^2) at the first position, whole_first_input=True; by default both are as in "
        "the paper.",
    ),
    aliases={"rg_lru_start": {}},
    configure=configure,
).completed(RGLRUCell)
