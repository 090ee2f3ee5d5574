"""DeltaNet."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.registry import CellSpec, Guide, Paper
from cellkit.registry.reference import activation
from cellkit_attention._base import (
    HeadsCell,
    by_head,
    normalized,
    symbols_of,
    unit,
)


@keras.saving.register_keras_serializable(package="cellkit_attention")
class DeltaNetCell(HeadsCell):
    """DeltaNet: a key's value is replaced, not added to what was stored under it.

    Papers: Schlag, Irie and Schmidhuber 2021, "Linear Transformers Are Secretly Fast Weight
    Programmers", arXiv:2102.11174, section 4.2; Yang et al. 2024, "Parallelizing Linear
    Transformers with the Delta Rule over Sequence Length", arXiv:2406.06484, whose normalisation
    is the default.

    ```
    q, k, v, beta = W @ x + b           each cut into heads, beta one number per head
    q := silu(q) / |silu(q)|,  k := silu(k) / |silu(k)|,  beta := s(beta)
    S' = S + beta * k (v - S^T k)^T     indices (key, value)
    o = S'^T q / sqrt(K)
    ```

    The short convolutions, the norm of each head and the projection of the second paper's layer are
    layers of their own. Queries are divided by sqrt(K) as in fla.

    S' is a product of S with I - beta k k^T: no scan over numbers, but many steps are still a few
    products of matrices and one triangular system (the WY form of the second paper), which the
    engine `chunked` solves.

    Args:
        units: Width of the output, H; each head has V = H / num_heads values.
        num_heads: Number of heads; must divide `units` and `key_units`. Default 1.
        key_units: Number of keys of all heads together. Default None: `units`.
        **kwargs: Options of `cellkit.MatrixCell`. `activation` is that of queries and keys, by
            default `"silu"`; `recurrent_activation` that of beta.

    Inputs: `(batch, features)`. States: `[S]` of shape `(batch, num_heads, K, V)`, float32 under a
    16-bit policy. Output: o of shape `(batch, units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(DeltaNetCell(8, num_heads=2), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 8), (None, 2, 4, 4))
    """

    per_head = ("beta",)

    def __init__(
        self, units: int, *, num_heads: int = 1, key_units: int | None = None, **kwargs: Any
    ) -> None:
        kwargs.setdefault("activation", "silu")
        super().__init__(units, num_heads=num_heads, key_units=key_units, **kwargs)

    def factors(self, projected: Any) -> dict[str, Any]:
        """Return queries, keys and values, and what the new value replaces."""
        parts = self.parts(projected)
        q, k = (normalized(self.activation(parts[name])) for name in "qk")
        written = self.recurrent_activation(parts["beta"]) * k
        return {"q": self.scaled(q), "k": written, "v": parts["v"], "e": -written, "p": k}


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations, head by head."""
    heads = config["num_heads"]
    phi, s = activation(config["activation"]), activation(config["recurrent_activation"])
    q, k, v, beta = (by_head(x @ w[f"W_{n}"] + w[f"b_{n}"], heads) for n in _LETTERS)
    q, k, beta = unit(phi(q)), unit(phi(k)), s(beta)
    old = np.einsum("bhkv,bhk->bhv", states[0], k)
    S = states[0] + np.einsum("bhk,bhv->bhkv", beta * k, v - old)
    o = np.einsum("bhkv,bhk->bhv", S, q) / np.sqrt(k.shape[-1])
    return o.reshape(len(x), config["units"]), [S]


_LETTERS = ("q", "k", "v", "beta")

DeltaNetCell.spec = CellSpec(
    paper=Paper(
        "Yang et al.",
        2024,
        "Parallelizing Linear Transformers with the Delta Rule over Sequence Length",
        "arXiv:2406.06484",
    ),
    guide=Guide(
        "linear attention",
        "Use it when values change and the last one stored under a key has to be found.",
        ("associative recall", "stable", "language"),
    ),
    reference=reference,
    states=("S",),
    symbols=symbols_of(_LETTERS),
    more_cases={
        "heads": {"units": 6, "num_heads": 3},
        "keys": {"units": 4, "key_units": 6, "num_heads": 2, "activation": "tanh"},
        "no_bias": {"units": 3, "use_bias": False},
    },
    deviations=(
        "The short convolutions, the norm of each head and the projection of the paper's layer are "
        "left out.",
        "Projections have biases unless use_bias=False; the paper's have none.",
    ),
).completed(DeltaNetCell)
