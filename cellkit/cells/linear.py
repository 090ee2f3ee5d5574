"""`LinearCell`: the base class of cells whose recurrence is linear, element by element.

Such a recurrence is associative, so a layer need not go through it step by step: it computes the
coefficients of all time steps at once and scans over them (`cellkit.engines.scan`).
"""

from __future__ import annotations

from typing import Any

import keras

from cellkit.cells.cell import Cell
from cellkit.cells.structure import TensorSpec
from cellkit.errors import problem

__all__ = ["LinearCell"]


class LinearCell(Cell):
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
    >>> from cellkit.cell import matmul
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

    window: int = 1

    def __init__(self, units: int | None = None, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        if self.recurrent_dropout:
            raise problem(
                f"{type(self).__name__} has no recurrent product to drop states from.",
                received=f"recurrent_dropout={self.recurrent_dropout}",
                expected="recurrent_dropout=0.0",
                fix="use `dropout`, which drops inputs",
            )

    @property
    def state_size(self) -> Any:
        """One state of `units` numbers, not rounded to 16 bits."""
        return TensorSpec(super().state_size, dtype=self.accumulator_dtype)

    @property
    def output_size(self) -> Any:
        """Width of the output: `units`."""
        return super().state_size

    def look(self, window: Any) -> Any:
        """Return what `coefficients` and `read` take of a window. The default passes it on.

        Args:
            window: What `project` returned at the last `window` steps, `(rows, window, ...)`,
                oldest first.
        """
        return window

    def coefficients(self, projected: Any) -> tuple[Any, Any]:
        """Return what each state is multiplied with, and what is added to it.

        Args:
            projected: What `project` returned; with a `window` above 1 what `look` returned.

        Returns:
            a and b, each in the structure of the states (one state: a tensor or a number). A
            leaf has the shape `(rows, ...)` of its state, or one that is broadcast to it: what
            does not depend on the inputs has no axis of rows.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `coefficients(projected)`.")

    def read(self, states: Any, projected: Any) -> Any:
        """Return the output of a step. The default is the first state.

        Args:
            states: The states after the step (without the inputs that a `window` keeps).
            projected: What `coefficients` was given.
        """
        return self.as_output(keras.tree.flatten(states)[0])

    def as_output(self, x: Any) -> Any:
        """Return `x` in the compute dtype."""
        return as_dtype(x, self.compute_dtype)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        own, seen = self.split_states(states)
        if self.window > 1:
            inputs = keras.ops.concatenate([seen[0], projected[:, None]], axis=1)
            projected, seen = self.look(inputs), [inputs[:, 1:]]
        a, b = (keras.tree.flatten(c) for c in self.coefficients(projected))
        olds = keras.tree.flatten(own)
        self.check_coefficients(a, b, olds)
        news = [_times(x, h) + as_dtype(y, h.dtype) for x, y, h in zip(a, b, olds, strict=True)]
        new = keras.tree.pack_sequence_as(own, news)
        return self.read(new, projected), [*new, *seen] if self.window > 1 else new

    def split_states(self, states: Any) -> tuple[Any, list[Any]]:
        """Return the states of the recurrence, and the inputs that a `window` keeps in a list."""
        return (states[:-1], list(states[-1:])) if self.window > 1 else (states, [])

    def check_coefficients(self, a: list[Any], b: list[Any], states: list[Any]) -> None:
        """Raise a three-part `ValueError` unless there is one a and one b for every state."""
        if not len(a) == len(b) == len(states):
            raise problem(
                f"{type(self).__name__} does not give a and b for every state.",
                received=f"{len(a)} a and {len(b)} b for {len(states)} state(s)",
                expected="one a and one b per state",
                fix="return `(a, b)` from `coefficients`, each in the structure of the states",
            )

    def _zone_out(self, output: Any, old: Any, new: Any, training: bool) -> tuple[Any, Any]:
        """Keep elements of the old states, and all inputs that a window keeps."""
        (old, _), (new, seen) = self.split_states(old), self.split_states(new)
        output, new = super()._zone_out(output, old, new, training)
        return output, [*new, *seen] if self.window > 1 else new


def _times(a: Any, h: Any) -> Any:
    return as_dtype(a, h.dtype) * h


def as_dtype(x: Any, dtype: Any) -> Any:
    """Return `x` in a dtype; a number stays a number, which takes the dtype of its partner."""
    if isinstance(x, (int, float)):
        return x
    dtype = keras.backend.standardize_dtype(dtype)
    return x if keras.backend.standardize_dtype(x.dtype) == dtype else keras.ops.cast(x, dtype)
