"""Linear attention."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import TensorSpec, choice, positive_number
from cellkit.registry import CellSpec, Guide
from cellkit_attention._base import HeadsCell, by_head, symbols_of

_FEATURES = ("elu", "relu", "identity")


@keras.saving.register_keras_serializable(package="cellkit_attention")
class LinearAttentionCell(HeadsCell):
    """Linear attention as a recurrence: sums of keys times values, read by queries.

    Paper: Katharopoulos et al. 2020, "Transformers are RNNs: Fast Autoregressive Transformers with
    Linear Attention", arXiv:2006.16236, equations 16 to 20.

    ```
    q, k, v = W @ x + b                 each cut into heads
    q := phi(q),  k := phi(k)           phi(x) = elu(x) + 1
    S' = S + k v^T                      indices (key, value)
    z' = z + k
    o = S'^T q / (z' . q + epsilon)     with normalize=True, else S'^T q
    ```

    The residual connection and the feed-forward part of the paper's layer (its equation 20) are
    layers of their own. In fla, queries are divided by the root of the number of keys, which the
    quotient takes out again, and phi is applied before.

    Args:
        units: Width of the output, H; each head has H / num_heads values.
        num_heads: Number of heads; must divide `units` and `key_units`. Default 1.
        key_units: Number of keys of all heads together. Default None: `units`.
        feature_map: phi: `"elu"` (default, elu(x) + 1, as in the paper), `"relu"` or
            `"identity"`.
        normalize: True (default, as in the paper) to divide by the sum of the weights. False needs
            no second state, and is the form of later models.
        epsilon: Added to the denominator. Default 1e-6, as in the authors' code.
        **kwargs: Options of `cellkit.MatrixCell`. Activations are not used.

    Inputs: `(batch, features)`. States: `[S, z]` of shapes `(batch, num_heads, K, V)` and
    `(batch, num_heads, K)`, z with `normalize=True` alone; they stay float32 under a 16-bit
    policy. Output: o of shape `(batch, units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(LinearAttentionCell(8, num_heads=2), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 8), (None, 2, 4, 4), (None, 2, 4))
    """

    def __init__(
        self,
        units: int,
        *,
        num_heads: int = 1,
        key_units: int | None = None,
        feature_map: str = "elu",
        normalize: bool = True,
        epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, num_heads=num_heads, key_units=key_units, **kwargs)
        self.feature_map = choice(type(self), "feature_map", feature_map, _FEATURES)
        self.normalize = bool(normalize)
        self.epsilon = positive_number(type(self), "epsilon", epsilon)

    @property
    def state_size(self) -> Any:
        """Shapes of S, and of z where the output is normalised."""
        heads, keys, values = self.matrix_shape
        dtype = self.accumulator_dtype
        s = TensorSpec((heads, keys, values), dtype=dtype)
        return [s, TensorSpec((heads, keys), dtype=dtype)] if self.normalize else [s]

    def to_matrix(self, states: Any) -> Any:
        """Return S, with z as the column of one more value, which is always 1."""
        if not self.normalize:
            return states[0]
        return keras.ops.concatenate([states[0], states[1][..., None]], axis=-1)

    def from_matrix(self, matrix: Any, states: Any) -> Any:
        """Return S and z."""
        return [matrix[..., :-1], matrix[..., -1]] if self.normalize else [matrix]

    def factors(self, projected: Any) -> dict[str, Any]:
        """Return phi of queries and keys, and the values."""
        parts = self.parts(projected)
        q, k, v = (parts[name] for name in "qkv")
        if self.normalize:
            v = keras.ops.concatenate([v, keras.ops.ones_like(v[..., :1])], axis=-1)
        return {"q": self.phi(q), "k": self.phi(k), "v": v}

    def phi(self, x: Any) -> Any:
        """Return the features of queries or keys."""
        if self.feature_map == "elu":
            # Not elu(x) + 1, which has no digits left where it is small.
            negative = keras.ops.where(x < 0, x, 0.0 * x)
            return keras.ops.where(x < 0, keras.ops.exp(negative), x + 1)
        return keras.ops.relu(x) if self.feature_map == "relu" else x

    def read(self, read: Any, projected: Any) -> Any:
        """Return the output, divided by the sum of the weights."""
        if self.normalize:
            read = read[..., :-1] / (read[..., -1:] + self.epsilon)
        return self.as_output(keras.ops.reshape(read, (-1, self.units)))


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations, head by head."""
    heads = config["num_heads"]
    q, k, v = (by_head(x @ w[f"W_{n}"] + w[f"b_{n}"], heads) for n in "qkv")
    phi = {
        "elu": lambda a: np.where(a > 0, a + 1, np.exp(np.minimum(a, 0.0))),
        "relu": lambda a: np.maximum(a, 0.0),
        "identity": lambda a: a,
    }[config["feature_map"]]
    q, k = phi(q), phi(k)
    S = states[0] + np.einsum("bhk,bhv->bhkv", k, v)
    o = np.einsum("bhkv,bhk->bhv", S, q)
    new = [S]
    if config["normalize"]:
        z = states[1] + k
        o = o / (np.einsum("bhk,bhk->bh", z, q) + config["epsilon"])[..., None]
        new = [S, z]
    return o.reshape(len(x), config["units"]), new


LinearAttentionCell.spec = CellSpec(
    guide=Guide(
        "linear attention",
        "Use it when the simplest memory of keys and values will do, and all steps are to be "
        "computed at once.",
        ("baseline", "parallel", "associative recall", "language"),
    ),
    reference=reference,
    states=("S", "z"),
    symbols=symbols_of("qkv"),
    cases={
        "default": {"units": 4},
        "heads": {"units": 6, "num_heads": 2, "key_units": 4},
        "plain": {"units": 4, "normalize": False, "feature_map": "identity", "use_bias": False},
        "relu": {"units": 3, "normalize": False, "feature_map": "relu"},
        "dropout": {"units": 4, "dropout": 0.4, "seed": 1},
    },
    deviations=(
        "The residual connection and the feed-forward part of the paper's layer are left out.",
    ),
    draw_states=lambda states: [*states[:1], *(np.maximum(np.abs(z), 0.5) for z in states[1:])],
).completed(LinearAttentionCell)
