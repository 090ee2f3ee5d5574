"""Projections into queries, keys, values and gates, by head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from cellkit.cells import MatrixCell, matmul, plus, positive_int, split, vector_size
from cellkit.errors import problem
from cellkit.registry import WeightMap, configured, gate_blocks, rename


class HeadsCell(MatrixCell):
    """Base class of cells whose letters are products of the input, cut into heads.

    Args:
        units: Width of the output, H; each head has H / num_heads values.
        num_heads: Number of heads; must divide `units` and `key_units`.
        key_units: Number of keys of all heads together. None: `units`.
        **kwargs: Options of `cellkit.MatrixCell`.
    """

    per_head: tuple[str, ...] = ()
    """Letters of projections to one number per head, which stand behind the others."""

    def __init__(
        self, units: int, *, num_heads: int = 1, key_units: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(units, **kwargs)
        self.num_heads = positive_int(type(self), "num_heads", num_heads)
        self.key_units = key_units
        if key_units is not None:
            self.key_units = positive_int(type(self), "key_units", key_units)
        for name, width in (("units", self.units), ("key_units", self.key_units)):
            if width is not None and width % self.num_heads:
                raise problem(
                    f"The heads of {type(self).__name__} do not divide its {name}.",
                    received=f"{name}={width}, num_heads={self.num_heads}",
                    expected=f"{name} that are a multiple of the number of heads",
                    fix=f"pass e.g. {name}={self.num_heads * (width // self.num_heads + 1)}",
                )

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """Numbers of heads, of keys and of values of a head."""
        keys = self.key_units or self.units
        return self.num_heads, keys // self.num_heads, self.units // self.num_heads

    @property
    def output_size(self) -> int:
        """Width of the output, which is not a state."""
        return self.units

    @property
    def blocks(self) -> dict[str, int]:
        """Widths of the projections by their letters, in the order of the weights."""
        keys = self.key_units or self.units
        widths = {"q": keys, "k": keys, "v": self.units}
        return {**widths, **dict.fromkeys(self.per_head, self.num_heads)}

    def build(self, input_shape: Any) -> None:
        """Create `kernel` and `bias`, which hold all projections side by side."""
        super().build(input_shape)
        self.features = vector_size(self, input_shape)
        width = sum(self.blocks.values())
        self.kernel = self.add_kernel((self.features, width))
        self.bias = self.add_bias((width,))

    def project(self, inputs: Any) -> Any:
        """Return all projections, side by side."""
        return plus(matmul(inputs, self.kernel), self.bias)

    def parts(self, projected: Any) -> dict[str, Any]:
        """Return the projections by their letters, `(rows, heads, width / heads)`."""
        blocks = self.blocks
        parts = split(projected, list(blocks.values()))
        return {
            name: keras.ops.reshape(part, (-1, self.num_heads, width // self.num_heads))
            for (name, width), part in zip(blocks.items(), parts, strict=True)
        }

    def scaled(self, q: Any) -> Any:
        """Return queries divided by the root of the number of keys of a head."""
        return q / self.matrix_shape[1] ** 0.5


def decay_rates(cell: Any) -> Any:
    """Return the initializer of logarithms of rates between 1 and 16, as in Mamba-2."""
    rates = keras.initializers.RandomUniform(1.0, 16.0, seed=cell.seed)
    return lambda shape, dtype=None: keras.ops.log(rates(shape, dtype=dtype))


def step_biases(cell: Any, count: int) -> Any:
    """Return the initializer of biases whose last ones are steps between 0.001 and 0.1.

    Args:
        cell: The cell, whose `bias_initializer` draws the others.
        count: Number of steps, which are the softplus of these biases.
    """
    steps = keras.initializers.RandomUniform(np.log(0.001), np.log(0.1), seed=cell.seed)

    def start(shape: Any, dtype: Any = None) -> Any:
        drawn = cell.bias_initializer(shape, dtype=dtype)
        own = keras.ops.log(keras.ops.expm1(keras.ops.exp(steps((count,), dtype=dtype))))
        return keras.ops.concatenate([drawn[:-count], own])

    return start


def spread_biases(cell: Any, count: int, slowest: float, fastest: float) -> Any:
    """Return the initializer of biases whose last ones are evenly spread over speeds.

    Args:
        cell: The cell, whose `bias_initializer` draws the others.
        count: Number of the last ones.
        slowest: The first of them.
        fastest: The last of them.
    """

    def start(shape: Any, dtype: Any = None) -> Any:
        drawn = cell.bias_initializer(shape, dtype=dtype)
        spread = keras.ops.linspace(slowest, fastest, count, dtype=dtype)
        return keras.ops.concatenate([drawn[:-count], spread])

    return start


def normalized(x: Any, epsilon: float = 1e-6) -> Any:
    """Return vectors of length one; the square of their length is taken to be `epsilon` larger."""
    return x * keras.ops.rsqrt(keras.ops.sum(x * x, axis=-1, keepdims=True) + epsilon)


def by_head(x: Any, count: int) -> Any:
    """Return `(batch, width)` as `(batch, heads, width / heads)`, in NumPy."""
    return x.reshape(len(x), count, x.shape[-1] // count)


def unit(x: Any, epsilon: float = 1e-6) -> Any:
    """Return vectors as `normalized` does, in NumPy."""
    return x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True) + epsilon)


def symbols_of(
    letters: Sequence[str],
    others: dict[str, str] | None = None,
    extra: Callable[[Any], dict[str, str]] | None = None,
    of_keys: str = "qk",
) -> WeightMap:
    """Return the map of `kernel` and `bias` to ``W_q``, ``b_q`` and so on.

    Args:
        letters: The letters of the blocks.
        others: Symbols by the names of further weights.
        extra: Returns more of them for a configuration.
        of_keys: The letters that are as wide as the keys; the others but v have one number per
            head.
    """

    def chosen(config: Any) -> WeightMap:
        keys, heads = config.get("key_units") or config["units"], config.get("num_heads", 1)
        known = {"v": config["units"], **dict.fromkeys(of_keys, keys)}
        widths = {letter: known.get(letter, heads) for letter in letters}
        names = {**(others or {}), **(extra(config) if extra else {})}
        return gate_blocks(widths, recurrent_kernel=None) | rename(names)

    return configured(chosen)
