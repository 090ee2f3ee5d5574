"""The clockwork RNN: blocks of units that tick at their own periods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from cellkit.cells import Cell, TensorSpec, matmul, plus, split, vector_size
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, custom, rename
from cellkit.registry.reference import activation


@keras.saving.register_keras_serializable(package="cellkit_clockwork")
class ClockworkCell(Cell):
    """The clockwork cell: a simple recurrent cell in blocks, each of which ticks at its own period.

    Paper: Koutnik, Greff, Gomez and Schmidhuber 2014, "A Clockwork RNN", arXiv:1402.3511.

    Block k has units / len(periods) units and the period T_k. It listens to blocks of its own
    period or a longer one, and holds its value between its ticks; t counts the steps from 0.

    ```
    h_k' = tanh(W_k @ x + sum over j with T_j >= T_k of U_jk @ h_j + b_k)   if t mod T_k = 0
    h_k' = h_k                                                              otherwise
    t' = t + 1
    ```

    All blocks tick at the first step. A masked step does not count. Theanets computes the same
    with the slowest block first; rnn_jax applies tanh to the blocks that should hold.

    Args:
        units: Number of units H of all blocks together; a multiple of the number of periods.
        periods: The period of each block in the order of the units, ints of 1 or more. Default
            `(1, 2, 4, 8)`: powers of two, as in the paper.
        **kwargs: Options of `cellkit.Cell`; `activation` is the one of the equation.

    Inputs: `(batch, features)`. States: `[h, t]` of shapes `(batch, units)` and `(batch,)`, t an
    int32 counter. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(ClockworkCell(8, periods=(4, 1)), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 8), (None, 8), (None,))
    """

    def __init__(self, units: int, *, periods: Sequence[int] = (1, 2, 4, 8), **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.periods = _checked(periods, self.units)

    @property
    def state_size(self) -> list[TensorSpec]:
        """Shapes of h and of the counter t."""
        return [TensorSpec((self.units,)), TensorSpec((), dtype="int32")]

    def build(self, input_shape: Any) -> None:
        """Create `kernel`, `bias`, and one recurrent kernel per block for what it listens to."""
        super().build(input_shape)
        self.kernel = self.add_kernel((vector_size(self, input_shape), self.units))
        self.bias = self.add_bias((self.units,))
        size = self.units // len(self.periods)
        self._sources = _sources(self.periods)
        self.recurrent_kernels = [
            self.add_recurrent_kernel((len(blocks) * size, size), f"recurrent_{k}")
            for k, blocks in enumerate(self._sources)
        ]

    def project(self, inputs: Any) -> Any:
        """Return ``inputs @ kernel + bias``."""
        return plus(matmul(inputs, self.kernel), self.bias)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        (h, t), heard = states, split(self.drop(states[0]), len(self.periods))
        recurrent = [
            matmul(keras.ops.concatenate([heard[j] for j in blocks], axis=-1), kernel)
            for blocks, kernel in zip(self._sources, self.recurrent_kernels, strict=True)
        ]
        new = self.activation(projected + keras.ops.concatenate(recurrent, axis=-1))
        # With its dtype: for numbers of Python's, Keras asks for one in a way that can't be traced.
        periods = keras.ops.convert_to_tensor(list(self.periods), dtype=t.dtype)
        ticks = keras.ops.mod(keras.ops.expand_dims(t, -1), periods) == 0
        blocks = (-1, len(self.periods), self.units // len(self.periods))
        new, h = keras.ops.reshape(new, blocks), keras.ops.reshape(h, blocks)
        h = keras.ops.where(keras.ops.expand_dims(ticks, -1), new, h)
        h = keras.ops.reshape(h, (-1, self.units))
        return h, [h, t + 1]


def _sources(periods: Sequence[int]) -> list[list[int]]:
    """Return the blocks that each block listens to: those as slow as itself, or slower."""
    return [[j for j, other in enumerate(periods) if other >= period] for period in periods]


def _checked(periods: Any, units: int) -> list[int]:
    whole = isinstance(periods, (list, tuple)) and len(periods) > 0
    whole = whole and all(hasattr(p, "__index__") and not isinstance(p, bool) for p in periods)
    if not whole or min(periods) < 1:
        raise problem(
            "The periods of ClockworkCell are not positive integers.",
            received=f"periods={periods!r}",
            expected="a tuple or list of ints of 1 or more, one per block",
            fix="pass e.g. periods=(1, 2, 4, 8)",
        )
    if units % len(periods):
        raise problem(
            "The units of ClockworkCell cannot be divided among its blocks.",
            received=f"units={units}, and {len(periods)} periods {tuple(periods)}",
            expected=f"a multiple of {len(periods)}: every block has the same number of units",
            fix=f"pass units={max(1, round(units / len(periods))) * len(periods)}, or another "
            "number of periods",
        )
    return [int(p) for p in periods]


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations, block by block."""
    h, t = states
    tanh, periods = activation(config["activation"]), config["periods"]
    size = h.shape[-1] // len(periods)
    blocks = [slice(k * size, (k + 1) * size) for k in range(len(periods))]
    new = h.copy()
    for k, period in enumerate(periods):
        total = x @ w["W"][:, blocks[k]] + w["b"][blocks[k]]
        for j, other in enumerate(periods):
            if other >= period:
                total = total + h[:, blocks[j]] @ w["U"][blocks[j], blocks[k]]
        ticks = (t % period == 0)[:, None]
        new[:, blocks[k]] = np.where(ticks, tanh(total), h[:, blocks[k]])
    return new, [new, t + 1]


