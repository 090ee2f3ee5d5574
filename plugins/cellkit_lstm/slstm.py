"""The sLSTM of the xLSTM: exponential gates, kept finite."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np

from cellkit.cells import GatedCell, TensorSpec, choice, log_sigmoid, matmul, positive_int, split
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, custom, gate_blocks
from cellkit.registry.reference import activation, softplus

FORGET_GATES = ("sigmoid", "exp")


@keras.saving.register_keras_serializable(package="cellkit_lstm")
class SLSTMCell(GatedCell):
    """The sLSTM: exponential gates, a normaliser, and a stabiliser that keeps both finite.

    Paper: Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory", arXiv:2405.04517, section 2.2
    and, for the stabiliser, appendix A.

    ```
    a_i, a_f, a_z, a_o = W @ x + U @ y + b        U block-diagonal: one block per head
    l = log(s(a_f)) + m                           forget_gate="sigmoid"
    l = a_f + m                                   forget_gate="exp"
    m' = max(a_i, l)
    i = exp(a_i - m'),  f = exp(l - m')
    c' = f * c + i * tanh(a_z)
    n' = f * n + i
    y' = s(a_o) * c' / n'
    ```

    exp(m) c and exp(m) n are the paper's unstabilised c and n. Where nothing is remembered yet
    (n is zero in a whole row), m' = a_i, for m means nothing then. The xlstm package applies this
    rule only when n is zero in *all* rows of the batch, so that a row's result can depend on its
    neighbours; here every row goes by itself. flashrnn keeps n at one or more.

    Only the cell: the causal convolution, group normalisation and up-projection of the paper's
    block are not part of it.

    Args:
        units: Number of units H.
        num_heads: Number of heads; must divide `units`. Default 1, a full recurrent matrix.
        forget_gate: `"sigmoid"` (default), as in the authors' code, or `"exp"`, the paper's other
            choice.
        unit_forget_bias: True if the biases of the forget gate start at one. Default True: a new
            cell then remembers.
        **kwargs: Options of `cellkit.Cell`: `activation` for z, `recurrent_activation` for the
            output gate.

    Inputs: `(batch, features)`. States: `[y, c, n, m]`, each `(batch, units)`; c, n and m stay
    float32 under a 16-bit policy. Output: `y'`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(SLSTMCell(8, num_heads=2), return_state=True)
    >>> len(layer.compute_output_shape((None, 10, 3)))  # the output and four states
    5
    """

    gates: ClassVar[dict[str, str]] = {
        "i": "recurrent_activation",
        "f": "recurrent_activation",
        "z": "activation",
        "o": "recurrent_activation",
    }

    def __init__(
        self,
        units: int,
        *,
        num_heads: int = 1,
        forget_gate: str = "sigmoid",
        unit_forget_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        self.num_heads = heads(self, num_heads)
        self.forget_gate = choice(type(self), "forget_gate", forget_gate, FORGET_GATES)
        self.unit_forget_bias = bool(unit_forget_bias)

    @property
    def state_size(self) -> list[TensorSpec]:
        """Sizes of y, c, n and m; the sums over time are not rounded to 16 bits."""
        total = TensorSpec(self.units, dtype=self.accumulator_dtype)
        return [TensorSpec(self.units), total, total, total]

    @property
    def recurrent_shape(self) -> tuple[int, int]:
        """Shape of the recurrent kernel: the blocks of the heads one below the other."""
        return self.units, 4 * self.units // self.num_heads

    def gate_bias_initializers(self) -> dict[str, Any]:
        """Start the forget gate open."""
        return {"f": "ones"} if self.unit_forget_bias else {}

    def recur(self, y: Any) -> Any:
        """Return the product of y with the recurrent kernel, head by head."""
        u, count = self.recurrent_kernel, self.num_heads
        if count == 1:
            return matmul(y, u)
        size, ops = self.units // count, keras.ops
        y = ops.transpose(ops.reshape(y, (-1, count, size)), (1, 0, 2))
        product = matmul(y, ops.reshape(u, (count, size, 4 * size)))
        product = ops.transpose(ops.reshape(product, (count, -1, 4, size)), (1, 2, 0, 3))
        return ops.reshape(product, (-1, 4 * self.units))

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        y, c, n, m = states
        z = keras.ops.cast(projected + self.recur(self.drop(y)), self.accumulator_dtype)
        i, f, z, o = split(z, 4)
        kept = (log_sigmoid(f) if self.forget_gate == "sigmoid" else f) + m
        nothing = keras.ops.all(n == 0, axis=-1, keepdims=True)
        kept = keras.ops.where(nothing, i, kept)
        m = keras.ops.where(kept > i, kept, i)  # keras.ops.maximum rounds float64 on Torch
        i, f = keras.ops.exp(i - m), keras.ops.exp(kept - m)
        c = f * c + i * self.activation(z)
        n = f * n + i
        y = keras.ops.cast(self.recurrent_activation(o) * c / n, self.compute_dtype)
        return y, [y, c, n, m]


def heads(cell: Any, count: Any) -> int:
    """Return a number of heads that divides the units of `cell`, or raise."""
    count = positive_int(type(cell), "num_heads", count)
    if cell.units % count:
        raise problem(
            f"The heads of {type(cell).__name__} do not divide its units.",
            received=f"units={cell.units}, num_heads={count}",
            expected="a number of units that is a multiple of the number of heads",
            fix=f"pass e.g. units={count * (cell.units // count + 1)}",
        )
    return count


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations; U_i and its like are full, block-diagonal matrices."""
    y, c, n, m = states
    s, tanh = activation(config["recurrent_activation"]), activation(config["activation"])
    a = {q: x @ w[f"W_{q}"] + y @ w[f"U_{q}"] + w[f"b_{q}"] for q in "ifzo"}
    log_f = -softplus(-a["f"]) if config["forget_gate"] == "sigmoid" else a["f"]
    fresh = np.all(n == 0, axis=-1, keepdims=True)
    kept = np.where(fresh, a["i"], log_f + m)
    new_m = np.maximum(a["i"], kept)
    i, f = np.exp(a["i"] - new_m), np.exp(kept - new_m)
    new_c = f * c + i * tanh(a["z"])
    new_n = f * n + i
    new_y = s(a["o"]) * new_c / new_n
    return new_y, [new_y, new_c, new_n, new_m]


