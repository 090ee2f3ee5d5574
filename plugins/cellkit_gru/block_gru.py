"""The block-diagonal GRU of DreamerV3."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from cellkit.cells import (
    Cell,
    choice,
    matmul,
    normalize,
    number,
    plus,
    positive_int,
    positive_number,
    precise,
    resolve,
    rms_normalize,
    split,
    vector_size,
)
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, WeightMap, blocks, configured, rename
from cellkit.registry.reference import activation

_NORMS = ("rms", "layer")


@keras.saving.register_keras_serializable(package="cellkit_gru")
class BlockGRUCell(Cell):
    """The block GRU of DreamerV3: wide states whose large products are block-diagonal.

    Paper: Hafner, Pasukonis, Ba and Lillicrap 2023, "Mastering Diverse Domains through World
    Models", arXiv:2301.04104, the sequence model of the world model.

    ```
    act is `hidden_activation`; A[p] is a product with one matrix for each block of p
    u = act(norm_u(W_u @ x + b_u))                          what is new
    v = act(norm_v(U_v @ h + b_v))                          the state, seen by all blocks
    p = act(norm_1(A_1[h] + P_u @ u + P_v @ v + b_1))
    p := act(norm_d(A_d[p] + b_d))                          for d = 2 .. depth
    r = s(R[p] + b_r)                                       reset gate
    n = tanh(r * (N[p] + b_n))                              candidate
    z = s(Z[p] + b_z + update_bias)                         update gate
    h' = z * n + (1 - z) * h
    norm_k(a) = g_k * a / sqrt(mean(a^2) + epsilon)         norm="rms"
    norm_k(a) = g_k * (a - mean(a)) / sqrt(var(a) + epsilon)   norm="layer"
    ```

    A GRU has three products with matrices as wide as the state. Here those are block-diagonal, so
    that a state may be several times as wide for the same cost; all blocks meet in the narrow v.

    Departure: the world model has a projection u for each of its inputs, the action and the
    stochastic state. Here there is one; pass both side by side, or in a model of your own.

    Args:
        units: Number of units H.
        blocks: Number of blocks, which must divide `units`. Default None: 8, as in the authors'
            code, or as many of them as divide the units.
        projection_units: Width of u and v. Default None: `units`. The authors take an eighth of
            the units, with 4096 of them.
        depth: Number of block-diagonal layers before the gates. Default 1, as in the authors'
            code.
        norm: `"rms"` (default, as in the authors' code) or `"layer"`, as in the first version of
            the paper.
        hidden_activation: Activation of u, v and p. Default `"silu"`, as in the paper.
        update_bias: Number that is added in the update gate. Default -1.0, as in the authors' code:
            at first a step changes a quarter of the state.
        epsilon: Added to mean squares and variances. Default 1e-4, as in the authors' code.
        **kwargs: Options of `cellkit.Cell`: `activation` for the candidate, `recurrent_activation`
            for the gates. `recurrent_initializer` draws each block of A by itself.

    Inputs: `(batch, features)`. States: `[h]` of shape `(batch, units)`. Output: `h'`.

    Raises:
        ValueError: If the blocks do not divide the units.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(BlockGRUCell(32, projection_units=8))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 32)
    """

    def __init__(
        self,
        units: int,
        *,
        blocks: int | None = None,
        projection_units: int | None = None,
        depth: int = 1,
        norm: str = "rms",
        hidden_activation: Any = "silu",
        update_bias: float = -1.0,
        epsilon: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        self.blocks = None if blocks is None else positive_int(type(self), "blocks", blocks)
        self.count = self.blocks or math.gcd(self.units, 8)
        if self.units % self.count:
            raise problem(
                "The blocks of BlockGRUCell do not divide its units.",
                received=f"units={self.units}, blocks={blocks}",
                expected="a number of units that is a multiple of the number of blocks",
                fix=f"pass e.g. units={self.count * (self.units // self.count + 1)}",
            )
        if projection_units is not None:
            projection_units = positive_int(type(self), "projection_units", projection_units)
        self.projection_units = projection_units
        self.depth = positive_int(type(self), "depth", depth)
        self.norm = choice(type(self), "norm", norm, _NORMS)
        self.hidden_activation = precise(
            resolve(type(self), "hidden_activation", hidden_activation)
        )
        self.update_bias = number(type(self), "update_bias", update_bias)
        self.epsilon = positive_number(type(self), "epsilon", epsilon)

    def build(self, input_shape: Any) -> None:
        """Create the maps to u and v and from there, and the blocks of layers and gates."""
        super().build(input_shape)
        features, units = vector_size(self, input_shape), self.units
        wide, size = self.projection_units or units, units // self.count
        self.kernel = self.add_kernel((features, wide))
        self.recurrent_kernel = self.add_recurrent_kernel((units, wide))
        self.input_bias = self.add_bias((wide,), "input_bias")
        self.recurrent_bias = self.add_bias((wide,), "recurrent_bias")
        self.input_mix = self.add_kernel((wide, units), "input_mix")
        self.recurrent_mix = self.add_kernel((wide, units), "recurrent_mix")
        names = range(1, self.depth + 1)
        self.block_kernels = [self.add_blocks((size, size), f"block_kernel_{d}") for d in names]
        self.block_biases = [self.add_bias((units,), f"block_bias_{d}") for d in names]
        self.gate_kernel = self.add_blocks((size, 3 * size), "gate_kernel")
        self.gate_bias = self.add_bias((3 * units,), "gate_bias")
        widths = {"u": wide, "v": wide, **dict.fromkeys(map(str, names), units)}
        self.gains = {
            name: self.add_weight((width,), "ones", name=f"gain_{name}")
            for name, width in widths.items()
        }

    def add_blocks(self, shape: tuple[int, int], name: str) -> Any:
        """Add one matrix for each block, each of them drawn by itself."""
        draws = [self.draw_apart(self.recurrent_initializer, shape) for _ in range(self.count)]

        def draw(_: Any, dtype: Any = None) -> Any:
            return keras.ops.stack([block(shape, dtype=dtype) for block in draws])

        return self.add_recurrent_kernel((self.count, *shape), name, initializer=draw)

    def project(self, inputs: Any) -> Any:
        """Return what u brings to the first layer of blocks, and its bias."""
        u = self.normal(plus(matmul(inputs, self.kernel), self.input_bias), "u")
        return plus(matmul(u, self.input_mix), self.block_biases[0])

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        h = self.drop(states[0])
        v = self.normal(plus(matmul(h, self.recurrent_kernel), self.recurrent_bias), "v")
        p = projected + matmul(v, self.recurrent_mix) + blockwise(h, self.block_kernels[0])[0]
        p = self.normal(p, "1")
        for d in range(1, self.depth):
            a = blockwise(p, self.block_kernels[d])[0]
            p = self.normal(plus(a, self.block_biases[d]), str(d + 1))
        gates = keras.ops.concatenate(blockwise(p, self.gate_kernel, 3), axis=-1)
        r, n, z = split(plus(gates, self.gate_bias), 3)
        n = self.activation(self.recurrent_activation(r) * n)
        z = self.recurrent_activation(z + self.update_bias)
        h = z * n + (1 - z) * states[0]
        return h, [h]

    def normal(self, a: Any, name: str) -> Any:
        """Return the activation of what is normalised and scaled by its own gain."""
        norm = rms_normalize if self.norm == "rms" else normalize
        return self.hidden_activation(norm(a, self.epsilon) * self.gains[name])


def blockwise(x: Any, kernel: Any, parts: int = 1) -> list[Any]:
    """Return the products of each block of x with a matrix of its own.

    Args:
        x: Tensor of shape `(rows, blocks * n)`.
        kernel: Weight of shape `(blocks, n, parts * m)`.
        parts: Number of results that lie side by side in each matrix.

    Returns:
        Tensors of shape `(rows, blocks * m)`, as many as there are parts.
    """
    count, size, width = kernel.shape
    by_block = keras.ops.transpose(keras.ops.reshape(x, (-1, count, size)), (1, 0, 2))
    products = keras.ops.transpose(by_block @ (kernel + 0.0), (1, 0, 2))
    flat = count * width // parts
    return [keras.ops.reshape(part, (-1, flat)) for part in split(products, parts)]


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (h,) = states
    s, tanh = activation(config["recurrent_activation"]), activation(config["activation"])
    act = activation(config["hidden_activation"])

    def norm(a: Any, name: str) -> Any:
        a = a - a.mean(axis=-1, keepdims=True) if config["norm"] == "layer" else a
        square = (a**2).mean(axis=-1, keepdims=True)
        return act(w[f"g_{name}"] * a / np.sqrt(square + config["epsilon"]))

    def times(letter: str, p: Any) -> Any:
        pieces = np.split(p, len(w[letter]), axis=-1)
        products = [piece @ matrix for piece, matrix in zip(pieces, w[letter], strict=True)]
        return np.concatenate(products, axis=-1)

    u = norm(x @ w["W_u"] + w.get("b_u", 0.0), "u")
    v = norm(h @ w["U_v"] + w.get("b_v", 0.0), "v")
    p = norm(times("A_1", h) + u @ w["P_u"] + v @ w["P_v"] + w.get("b_1", 0.0), "1")
    for d in range(2, config["depth"] + 1):
        p = norm(times(f"A_{d}", p) + w.get(f"b_{d}", 0.0), str(d))
    r = s(times("R", p) + w.get("b_r", 0.0))
    n = tanh(r * (times("N", p) + w.get("b_n", 0.0)))
    z = s(times("Z", p) + w.get("b_z", 0.0) + config["update_bias"])
    h = z * n + (1 - z) * h
    return h, [h]


def _layers(config: Any) -> WeightMap:
    """Return the map of the layers of blocks."""
    numbers = range(1, config.get("depth", 1) + 1)
    kernels = rename({f"block_kernel_{d}": f"A_{d}" for d in numbers})
    biases = rename({f"block_bias_{d}": f"b_{d}" for d in numbers}, like="input_mix")
    return kernels | biases | rename({f"gain_{d}": f"g_{d}" for d in numbers})


def _gates(config: Any) -> WeightMap:
    """Return the map of the gates, whose matrices are in blocks and whose biases are not."""
    biases = dict.fromkeys(("b_r", "b_n", "b_z"), config["units"])
    return blocks("gate_kernel", ["R", "N", "Z"]) | blocks("gate_bias", biases, like="gate_kernel")


BlockGRUCell.spec = CellSpec(
    reference=reference,
    cases={
        "default": {"units": 4},
        "two_blocks": {"units": 4, "blocks": 2},
        "deep": {"units": 6, "blocks": 3, "projection_units": 2, "depth": 2, "epsilon": 1e-2},
        "layer_norm": {"units": 4, "blocks": 1, "norm": "layer", "hidden_activation": "tanh"},
        "no_bias": {"units": 4, "blocks": 4, "use_bias": False, "update_bias": 0.5},
        "dropout": {
            "units": 4,
            "blocks": 2,
            "dropout": 0.4,
            "recurrent_dropout": 0.3,
            "seed": 1,
        },
    },
    symbols=rename(
        {
            "kernel": "W_u",
            "recurrent_kernel": "U_v",
            "input_mix": "P_u",
            "recurrent_mix": "P_v",
            "gain_u": "g_u",
            "gain_v": "g_v",
        }
    )
    | rename({"input_bias": "b_u", "recurrent_bias": "b_v"}, like="kernel")
    | configured(_layers)
    | configured(_gates),
    deviations=("The world model has a projection for each of its inputs; here there is one.",),
    states=("h",),
    guide=Guide(
        "gru",
        "Use it when a state should be wide and its products cheap, as in models of the world.",
        ("normalised", "reinforcement learning", "depth"),
    ),
).completed(BlockGRUCell)
