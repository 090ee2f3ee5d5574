"""The nested LSTM: a cell whose memory is a cell."""

from __future__ import annotations

from typing import Any

import keras

from cellkit.cells import matmul, plus, positive_int, split
from cellkit.registry import CellSpec, Guide, WeightMap, blocks, configured, gate_blocks
from cellkit.registry.reference import activation
from cellkit_lstm._base import LSTMBase


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class NestedLSTMCell(LSTMBase):
    """The nested LSTM: what would be added up in the cell state goes through an LSTM of its own.

    Paper: Moniz and Krueger 2018, "Nested LSTMs", arXiv:1801.10308.

    ```
    level 1:  i, f, o = s(W @ x + U @ h + b);  g = tanh(W_g @ x + U_g @ h + b_g)
    level 2:  the same with weights W2, U2, b2, the input i * g, the hidden state f * c_1
    level 3:  the same with weights W3, U3, b3, the input i2 * g2, the hidden state f2 * c_2
    ...
    innermost level D:  c_D' = f_D * c_D + i_D * g_D
    level k above it:   c_k' = o_{k+1} * tanh(c_{k+1}')
    h' = o * tanh(c_1')
    ```

    With depth 1 it is the LSTM. Each level keeps one cell state, so there are D + 1 states.
    The authors' text writes the activations of the levels as free to choose; here, as in the
    implementation hannw/nlstm, they are tanh throughout.

    Args:
        units: Number of units H of every level.
        depth: Number of levels D. Default 2, the paper's.
        **kwargs: `unit_forget_bias` and `max_time` as in `LSTMBase`, at every level, and options of
            `cellkit.Cell`: `activation` for g and the outputs, `recurrent_activation` for the
            gates. `recurrent_dropout` drops the hidden states of all levels.

    Inputs: `(batch, features)`. States: `[h, c_1, ..., c_D]`, each `(batch, units)`. Output: `h'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(NestedLSTMCell(8, depth=3), return_state=True)
    >>> len(layer.compute_output_shape((None, 10, 3)))  # the output and four states
    5
    """

    def __init__(self, units: int, *, depth: int = 2, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.depth = positive_int(type(self), "depth", depth)

    @property
    def state_size(self) -> list[int]:
        """Sizes of h and of the cell state of every level."""
        return [self.units] * (self.depth + 1)

    def build(self, input_shape: Any) -> None:
        """Create the weights of the outer cell and of those inside it."""
        super().build(input_shape)
        size, width = self.units, 4 * self.units
        self.inner = []
        for k in range(2, self.depth + 1):
            kernel = self.add_kernel((size, width), f"kernel_{k}")
            recurrent = self.add_recurrent_kernel((size, width), f"recurrent_kernel_{k}")
            bias = self.add_bias((width,), f"bias_{k}", initializer=self._gate_biases)
            self.inner.append((kernel, recurrent, bias))

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        h, *cells = states
        h, cells = self._level(1, projected + matmul(self.drop(h), self.recurrent_kernel), cells)
        return h, [h, *cells]

    def _level(self, k: int, z: Any, cells: Any) -> tuple[Any, list[Any]]:
        """Advance the cells from level `k` inwards; return the output and the new cell states."""
        s, tanh, (c, *inner) = self.recurrent_activation, self.activation, cells
        i, f, g, o = split(z, 4)
        x, h = s(i) * tanh(g), s(f) * c
        if not inner:
            c = h + x
            return s(o) * tanh(c), [c]
        kernel, recurrent, bias = self.inner[k - 1]
        z = matmul(x, kernel) + matmul(self.drop(h, f"h{k + 1}"), recurrent)
        c, inner = self._level(k + 1, plus(z, bias), inner)
        return s(o) * tanh(c), [c, *inner]


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations, inwards and out again."""
    s, tanh = activation(config["recurrent_activation"]), activation(config["activation"])
    h, *cells = states
    outputs, depth = [], len(cells)
    for k, c in enumerate(cells, 1):
        n = "" if k == 1 else str(k)
        a = {q: x @ w[f"W{n}_{q}"] + h @ w[f"U{n}_{q}"] + w[f"b{n}_{q}"] for q in "ifgo"}
        x, h = s(a["i"]) * tanh(a["g"]), s(a["f"]) * c
        outputs.append(s(a["o"]))
    value, new_cells = h + x, []
    for k in range(depth, 0, -1):
        new_cells.insert(0, value)
        value = outputs[k - 1] * tanh(value)
    return value, [value, *new_cells]


def _symbols(config: Any) -> WeightMap:
    """Return the map of the weights of every level, whose gates lie side by side."""
    found = gate_blocks(["i", "f", "g", "o"])
    for k in range(2, config.get("depth", 2) + 1):
        for name, letter in (("kernel", "W"), ("recurrent_kernel", "U"), ("bias", "b")):
            like = "kernel" if name == "bias" else None
            found |= blocks(f"{name}_{k}", [f"{letter}{k}_{q}" for q in "ifgo"], like=like)
    return found


NestedLSTMCell.spec = CellSpec(
    guide=Guide(
        "lstm",
        "Use it when some memories must outlast others and a stack of LSTMs does not learn it.",
        ("time scales", "language", "depth"),
    ),
    reference=reference,
    symbols=configured(_symbols),
    more_cases={
        "deep": {"units": 3, "depth": 3},
        "depth_one": {"units": 3, "depth": 1, "max_time": 20},
        "relu": {"units": 3, "activation": "softsign", "recurrent_activation": "hard_sigmoid"},
    },
    deviations=(
        "The activations are one and the same at all levels, as in the implementation hannw/nlstm.",
    ),
).completed(NestedLSTMCell)
