"""RWKV-7."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.registry import CellSpec, Guide
from cellkit.registry.reference import sigmoid
from cellkit_attention._base import (
    HeadsCell,
    by_head,
    normalized,
    spread_biases,
    symbols_of,
    unit,
)


@keras.saving.register_keras_serializable(package="cellkit_attention")
class RWKV7Cell(HeadsCell):
    """RWKV-7 (Goose): a delta rule whose rate and decay are vectors that the input decides.

    Paper: Peng et al. 2025, "RWKV-7 Goose with Expressive Dynamic State Evolution",
    arXiv:2503.14456, section 4.

    ```
    r, k, v, d, a = W @ x + b           each cut into heads
    w = exp(-e^(-1/2) * s(d))           what is kept, one for every key
    a := s(a)                           the rate of the delta rule, one for every key
    kappa = xi * k / |xi * k|           the key that is taken out
    k := k * (1 + alpha * (a - 1))      the key that is written
    S' = diag(w) S - (a * kappa) (kappa^T S) + k v^T      indices (key, value)
    o = S'^T r
    ```

    The shift of tokens before, and the norm of each head, the bonus and the gate after, which the
    paper's block has, are layers of their own; the paper's d and a are made with two small
    matrices each.

    Args:
        units: Width of the output, H; each head has V = H / num_heads values.
        num_heads: Number of heads; must divide `units` and `key_units`. Default 1.
        key_units: Number of keys of all heads together. Default None: `units`, as in the paper.
        **kwargs: Options of `cellkit.MatrixCell`. xi and alpha start at 1. The biases of d start
            evenly spread between -6 and 1, so that keys forget at speeds of their own. Activations
            are not used.

    Inputs: `(batch, features)`. States: `[S]` of shape `(batch, num_heads, K, V)`, float32 under a
    16-bit policy. Output: o of shape `(batch, units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(RWKV7Cell(8, num_heads=2), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 8), (None, 2, 4, 4))
    """

    @property
    def blocks(self) -> dict[str, int]:
        """Widths of the projections by their letters."""
        keys = self.key_units or self.units
        return {"r": keys, "k": keys, "v": self.units, "a": keys, "d": keys}

    def build(self, input_shape: Any) -> None:
        """Create the projections, xi and alpha."""
        super().build(input_shape)
        shape = self.matrix_shape[:2]
        self.removed = self.add_weight(shape=shape, initializer="ones", name="xi")
        self.mixed = self.add_weight(shape=shape, initializer="ones", name="alpha")

    def add_bias(self, shape: tuple[int, ...], name: str = "bias", **kwargs: Any) -> Any:
        """Add the bias, with that of d spread over speeds."""
        start = spread_biases(self, self.key_units or self.units, -6.0, 1.0)
        return super().add_bias(shape, name, initializer=start, **kwargs)

    def factors(self, projected: Any) -> dict[str, Any]:
        """Return receptance, key, value, decays, and what the delta rule takes out."""
        parts = self.parts(projected)
        k, a = parts["k"], keras.ops.sigmoid(parts["a"])
        d = keras.ops.cast(parts["d"], self.accumulator_dtype)
        kappa = normalized(k * (self.removed + 0.0))
        written = k * (1 + (self.mixed + 0.0) * (a - 1))
        return {
            "q": parts["r"],
            "k": written,
            "v": parts["v"],
            "g": -_RATE * keras.ops.sigmoid(d),
            "e": -a * kappa,
            "p": kappa,
        }


_RATE = float(np.exp(-0.5))


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations, head by head."""
    heads = config["num_heads"]
    r, k, v, d, a = (by_head(x @ w[f"W_{n}"] + w[f"b_{n}"], heads) for n in "rkvda")
    a, kept = sigmoid(a), np.exp(-np.exp(-0.5) * sigmoid(d))
    kappa = unit(w["xi"] * k)
    k = k * (1 + w["alpha"] * (a - 1))
    found = np.einsum("bhkv,bhk->bhv", states[0], kappa)
    S = kept[..., None] * states[0] - np.einsum("bhk,bhv->bhkv", a * kappa, found)
    S = S + np.einsum("bhk,bhv->bhkv", k, v)
    o = np.einsum("bhkv,bhk->bhv", S, r)
    return o.reshape(len(x), config["units"]), [S]


RWKV7Cell.spec = CellSpec(
    guide=Guide(
        "linear attention",
        "Use it when a state has to be tracked and rewritten key by key, as the input says.",
        ("long memory", "time scales", "associative recall", "language"),
    ),
    reference=reference,
    states=("S",),
    symbols=symbols_of("rkvad", {"xi": "xi", "alpha": "alpha"}, of_keys="rkad"),
    cases={
        "default": {"units": 4},
        "heads": {"units": 6, "num_heads": 3},
        "keys": {"units": 4, "key_units": 2, "num_heads": 2, "use_bias": False},
        "dropout": {"units": 4, "dropout": 0.4, "seed": 1},
    },
    deviations=(
        "The shift of tokens, the norm of each head, the bonus and the gate of the paper's block "
        "are left out, and the paper's low-rank maps to d and a are full ones.",
        "Projections have biases unless use_bias=False; the paper's have none but those of d and "
        "a.",
        "1e-6 is added under the root of |xi * k|.",
    ),
).completed(RWKV7Cell)
