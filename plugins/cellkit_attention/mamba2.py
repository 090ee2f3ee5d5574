"""Mamba-2."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import positive_int, softplus, split
from cellkit.registry import (
    CellSpec,
    Guide,
    WeightMap,
    configured,
    gate_blocks,
    rename,
)
from cellkit.registry.reference import softplus as numpy_softplus
from cellkit_attention._base import HeadsCell, by_head, decay_rates, step_biases


@keras.saving.register_keras_serializable(package="cellkit_attention")
class Mamba2Cell(HeadsCell):
    """Mamba-2: a selective state space whose heads fade at a rate that the input decides.

    Paper: Dao and Gu 2024, "Transformers are SSMs: Generalized Models and Efficient Algorithms
    Through Structured State Space Duality", arXiv:2405.21060, sections 2 and 7.

    ```
    u, B, C, d = W @ x + b              u cut into heads, B and C shared by all, d one per head
    dt = softplus(d)
    a = exp(-dt * exp(A_log))
    S' = a * S + B (dt * u)^T           indices (state, value)
    y = S'^T C + D * u
    ```

    The convolution before, the gated norm and the projection after, which the paper's block has,
    are layers of their own. The bias of d is the authors' `dt_bias`. In the words of linear
    attention C is the query, B the key and dt * u the value.

    Args:
        units: Width of the output, H; each head has H / num_heads values.
        num_heads: Number of heads; must divide `units`. Default 1.
        state_units: Number N of numbers in the state for each value. Default 16; the paper's
            models have 64 and more.
        **kwargs: Options of `cellkit.MatrixCell`. exp(A_log) starts uniformly distributed between
            1 and 16, dt between 0.001 and 0.1, and D at 1, as in the authors' code. Activations
            are not used.

    Inputs: `(batch, features)`. States: `[S]` of shape `(batch, num_heads, N, H / num_heads)`,
    float32 under a 16-bit policy. Output: y of shape `(batch, units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(Mamba2Cell(8, num_heads=2), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 8), (None, 2, 16, 4))
    """

    def __init__(
        self, units: int, *, num_heads: int = 1, state_units: int = 16, **kwargs: Any
    ) -> None:
        super().__init__(units, num_heads=num_heads, **kwargs)
        self.state_units = positive_int(type(self), "state_units", state_units)

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """Numbers of heads, of states and of values of a head."""
        return self.num_heads, self.state_units, self.units // self.num_heads

    @property
    def blocks(self) -> dict[str, int]:
        """Widths of the projections by their letters."""
        return _widths(self.units, self.state_units, self.num_heads)

    def build(self, input_shape: Any) -> None:
        """Create the projections, `A_log` and D."""
        super().build(input_shape)
        shape = (self.num_heads,)
        self.decay = self.add_weight(shape=shape, initializer=decay_rates(self), name="A_log")
        self.skip = self.add_weight(shape=shape, initializer="ones", name="D")

    def add_bias(self, shape: tuple[int, ...], name: str = "bias", **kwargs: Any) -> Any:
        """Add the bias, with that of d so that steps start between 0.001 and 0.1."""
        start = step_biases(self, self.num_heads)
        return super().add_bias(shape, name, initializer=start, **kwargs)

    def parts(self, projected: Any) -> dict[str, Any]:
        """Return u and d by head, and B and C for all heads."""
        heads, states, values = self.matrix_shape
        u, b, c, d = split(projected, list(self.blocks.values()))
        rows = keras.ops.shape(projected)[0]
        shared = [keras.ops.broadcast_to(x[:, None], (rows, heads, states)) for x in (b, c)]
        u = keras.ops.reshape(u, (-1, heads, values))
        return {"u": u, "B": shared[0], "C": shared[1], "d": d[..., None]}

    def factors(self, projected: Any) -> dict[str, Any]:
        """Return C, B and dt * u as query, key and value, and decays."""
        parts = self.parts(projected)
        dtype = self.accumulator_dtype
        dt = softplus(keras.ops.cast(parts["d"], dtype))
        rate = keras.ops.cast(keras.ops.exp(self.decay + 0.0), dtype)
        v = dt * keras.ops.cast(parts["u"], dtype)
        return {"q": parts["C"], "k": parts["B"], "v": v, "g": -rate[:, None] * dt}

    def read(self, read: Any, projected: Any) -> Any:
        """Return the output, with D * u beside what the state gives."""
        u = self.parts(projected)["u"]
        y = self.as_output(read) + (self.skip + 0.0)[:, None] * u
        return keras.ops.reshape(y, (-1, self.units))


def _widths(units: int, states: int, heads: int) -> dict[str, int]:
    return {"u": units, "B": states, "C": states, "d": heads}


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations, head by head."""
    u, B, C, d = (x @ w[f"W_{n}"] + w[f"b_{n}"] for n in ("u", "B", "C", "d"))
    u, dt = by_head(u, config["num_heads"]), numpy_softplus(d)
    a = np.exp(-dt * np.exp(w["A_log"]))
    S = a[..., None, None] * states[0] + np.einsum("bn,bhv->bhnv", B, dt[..., None] * u)
    y = np.einsum("bhnv,bn->bhv", S, C) + w["D"][:, None] * u
    return y.reshape(len(x), config["units"]), [S]


def _gates(config: Any) -> WeightMap:
    widths = _widths(config["units"], config.get("state_units", 16), config.get("num_heads", 1))
    return gate_blocks(widths, recurrent_kernel=None)


Mamba2Cell.spec = CellSpec(
    guide=Guide(
        "linear attention",
        "Use it when a state space has to choose from its input how fast it forgets, and large "
        "states are worth their memory.",
        ("parallel", "long memory", "stable", "language"),
    ),
    reference=reference,
    states=("S",),
    symbols=configured(_gates) | rename({"A_log": "A_log", "D": "D"}),
    cases={
        "default": {"units": 4, "state_units": 3, "seed": 1},
        "heads": {"units": 6, "num_heads": 3, "state_units": 4, "seed": 1},
        "no_bias": {"units": 2, "use_bias": False, "seed": 1},
        "dropout": {"units": 4, "dropout": 0.4, "seed": 1},
    },
    deviations=(
        "The convolution, the gated norm and the projection of the paper's block are left out.",
        "u, B and C have biases unless use_bias=False; the paper's have none.",
    ),
).completed(Mamba2Cell)
