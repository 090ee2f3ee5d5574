"""`LinearCell`: the base class of cells whose recurrence is linear, element by element.

Such a recurrence is associative, so a layer need not go through it step by step: it computes the
coefficients of all time steps at once and scans over them (`cellkit.engines.scan`).
"""

from __future__ import annotations

from typing import Any

import keras

from cellkit.cells.parallel import ParallelCell, as_dtype
from cellkit.cells.structure import TensorSpec
from cellkit.errors import problem
from cellkit.typing import States, Tensor, Tree

__all__ = ["LinearCell", "as_dtype"]


class LinearCell(ParallelCell):
    """Base class of cells with ``h' = a * h + b``, elementwise, where a and b see inputs alone.

    A subclass writes `build`, `coefficients` and, where the output is not simply the first state,
    `read`. The step follows:

    ```
    a, b = coefficients(projected)
    h' = a * h + b                     for every state, in the dtype of the state
    output = read(h', projected)
    ```

    States may have any structure and shape, and a floating or complex dtype. They are float32
    under a 16-bit policy, unless declared otherwise: sums over many steps would be lost to
    rounding. |a| should not exceed 1: beyond it the states grow without limit, and the products of
    many a even faster.

    The layer may call `coefficients` and `read`, like `project`, with the steps of many rows at
    once. So they compute each row for itself, and draw nothing at random.

    **Earlier inputs.** A cell whose coefficients need the inputs of steps before sets `window` to
    the number of steps it looks at, its own included. Its last state then holds the ``window - 1``
    inputs before, as `project` returned them (a state that is linear, too: ``a = 0, b = x``), and
    `look` is given whole windows of shape `(rows, window, ...)`, oldest first, from which it makes
    what `coefficients` and `read` are given. Steps that are masked do not count as inputs.

    Args:
        units: Positive int, the number of units.
        **kwargs: Options of `cellkit.Cell`. There is no product with a state, so nothing that
            `recurrent_dropout` could drop.

    Raises:
        ValueError: If an argument is out of its range, or for `recurrent_dropout`.

    Example:
    >>> import keras
    >>> from cellkit.cells import matmul
    >>> class DecayCell(LinearCell):
    ...     def build(self, input_shape):
    ...         super().build(input_shape)
    ...         self.kernel = self.add_kernel((input_shape[-1], self.units))
    ...
    ...     def project(self, inputs):
    ...         return matmul(inputs, self.kernel)
    ...
    ...     def coefficients(self, projected):
    ...         return 0.9, projected
    >>> layer = keras.Sequential([keras.Input((None, 3))])
    >>> layer.add(__import__("cellkit").RNN(DecayCell(4)))
    >>> layer.output_shape
    (None, 4)
    """

    @classmethod
    def spec_defaults(cls) -> dict[str, Any]:
        """Return what a spec says by default; the recurrence is linear."""
        usual = super().spec_defaults()
        return {**usual, "traits": usual["traits"] | {"linear"}}

    @property
    def state_size(self) -> Any:
        """One state of `units` numbers, not rounded to 16 bits."""
        return TensorSpec(self._width(), dtype=self.accumulator_dtype)

    @property
    def output_size(self) -> Any:
        """Width of the output: `units`."""
        return self._width()

    def coefficients(self, projected: Tree) -> tuple[Any, Any]:
        """Return what each state is multiplied with, and what is added to it.

        Args:
            projected: The result of `project`; with a `window` above 1 that of `look`.

        Returns:
            a and b, each in the structure of the states (one state: a tensor or a number). A
            leaf has the shape `(rows, ...)` of its state, or one that is broadcast to it: what
            does not depend on the inputs has no axis of rows.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `coefficients(projected)`.")

    def read(self, states: States, projected: Tree) -> Any:
        """Return the output of a step. The default is the first state.

        Args:
            states: The states after the step (without the inputs that a `window` keeps).
            projected: The argument of `coefficients`.
        """
        return self.as_output(keras.tree.flatten(states)[0])

    def advance_states(self, projected: Tree, states: States) -> tuple[Tree, States]:
        """Return the output and the new states of one step."""
        a, b = (keras.tree.flatten(c) for c in self.coefficients(projected))
        olds = keras.tree.flatten(states)
        self.check_coefficients(a, b, olds)
        news = [_times(x, h) + as_dtype(y, h.dtype) for x, y, h in zip(a, b, olds, strict=True)]
        new = keras.tree.pack_sequence_as(states, news)
        return self.read(new, projected), new

    def for_rows(self, states: States, projected: Tree) -> list[Any]:
        """Return coefficients and outputs of many rows; see `ParallelCell`."""
        a, b = self.coefficients(projected)
        return [
            *keras.tree.flatten(a),
            *keras.tree.flatten(b),
            *keras.tree.flatten(self.read(states, projected)),
        ]

    def check_coefficients(self, a: list[Any], b: list[Any], states: list[Any]) -> None:
        """Raise a three-part `ValueError` unless there is one a and one b for every state."""
        if not len(a) == len(b) == len(states):
            raise problem(
                f"{type(self).__name__} does not give a and b for every state.",
                received=f"{len(a)} a and {len(b)} b for {len(states)} state(s)",
                expected="one a and one b per state",
                fix="return `(a, b)` from `coefficients`, each in the structure of the states",
            )


def _times(a: Tensor, h: Tensor) -> Any:
    return as_dtype(a, h.dtype) * h
