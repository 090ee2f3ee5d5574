"""Gated DeltaNet."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import softplus
from cellkit.registry import CellSpec, Guide
from cellkit.registry.reference import activation
from cellkit.registry.reference import softplus as numpy_softplus
from cellkit_attention._base import (
    HeadsCell,
    by_head,
    decay_rates,
    normalized,
    step_biases,
    symbols_of,
    unit,
)


@keras.saving.register_keras_serializable(package="cellkit_attention")
class GatedDeltaNetCell(HeadsCell):
    """Gated DeltaNet: heads forget at a rate that the input decides, and replace values.

    Paper: Yang, Kautz and Hatamizadeh 2025, "Gated Delta Networks: Improving Mamba2 with Delta
    Rule", arXiv:2412.06464, section 3.

    ```
    q, k, v, beta, a = W @ x + b                    each cut into heads, beta and a one per head
    q := silu(q) / |silu(q)|,  k := silu(k) / |silu(k)|,  beta := s(beta)
    alpha = exp(-exp(A_log) * softplus(a))
    S' = alpha * S + beta * k (v - alpha * S^T k)^T     indices (key, value)
    o = S'^T q / sqrt(K)
    ```

    The short convolutions, the gated norm and the projection of the paper's layer are layers of
    their own. Queries are divided by sqrt(K) as in fla. The bias of a is Mamba's `dt_bias`.

    Args:
        units: Width of the output, H; each head has V = H / num_heads values.
        num_heads: Number of heads; must divide `units` and `key_units`. Default 1.
        key_units: Number of keys of all heads together. Default None: `units`.
        **kwargs: Options of `cellkit.MatrixCell`. `activation` is that of queries and keys, by
            default `"silu"`; `recurrent_activation` that of beta. exp(A_log) starts uniformly
            distributed between 1 and 16 and the bias of a so that softplus(a) is between 0.001 and
            0.1, as in Mamba-2, whose decay it is.

    Inputs: `(batch, features)`. States: `[S]` of shape `(batch, num_heads, K, V)`, float32 under a
    16-bit policy. Output: o of shape `(batch, units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(GatedDeltaNetCell(8, num_heads=2), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 8), (None, 2, 4, 4))
    """

    per_head = ("beta", "a")

    def __init__(
        self, units: int, *, num_heads: int = 1, key_units: int | None = None, **kwargs: Any
    ) -> None:
        kwargs.setdefault("activation", "silu")
        super().__init__(units, num_heads=num_heads, key_units=key_units, **kwargs)

    def build(self, input_shape: Any) -> None:
        """Create the projections, and `A_log`."""
        super().build(input_shape)
        self.decay = self.add_weight(
            shape=(self.num_heads,), initializer=decay_rates(self), name="A_log"
        )

    def add_bias(self, shape: tuple[int, ...], name: str = "bias", **kwargs: Any) -> Any:
        """Add the bias, with that of a so that steps start between 0.001 and 0.1."""
        start = step_biases(self, self.num_heads)
        return super().add_bias(shape, name, initializer=start, **kwargs)

    def factors(self, projected: Any) -> dict[str, Any]:
        """Return queries, keys and values, what the new value replaces, and decays."""
        parts = self.parts(projected)
        q, k = (normalized(self.activation(parts[name])) for name in "qk")
        written = self.recurrent_activation(parts["beta"]) * k
        a = keras.ops.cast(parts["a"], self.accumulator_dtype)
        rate = keras.ops.cast(keras.ops.exp(self.decay + 0.0), self.accumulator_dtype)
        g = -rate[:, None] * softplus(a)
        # The probe sees what is left after the decay.
        p = keras.ops.cast(k, self.accumulator_dtype) * keras.ops.exp(g)
        return {"q": self.scaled(q), "k": written, "v": parts["v"], "e": -written, "p": p, "g": g}


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations, head by head."""
    heads = config["num_heads"]
    phi, s = activation(config["activation"]), activation(config["recurrent_activation"])
    q, k, v, beta, a = (by_head(x @ w[f"W_{n}"] + w[f"b_{n}"], heads) for n in _LETTERS)
    q, k, beta = unit(phi(q)), unit(phi(k)), s(beta)
    alpha = np.exp(-np.exp(w["A_log"])[:, None] * numpy_softplus(a))
    kept = alpha[..., None] * states[0]
    old = np.einsum("bhkv,bhk->bhv", kept, k)
    S = kept + np.einsum("bhk,bhv->bhkv", beta * k, v - old)
    o = np.einsum("bhkv,bhk->bhv", S, q) / np.sqrt(k.shape[-1])
    return o.reshape(len(x), config["units"]), [S]


_LETTERS = ("q", "k", "v", "beta", "a")

GatedDeltaNetCell.spec = CellSpec(
    guide=Guide(
        "linear attention",
        "Use it when a memory of keys and values has to replace single values and to clear all of "
        "them, as the input says.",
        ("long memory", "associative recall", "stable", "language"),
    ),
    reference=reference,
    states=("S",),
    symbols=symbols_of(_LETTERS, {"A_log": "A_log"}),
    cases={
        "default": {"units": 4, "seed": 1},
        "heads": {"units": 6, "num_heads": 3, "seed": 1},
        "keys": {"units": 4, "key_units": 6, "num_heads": 2, "activation": "tanh", "seed": 2},
        "no_bias": {"units": 3, "use_bias": False, "seed": 1},
        "dropout": {"units": 4, "dropout": 0.4, "seed": 1},
    },
    deviations=(
        "The short convolutions, the gated norm and the projection of the paper's layer are left "
        "out.",
        "Projections have biases unless use_bias=False; the paper's have none but that of a.",
    ),
).completed(GatedDeltaNetCell)
