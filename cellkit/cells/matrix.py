"""`MatrixCell`: the base class of cells whose state is a matrix, written to in outer products.

Many steps of such a cell are a few products of matrices, so a layer runs it chunk by chunk
(`cellkit.engines.shared.chunked`).
"""

from __future__ import annotations

from typing import Any

import keras

from cellkit.cells.parallel import ParallelCell, as_dtype
from cellkit.cells.structure import TensorSpec
from cellkit.errors import problem

__all__ = ["MatrixCell"]

_NEEDED = ("q", "k", "v")
_OTHERS = ("g", "e", "p", "u")


class MatrixCell(ParallelCell):
    """Base class of cells with a matrix per head that keys write to and queries read from.

    A subclass writes `matrix_shape`, `build`, `factors` and, where the output is not simply what
    the queries read, `read`. The step follows, for every head:

    ```
    q, k, v, g, e, p, u = factors(projected)
    S' = diag(exp(g)) S + e (p^T S) + k v^T
    o  = S'^T q                        with u:  S^T q + (q . (u * k)) v
    output = read(o, projected)
    ```

    S is `(keys, values)` large. `factors` returns a dict of those letters that the cell has, in any
    of these shapes, without the axis of rows where they do not depend on the inputs:

    | letter | shape | |
    |---|---|---|
    | `q`, `k` | `(rows, heads, keys)` | the query, the key |
    | `v` | `(rows, heads, values)` | the value |
    | `g` | `(rows, heads, keys)` or `(rows, heads, 1)` | logarithm of the decay, at most 0; without it nothing decays |
    | `e`, `p` | `(rows, heads, keys)` | what is taken out where the probe p finds it, as in a delta rule; both or none |
    | `u` | `(heads, keys)` | the bonus of the step's own key; with it, queries read the state before |

    One decay for all keys of a head is the faster one: chunks are longer, and nothing in them is
    computed again for the gradient.

    The state is float32 under a 16-bit policy: sums over many steps would be lost to rounding. The
    layer may call `factors` and `read`, like `project`, with the steps of many rows at once. So
    they compute each row for itself, and draw nothing at random. A `window` works as in
    `cellkit.LinearCell`.

    Args:
        units: Positive int, the width of the output.
        **kwargs: Options of `cellkit.Cell`. No state enters a product with a weight, so there is
            nothing that `recurrent_dropout` could drop.

    Raises:
        ValueError: If an argument is out of its range, or for `recurrent_dropout`.

    Example:
    >>> import keras
    >>> import cellkit
    >>> from cellkit.cells import matmul, split
    >>> class AssociativeCell(MatrixCell):
    ...     @property
    ...     def matrix_shape(self):
    ...         return 1, self.units, self.units
    ...
    ...     def build(self, input_shape):
    ...         super().build(input_shape)
    ...         self.kernel = self.add_kernel((input_shape[-1], 3 * self.units))
    ...
    ...     def project(self, inputs):
    ...         return matmul(inputs, self.kernel)
    ...
    ...     def factors(self, projected):
    ...         q, k, v = split(projected[:, None], 3)
    ...         return {"q": q, "k": k, "v": v}
    >>> layer = cellkit.RNN(AssociativeCell(4), return_state=True)
    >>> layer.compute_output_shape((None, 10, 3))
    ((None, 4), (None, 1, 4, 4))
    """  # noqa: E501

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """Numbers of heads, of keys and of values of the matrix."""
        raise NotImplementedError(f"{type(self).__name__} must define `matrix_shape`.")

    @property
    def state_size(self) -> Any:
        """The matrix, not rounded to 16 bits."""
        return TensorSpec(self.matrix_shape, dtype=self.accumulator_dtype)

    @property
    def output_size(self) -> Any:
        """Width of the output: `units`, or all that the heads read."""
        heads, _, values = self.matrix_shape
        return heads * values if self.units is None else self.units

    def factors(self, projected: Any) -> dict[str, Any]:
        """Return the letters of the equation; see the class.

        Args:
            projected: The result of `project`; with a `window` above 1 that of `look`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `factors(projected)`.")

    def read(self, read: Any, projected: Any) -> Any:
        """Return the output of a step. The default is what all heads read, side by side.

        Args:
            read: o of the equation, `(rows, heads, values)`, in the dtype of the state.
            projected: The argument of `factors`.
        """
        heads, _, values = self.matrix_shape
        return self.as_output(keras.ops.reshape(read, (-1, heads * values)))

    def to_matrix(self, states: Any) -> Any:
        """Return S, `(rows, heads, keys, values)`, of the states. The default: there is one."""
        return keras.tree.flatten(states)[0]

    def from_matrix(self, matrix: Any, states: Any) -> Any:
        """Return the states of S, in the structure of `states`: the inverse of `to_matrix`."""
        return keras.tree.pack_sequence_as(states, [matrix])

    def advance_states(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Return the output and the new states of one step."""
        s = self.to_matrix(states)
        f = self.checked_factors(projected, s.dtype)
        q, k, v = f["q"], f["k"], f["v"]
        new = s * _column(keras.ops.exp(f["g"])) if "g" in f else s
        if "e" in f:
            new = new + _column(f["e"]) * (_row(f["p"]) @ s)
        new = new + _column(k) * _row(v)
        if "u" in f:
            own = keras.ops.sum(q * f["u"] * k, axis=-1, keepdims=True)
            read = (_row(q) @ s)[..., 0, :] + own * v
        else:
            read = (_row(q) @ new)[..., 0, :]
        return self.read(read, projected), self.from_matrix(new, states)

    def for_rows(self, states: Any, projected: Any) -> list[Any]:
        """Return factors and outputs of many rows; see `ParallelCell`."""
        s = self.to_matrix(states)
        factors = self.checked_factors(projected, s.dtype)
        output = self.read((_row(factors["q"]) @ s)[..., 0, :], projected)
        return [*factors.values(), *keras.tree.flatten(output)]

    def checked_factors(self, projected: Any, dtype: Any) -> dict[str, Any]:
        """Return `factors` in the dtype of the state, or raise a three-part `ValueError`."""
        found = self.factors(projected)
        known = {*_NEEDED, *_OTHERS}
        if not {*_NEEDED} <= {*found} <= known or ("e" in found) != ("p" in found):
            raise problem(
                f"The factors of {type(self).__name__} make no step.",
                received=", ".join(sorted(found)) or "no letters",
                expected="q, k and v; g and u where the cell has them; e and p both or none",
                fix="return a dict of these letters from `factors`",
            )
        return {name: as_dtype(x, dtype) for name, x in found.items()}


def _row(x: Any) -> Any:
    return keras.ops.expand_dims(x, -2)


def _column(x: Any) -> Any:
    return keras.ops.expand_dims(x, -1)
