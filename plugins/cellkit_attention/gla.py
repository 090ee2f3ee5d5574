"""Gated linear attention."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import log_sigmoid, matmul, plus, positive_int, positive_number
from cellkit.registry import CellSpec, Guide
from cellkit.registry.reference import softplus
from cellkit_attention._base import HeadsCell, by_head, symbols_of


@keras.saving.register_keras_serializable(package="cellkit_attention")
class GLACell(HeadsCell):
    """Gated linear attention: the input decides for every key how much is kept.

    Paper: Yang et al. 2024, "Gated Linear Attention Transformers with Hardware-Efficient Training",
    arXiv:2312.06635, section 4.

    ```
    q, k, v = W @ x + b                             each cut into heads
    alpha = s(W_2 @ (W_1 @ x) + b_alpha)^(1/tau)    one for every key
    S' = diag(alpha) S + k v^T                      indices (key, value)
    o = S'^T q / sqrt(K)
    ```

    The norm of each head and the output gate that follow in the paper's layer are layers of their
    own.

    Args:
        units: Width of the output, H; each head has V = H / num_heads values.
        num_heads: Number of heads; must divide `units` and `key_units`. Default 1.
        key_units: Number of keys of all heads together. Default None: `units`. The paper takes
            half of them.
        gate_rank: Width of W_1 @ x. Default 16, as in the paper.
        temperature: tau. Default 16, as in the paper: what is kept starts near 1.
        **kwargs: Options of `cellkit.MatrixCell`. Activations are not used.

    Inputs: `(batch, features)`. States: `[S]` of shape `(batch, num_heads, K, V)`, float32 under a
    16-bit policy. Output: o of shape `(batch, units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(GLACell(8, num_heads=2, key_units=4), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 8), (None, 2, 2, 4))
    """

    def __init__(
        self,
        units: int,
        *,
        num_heads: int = 1,
        key_units: int | None = None,
        gate_rank: int = 16,
        temperature: float = 16.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, num_heads=num_heads, key_units=key_units, **kwargs)
        self.gate_rank = positive_int(type(self), "gate_rank", gate_rank)
        self.temperature = positive_number(type(self), "temperature", temperature)

    def build(self, input_shape: Any) -> None:
        """Create the projections, and W_1, W_2 and the bias of the gates."""
        super().build(input_shape)
        keys = self.key_units or self.units
        self.gate_kernel_1 = self.add_kernel((self.features, self.gate_rank), "gate_kernel_1")
        self.gate_kernel_2 = self.add_kernel((self.gate_rank, keys), "gate_kernel_2")
        self.gate_bias = self.add_bias((keys,), "gate_bias")

    def project(self, inputs: Any) -> dict[str, Any]:
        """Return queries, keys and values, and what enters the gates."""
        gate = plus(matmul(matmul(inputs, self.gate_kernel_1), self.gate_kernel_2), self.gate_bias)
        return {"qkv": super().project(inputs), "gate": gate}

    def factors(self, projected: Any) -> dict[str, Any]:
        """Return queries, keys, values and decays."""
        parts = self.parts(projected["qkv"])
        gate = keras.ops.cast(projected["gate"], self.accumulator_dtype)
        g = log_sigmoid(gate) / self.temperature
        shape = (-1, *self.matrix_shape[:2])
        return {**parts, "q": self.scaled(parts["q"]), "g": keras.ops.reshape(g, shape)}


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations, head by head."""
    heads = config["num_heads"]
    q, k, v = (by_head(x @ w[f"W_{n}"] + w[f"b_{n}"], heads) for n in "qkv")
    gate = x @ w["W_1"] @ w["W_2"] + w.get("b_alpha", 0.0)
    alpha = by_head(np.exp(-softplus(-gate) / config["temperature"]), heads)
    S = alpha[..., None] * states[0] + np.einsum("bhk,bhv->bhkv", k, v)
    o = np.einsum("bhkv,bhk->bhv", S, q) / np.sqrt(k.shape[-1])
    return o.reshape(len(x), config["units"]), [S]


GLACell.spec = CellSpec(
    guide=Guide(
        "linear attention",
        "Use it when the input should decide what a memory of keys and values keeps.",
        ("parallel", "long memory", "associative recall", "language"),
    ),
    reference=reference,
    states=("S",),
    symbols=symbols_of(
        "qkv",
        {"gate_kernel_1": "W_1", "gate_kernel_2": "W_2"},
        lambda config: {"gate_bias": "b_alpha"} if config.get("use_bias", True) else {},
    ),
    cases={
        "default": {"units": 4},
        "heads": {"units": 6, "num_heads": 2, "key_units": 4, "gate_rank": 3},
        "fast": {"units": 4, "temperature": 0.5, "use_bias": False},
        "dropout": {"units": 4, "dropout": 0.4, "seed": 1},
    },
    deviations=(
        "The norm of each head and the output gate of the paper's layer are left out.",
        "Projections have biases unless use_bias=False; the paper's have none.",
    ),
).completed(GLACell)
