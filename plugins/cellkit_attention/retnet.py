"""Retention, the recurrence of the RetNet."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from cellkit.registry import CellSpec, Guide
from cellkit_attention._base import HeadsCell, by_head, symbols_of


@keras.saving.register_keras_serializable(package="cellkit_attention")
class RetNetCell(HeadsCell):
    """Retention: linear attention whose heads forget at fixed rates of their own.

    Paper: Sun et al. 2023, "Retentive Network: A Successor to Transformer for Large Language
    Models", arXiv:2307.08621, sections 2.1 and 2.2.

    ```
    q, k, v = W @ x + b                 each cut into heads
    gamma = 1 - 2^(-5 - head)           for head = 0, 1, ...
    S' = gamma * S + k v^T              indices (key, value)
    o = S'^T q / sqrt(K)
    ```

    The rotation of queries and keys by their position (xPos), the norm of each head and the gate
    that follow in the paper's block are layers of their own. The paper's code divides the keys by
    sqrt(K), fla the queries, which is the same for the output; here it is the queries.

    Args:
        units: Width of the output, H; each head has V = H / num_heads values.
        num_heads: Number of heads; must divide `units` and `key_units`. Default 1.
        key_units: Number of keys of all heads together. Default None: `units`.
        **kwargs: Options of `cellkit.MatrixCell`. Activations are not used.

    Inputs: `(batch, features)`. States: `[S]` of shape `(batch, num_heads, K, V)`, float32 under a
    16-bit policy. Output: o of shape `(batch, units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(RetNetCell(8, num_heads=2), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 8), (None, 2, 4, 4))
    """

    def factors(self, projected: Any) -> dict[str, Any]:
        """Return queries, keys and values, and the logarithms of the fixed decays."""
        parts = self.parts(projected)
        # Numbers of Python: PyTorch's compiler makes no tensor of an array of NumPy's.
        decays = [[math.log1p(-(2.0 ** (-5.0 - head)))] for head in range(self.num_heads)]
        g = keras.ops.convert_to_tensor(decays, dtype=self.accumulator_dtype)
        return {**parts, "q": self.scaled(parts["q"]), "g": g}


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations, head by head."""
    heads = config["num_heads"]
    q, k, v = (by_head(x @ w[f"W_{n}"] + w[f"b_{n}"], heads) for n in "qkv")
    gamma = 1 - 2.0 ** (-5 - np.arange(heads))
    S = gamma[:, None, None] * states[0] + np.einsum("bhk,bhv->bhkv", k, v)
    o = np.einsum("bhkv,bhk->bhv", S, q) / np.sqrt(k.shape[-1])
    return o.reshape(len(x), config["units"]), [S]


RetNetCell.spec = CellSpec(
    guide=Guide(
        "linear attention",
        "Use it when what was seen should fade at fixed speeds, one for each head.",
        ("parallel", "time scales", "stable", "associative recall", "language"),
    ),
    reference=reference,
    states=("S",),
    symbols=symbols_of("qkv"),
    cases={
        "default": {"units": 4},
        "heads": {"units": 6, "num_heads": 3},
        "keys": {"units": 4, "key_units": 2, "num_heads": 2, "use_bias": False},
        "dropout": {"units": 4, "dropout": 0.4, "seed": 1},
    },
    deviations=(
        "The rotation by position, the norm of each head and the gate of the paper's block are "
        "left out.",
        "Projections have biases unless use_bias=False; the paper's have none.",
    ),
).completed(RetNetCell)
