"""RWKV-6."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.registry import CellSpec, Guide
from cellkit_attention._base import HeadsCell, by_head, spread_biases, symbols_of


@keras.saving.register_keras_serializable(package="cellkit_attention")
class RWKV6Cell(HeadsCell):
    """RWKV-6 (Finch): a decay for every key that the input decides, and a bonus for the newest.

    Paper: Peng et al. 2024, "Eagle and Finch: RWKV with Matrix-Valued States and Dynamic
    Recurrence", arXiv:2404.05892, section 4.2.

    ```
    r, k, v, d = W @ x + b              each cut into heads
    w = exp(-exp(d))                    what is kept, one for every key
    o = (S + diag(u) k v^T)^T r         indices (key, value)
    S' = diag(w) S + k v^T
    ```

    The shift of tokens before, the norm of each head and the gate after, which the paper's block
    has, are layers of their own; the paper's d is made with two small matrices and a tanh between
    them.

    Args:
        units: Width of the output, H; each head has V = H / num_heads values.
        num_heads: Number of heads; must divide `units` and `key_units`. Default 1.
        key_units: Number of keys of all heads together. Default None: `units`, as in the paper.
        **kwargs: Options of `cellkit.MatrixCell`. The biases of d start evenly spread between -6
            and -1, so that keys forget at speeds of their own. u starts at zero. Activations are
            not used.

    Inputs: `(batch, features)`. States: `[S]` of shape `(batch, num_heads, K, V)`, float32 under a
    16-bit policy. Output: o of shape `(batch, units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(RWKV6Cell(8, num_heads=2), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 8), (None, 2, 4, 4))
    """

    @property
    def blocks(self) -> dict[str, int]:
        """Widths of the projections by their letters."""
        keys = self.key_units or self.units
        return {"r": keys, "k": keys, "v": self.units, "d": keys}

    def build(self, input_shape: Any) -> None:
        """Create the projections, and u."""
        super().build(input_shape)
        shape = self.matrix_shape[:2]
        self.bonus = self.add_weight(shape=shape, initializer="zeros", name="u")

    def add_bias(self, shape: tuple[int, ...], name: str = "bias", **kwargs: Any) -> Any:
        """Add the bias, with that of d spread over speeds."""
        start = spread_biases(self, self.key_units or self.units, -6.0, -1.0)
        return super().add_bias(shape, name, initializer=start, **kwargs)

    def factors(self, projected: Any) -> dict[str, Any]:
        """Return receptance, key, value, decays and bonus."""
        parts = self.parts(projected)
        d = keras.ops.cast(parts["d"], self.accumulator_dtype)
        # Beyond 20 nothing is left in a step, and exp would overflow.
        g = -keras.ops.exp(keras.ops.where(d < 20.0, d, 20.0 + 0.0 * d))
        return {"q": parts["r"], "k": parts["k"], "v": parts["v"], "g": g, "u": self.bonus + 0.0}


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations, head by head."""
    r, k, v, d = (by_head(x @ w[f"W_{n}"] + w[f"b_{n}"], config["num_heads"]) for n in "rkvd")
    kv = np.einsum("bhk,bhv->bhkv", k, v)
    o = np.einsum("bhkv,bhk->bhv", states[0] + w["u"][..., None] * kv, r)
    S = np.exp(-np.exp(np.minimum(d, 20.0)))[..., None] * states[0] + kv
    return o.reshape(len(x), config["units"]), [S]


RWKV6Cell.spec = CellSpec(
    guide=Guide(
        "linear attention",
        "Use it when keys should fade at speeds of their own, and the newest one counts apart.",
        ("parallel", "long memory", "time scales", "associative recall", "language"),
    ),
    reference=reference,
    states=("S",),
    symbols=symbols_of("rkvd", {"u": "u"}, of_keys="rkd"),
    cases={
        "default": {"units": 4},
        "heads": {"units": 6, "num_heads": 3},
        "keys": {"units": 4, "key_units": 2, "num_heads": 2, "use_bias": False},
        "dropout": {"units": 4, "dropout": 0.4, "seed": 1},
    },
    deviations=(
        "The shift of tokens, the norm of each head and the gate of the paper's block are left "
        "out, and the paper's low-rank map to d is a full one.",
        "Projections have biases unless use_bias=False; the paper's have none but that of d.",
    ),
).completed(RWKV6Cell)