def _to_symbols(weights: Any, config: Any) -> dict[str, Any]:
    """Spread the blocks of the heads over the diagonals of full matrices."""
    u = weights["recurrent_kernel"]
    units, count = u.shape[0], config.get("num_heads", 1)
    size = units // count
    blocks = u.reshape(count, size, 4, size)
    symbols = {f"U_{gate}": np.zeros((units, units), u.dtype) for gate in SLSTMCell.gates}
    for k in range(count):
        part = slice(k * size, (k + 1) * size)
        for j, gate in enumerate(SLSTMCell.gates):
            symbols[f"U_{gate}"][part, part] = blocks[k, :, j]
    return symbols


def _from_symbols(symbols: Any, config: Any) -> dict[str, Any]:
    """Take the blocks of the heads, given one by one or on the diagonal of a full matrix."""
    count, columns = config.get("num_heads", 1), []
    for gate in SLSTMCell.gates:
        u = symbols[f"U_{gate}"]
        if u.ndim == 2:
            size = u.shape[0] // count
            u = u.reshape(count, size, count, size)
            outside = u[
                ~np.eye(count, dtype=bool)[:, None, :, None].repeat(size, 1).repeat(size, 3)
            ]
            if outside.any():
                raise problem(
                    f"The matrix U_{gate} joins heads that sLSTM keeps apart.",
                    received=f"entries other than zero outside the {count} diagonal blocks",
                    expected="a block-diagonal matrix, one block per head",
                    fix="make the cell with num_heads=1 for a full matrix",
                )
            u = np.stack([u[k, :, k] for k in range(count)])
        columns.append(u)
    kernel = np.stack(columns, axis=2)
    return {"recurrent_kernel": kernel.reshape(kernel.shape[0] * kernel.shape[1], -1)}


def draw_states(states: Any) -> Any:
    """Keep the normaliser above zero: it is a sum of exponentials."""
    y, c, n, m = states
    return [y, c, np.abs(n) + np.asarray(0.2, n.dtype), m]


SLSTMCell.spec = CellSpec(
    guide=Guide(
        "lstm",
        "Use it when a memory has to be revised sharply, which gates that saturate at one "
        "can't do.",
        ("normalised", "language"),
    ),
    reference=reference,
    states=("y", "c", "n", "m"),
    symbols=gate_blocks(["i", "f", "z", "o"], recurrent_kernel=None)
    | custom(to_symbols=_to_symbols, from_symbols=_from_symbols),
    cases={
        "default": {"units": 4},
        "heads": {"units": 6, "num_heads": 3},
        "exp": {"units": 3, "forget_gate": "exp", "recurrent_activation": "hard_sigmoid"},
        "no_bias": {"units": 2, "use_bias": False, "activation": "softsign"},
        "dropout": {"units": 4, "dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1},
    },
    more_traits={"fp32_state"},
    deviations=(
        "The rule of the first step holds per row; in the xlstm package it holds for the batch.",
        "flashrnn keeps n at one or more.",
    ),
    draw_states=draw_states,
).completed(SLSTMCell)
