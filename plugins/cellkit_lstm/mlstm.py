"""The mLSTM of the xLSTM: a matrix for a memory."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import (
    Cell,
    TensorSpec,
    choice,
    log_sigmoid,
    matmul,
    plus,
    positive_number,
    split,
    vector_size,
)
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, WeightMap, configured, gate_blocks
from cellkit.registry.reference import activation, softplus
from cellkit_lstm.slstm import FORGET_GATES, heads


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class MLSTMCell(Cell):
    """The mLSTM: each head keeps a matrix that maps keys to values.

    Paper: Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory", arXiv:2405.04517, section 2.3
    and, for the stabiliser m, appendix A.

    ```
    q, k, v = W @ x + b                  each cut into heads of D = units / num_heads
    k := k / sqrt(D)
    a_i, a_f = W @ x + b                 two numbers per head
    l = log(s(a_f)) + m                  forget_gate="sigmoid"; "exp": l = a_f + m
    m' = max(a_i, l)
    i = exp(a_i - m'),  f = exp(l - m')
    C' = f * C + i * (k v^T)             indices (key, value)
    n' = f * n + i * k
    h~ = (C'^T q) / (max(|n'.q|, exp(-m')) + epsilon)
    h = s(W_o @ x + b_o) * h~            with output_gate=True
    ```

    The gates see the inputs alone and no state enters a product with a matrix, so there is nothing
    for `recurrent_dropout` to drop. The output h is not a state. exp(-m') is the paper's 1 in the
    units of the stabilised memory.

    In the xlstm package the output gate lies outside the cell (and there is a norm before it), the
    bias of k is divided by sqrt(D) too, as here, and the gates see q, k and v.

    Args:
        units: Width of the output, H; the memory holds H * H / num_heads numbers.
        num_heads: Number of heads; must divide `units`. Default 1.
        forget_gate: `"sigmoid"` (default), as in the authors' code, or `"exp"`, the paper's other
            choice.
        output_gate: True if the cell has the output gate of the paper. Default True. False leaves
            h~, what the cell of the xlstm package gives.
        epsilon: Added to the denominator. Default 1e-6, as in the authors' code.
        **kwargs: Options of `cellkit.Cell`: `recurrent_activation` for the output gate;
            `activation` is not used. The biases of the forget gates start between 3 and 6 over the
            heads, as in the authors' code: each head begins with a memory of another length.

    Inputs: `(batch, features)`. States: `[C, n, m]` of shapes `(batch, num_heads, D, D)`,
    `(batch, num_heads, D)` and `(batch, num_heads)`; they stay float32 under a 16-bit policy.
    Output: h of shape `(batch, units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(MLSTMCell(8, num_heads=2), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 8), (None, 2, 4, 4), (None, 2, 4), (None, 2))
    """

    def __init__(
        self,
        units: int,
        *,
        num_heads: int = 1,
        forget_gate: str = "sigmoid",
        output_gate: bool = True,
        epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        self.num_heads = heads(self, num_heads)
        self.forget_gate = choice(type(self), "forget_gate", forget_gate, FORGET_GATES)
        self.output_gate = bool(output_gate)
        self.epsilon = positive_number(type(self), "epsilon", epsilon)
        _refuse_recurrent_dropout(self)

    @property
    def widths(self) -> dict[str, int]:
        """Widths of the projections, in the order of the weights.

        They are not kept: `torch.export` sorts dictionaries that are attributes of a Keras layer.
        """
        return block_widths(self.units, self.num_heads, self.output_gate)

    @property
    def state_size(self) -> list[TensorSpec]:
        """Shapes of C, n and m; the sums over time are not rounded to 16 bits."""
        count, size, dtype = self.num_heads, self.units // self.num_heads, self.accumulator_dtype
        shapes = ((count, size, size), (count, size), (count,))
        return [TensorSpec(shape, dtype=dtype) for shape in shapes]

    @property
    def output_size(self) -> int:
        """Width of the output, which is not a state."""
        return self.units

    def build(self, input_shape: Any) -> None:
        """Create `kernel` and `bias`, which hold all projections side by side."""
        super().build(input_shape)
        width = sum(self.widths.values())
        self.kernel = self.add_kernel((vector_size(self, input_shape), width))
        self.bias = self.add_bias((width,), initializer=self._biases)

    def _biases(self, shape: Any, dtype: Any = None) -> Any:
        drawn, start = self.bias_initializer(shape, dtype=dtype), 3 * self.units + self.num_heads
        spread = keras.ops.linspace(3.0, 6.0, self.num_heads, dtype=dtype)
        return keras.ops.concatenate([drawn[:start], spread, drawn[start + self.num_heads :]])

    def project(self, inputs: Any) -> dict[str, Any]:
        """Return q, k and v by head, the gates, and the output gate."""
        a = plus(matmul(inputs, self.kernel), self.bias)
        widths = self.widths
        blocks = split(keras.ops.cast(a, self.accumulator_dtype), list(widths.values()))
        parts = dict(zip(widths, blocks, strict=True))
        shape = (-1, self.num_heads, self.units // self.num_heads)
        parts.update({name: keras.ops.reshape(parts[name], shape) for name in "qkv"})
        return {**parts, "k": parts["k"] / shape[-1] ** 0.5}

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        (c, n, m), ops = states, keras.ops
        q, k, v, i, f = (projected[name] for name in "qkvif")
        kept = (log_sigmoid(f) if self.forget_gate == "sigmoid" else f) + m
        m = larger(kept, i)
        # Not by indexing with None: eagerly that costs TensorFlow seven operations.
        i, f = ops.expand_dims(ops.exp(i - m), -1), ops.expand_dims(ops.exp(kept - m), -1)
        outer = ops.expand_dims(k, -1) * ops.expand_dims(v, -2)
        c = ops.expand_dims(f, -1) * c + ops.expand_dims(i, -1) * outer
        n = f * n + i * k
        # Beyond 80 the output is zero in float32 anyway, and exp would overflow in the gradient.
        floor = ops.exp(-larger(m, -80.0 + 0.0 * m))
        scale = larger(ops.abs(ops.sum(n * q, axis=-1)), floor) + self.epsilon
        h = matmul(ops.expand_dims(q, -2), c) / ops.expand_dims(ops.expand_dims(scale, -1), -1)
        h = ops.reshape(h, (-1, self.units))
        h = h * self.recurrent_activation(projected["o"]) if self.output_gate else h
        return ops.cast(h, self.compute_dtype), [c, n, m]


def larger(a: Any, b: Any) -> Any:
    """Return the larger of each pair; `keras.ops.maximum` rounds float64 to float32 on Torch."""
    return keras.ops.where(a > b, a, b)


def _refuse_recurrent_dropout(cell: MLSTMCell) -> None:
    if cell.recurrent_dropout:
        raise problem(
            "MLSTMCell has no recurrent product to drop states from.",
            received=f"recurrent_dropout={cell.recurrent_dropout}",
            expected="recurrent_dropout=0.0",
            fix="use `dropout`, which drops inputs",
        )


def block_widths(units: int, count: int, output_gate: bool) -> dict[str, int]:
    """Return the widths of the projections, in the order of the weights."""
    widths = {"q": units, "k": units, "v": units, "i": count, "f": count}
    return {**widths, "o": units} if output_gate else widths


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations, head by head."""
    C, n, m = states
    count = config["num_heads"]
    a = {name: x @ w[f"W_{name}"] + w[f"b_{name}"] for name in "qkvif"}
    q, k, v = (np.stack(np.split(a[name], count, axis=-1), axis=1) for name in "qkv")
    k = k / np.sqrt(k.shape[-1])
    log_f = -softplus(-a["f"]) if config["forget_gate"] == "sigmoid" else a["f"]
    new_m = np.maximum(log_f + m, a["i"])
    i, f = np.exp(a["i"] - new_m), np.exp(log_f + m - new_m)
    outer = np.einsum("bhk,bhv->bhkv", k, v)
    new_C = f[:, :, None, None] * C + i[:, :, None, None] * outer
    new_n = f[:, :, None] * n + i[:, :, None] * k
    dot = np.abs(np.einsum("bhk,bhk->bh", new_n, q))
    scale = np.maximum(dot, np.exp(-new_m)) + config["epsilon"]
    h = np.einsum("bhkv,bhk->bhv", new_C, q) / scale[:, :, None]
    h = h.reshape(len(h), config["units"])
    if config["output_gate"]:
        h = activation(config["recurrent_activation"])(x @ w["W_o"] + w["b_o"]) * h
    return h, [new_C, new_n, new_m]


def _gates(config: Any) -> WeightMap:
    count, output_gate = config.get("num_heads", 1), config.get("output_gate", True)
    widths = block_widths(config["units"], count, output_gate)
    return gate_blocks(widths, recurrent_kernel=None)


MLSTMCell.spec = CellSpec(
    guide=Guide(
        "linear attention",
        "Use it when many pairs must be stored and found again.",
        ("long memory", "associative recall", "language"),
    ),
    reference=reference,
    states=("C", "n", "m"),
    symbols=configured(_gates),
    cases={
        "default": {"units": 4},
        "heads": {"units": 6, "num_heads": 2},
        "xlstm": {"units": 4, "num_heads": 4, "output_gate": False, "forget_gate": "exp"},
        "no_bias": {"units": 2, "use_bias": False, "recurrent_activation": "hard_sigmoid"},
        "dropout": {"units": 4, "dropout": 0.4, "seed": 1},
    },
    traits={"masking", "stateful", "dropout", "zoneout", "fp32_state"},
    deviations=(
        "The bias of k is divided by sqrt(D) too, as in the authors' code.",
        "In the xlstm package the output gate is outside the cell: output_gate=False.",
    ),
    aliases={"mlstm": {"output_gate": False}},
).completed(MLSTMCell)
