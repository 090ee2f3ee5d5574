"""Checks for cells that take the time between their steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from cellkit.cells.validate import vector_size
from cellkit.errors import problem
from cellkit.typing import Tensor


class TimeGaps:
    """Methods of cells whose `dt` is None where the inputs are a pair of x and the time gap."""

    dt: float | None

    def drop_inputs(self, inputs: Any) -> Any:
        """Drop elements of x alone."""
        drop: Any = super().drop_inputs  # type: ignore[misc]
        return drop(inputs) if self.dt is not None else (drop(inputs[0]), inputs[1])

    def check_values(self, sequences: Any) -> None:
        """Refuse time gaps that are negative."""
        if self.dt is None:
            check_gaps(self, sequences[1])


def constant_gap(owner: type, dt: Tensor, fix: str) -> float | None:
    """Return a constructor's `dt`: None for gaps that are inputs, else the gap of every step.

    Args:
        owner: The class of the cell.
        dt: The value passed.
        fix: The advice for regular steps, for the message.

    Raises:
        ValueError: If it is not a time.
    """
    if dt is None:
        return None
    if isinstance(dt, bool) or not isinstance(dt, (int, float)) or not 0 <= dt < float("inf"):
        raise problem(
            f"The time gap of {owner.__name__} is not a time.",
            received=f"dt={dt!r}",
            expected="a number of at least 0, or None for gaps that are inputs",
            fix=fix,
        )
    return float(dt)


def features_beside_gap(cell: Any, shape: Any, fix: str) -> int:
    """Return the number of features of x, after checking that the time gaps are there.

    Args:
        cell: A cell whose `dt` is None where gaps are inputs.
        shape: Shape of the inputs of one step, or the shapes of x and of the gap.
        fix: The advice for regular steps, for the message.

    Raises:
        ValueError: If gaps are inputs and there are none, or x is not a vector.
    """
    if cell.dt is not None:
        return vector_size(cell, shape)
    pair = isinstance(shape, (list, tuple)) and len(shape) == 2
    pair = pair and all(isinstance(s, (list, tuple)) for s in shape)
    if not pair or len(shape[1]) != 2 or shape[1][1] != 1:
        raise problem(
            f"{type(cell).__name__} needs the time gap of every step.",
            received=f"inputs of one step with shape {shape}",
            expected="a pair (x, dt) of shapes (batch, features) and (batch, 1)",
            fix=f"pass `(x, dt)` to the layer, dt of shape (batch, time, 1), or {fix}",
        )
    return vector_size(cell, shape[0])


def check_gaps(cell: Any, gaps: np.ndarray) -> None:
    """Raise a three-part `ValueError` if a time gap is negative; for a cell's `check_values`.

    Args:
        cell: The cell, for the message.
        gaps: Gaps before every step, of shape `(batch, time, ...)`. NaN is not a negative number.
    """
    found = np.argwhere(gaps < 0)
    if len(found):
        row, step = (int(i) for i in found[0][:2])
        raise problem(
            f"Time runs backwards in the inputs of {type(cell).__name__}.",
            received=f"a time gap of {gaps[tuple(found[0])]:g} at step {step} of row {row}",
            expected="gaps of 0 or more: the time that passed since the step before",
            fix="sort the steps of a sequence by time before taking differences, e.g. "
            "`np.diff(times, prepend=times[0])`",
        )