def initial_state(w: Any, batch: int, config: Any) -> list[Any]:
    """Return zeros; the counter is an integer."""
    return [np.zeros((batch, config["units"])), np.zeros((batch,), "int32")]


def _to_symbols(weights: Any, config: Any) -> dict[str, Any]:
    """Join the recurrent kernels to U, zero where a block does not listen."""
    kernels = [weights[f"recurrent_{k}"] for k in range(len(config["periods"]))]
    u = np.zeros((config["units"], config["units"]), kernels[0].dtype)
    for k in range(len(kernels)):
        u[_rows(config, k), _block(config, k)] = kernels[k]
    return {"U": u}


def _from_symbols(symbols: Any, config: Any) -> dict[str, Any]:
    """Take from U what the blocks listen to; the rest of it has no effect."""
    return {
        f"recurrent_{k}": symbols["U"][_rows(config, k), _block(config, k)]
        for k in range(len(config["periods"]))
    }


def _block(config: Any, k: int) -> slice:
    size = config["units"] // len(config["periods"])
    return slice(k * size, (k + 1) * size)


def _rows(config: Any, k: int) -> Any:
    """Return the units that block k listens to."""
    blocks = _sources(config["periods"])[k]
    return np.concatenate([np.r_[_block(config, j)] for j in blocks])


ClockworkCell.spec = CellSpec(
    guide=Guide(
        "plain",
        "Use it when a signal mixes slow and fast parts whose periods you can name.",
        ("long memory", "time scales", "speech"),
    ),
    reference=reference,
    initial_state=initial_state,
    states=("h", "t"),
    symbols=rename({"kernel": "W", "bias": "b"})
    | custom(to_symbols=_to_symbols, from_symbols=_from_symbols),
    cases={
        "default": {"units": 8},
        "slowest_first": {"units": 6, "periods": (4, 2, 1)},
        "unordered": {"units": 6, "periods": (3, 1, 2), "activation": "sigmoid"},
        "no_bias": {"units": 4, "periods": (1, 3), "use_bias": False},
        "dropout": {"units": 4, "periods": (1, 2), "dropout": 0.4, "recurrent_dropout": 0.3},
    },
    deviations=(
        "Blocks stand in the order of `periods`; theanets sorts them, the slowest first.",
        "rnn_jax applies tanh to the blocks that should hold.",
    ),
).completed(ClockworkCell)
