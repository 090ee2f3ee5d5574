"""A trial of what is computed for all steps at once: each step must compute the same alone.

`project`, and of a linear cell `coefficients` and `read`, are given the rows of all steps together.
Nothing stops them from reading values on the host, or from computing with the number of rows or
with other rows. So they are traced for rows whose values and number are unknown, and run with rows
that are made up, all together and in parts; what that changes in Python is put back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from cellkit.engines.engine import Need
from cellkit.engines.shared import rows
from cellkit.engines.shared import step as steps
from cellkit.typing import Tensor

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves

# Numbers of rows to try in any case, and the largest to try because a call has so many.
_ANY = (3, 1, 275)
_MOST = 1 << 14


def _not_apart(request: Request) -> str | None:
    leaves = keras.tree.flatten(request.inputs)
    key = tuple((x.dtype, tuple(x.shape[2:])) for x in leaves)
    reason: str | None = steps.remember(request, "rows", key, lambda: _quietly(request, _ANY, True))
    batch, time = leaves[0].shape[:2]
    if reason is not None or batch is None:
        return reason
    # A cell that treats a certain number of rows in its own way shows it with that number alone.
    numbers = [n for n in (batch, batch * (time or 1)) if n <= _MOST]
    key += (batch, time)
    reason = steps.remember(request, "so many rows", key, lambda: _quietly(request, numbers))
    return reason


APART = Need(rows.NAME, _not_apart, costly=True)


def _quietly(request: Request, numbers: Iterable[int], first: bool = False) -> str | None:
    return rows.quietly(request, lambda: _examine(request, numbers, first))


def _examine(request: Request, numbers: Iterable[int], first: bool) -> str | None:
    """Return what is wrong with rows that are computed together, or None.

    Args:
        request: The run.
        numbers: Numbers of rows to try.
        first: True to trace it as well, which shows the same for all numbers of rows.
    """
    inputs, states = keras.tree.flatten(request.inputs), request.states
    sizes = {n for x in [*inputs, *states, *request.cell.variables] for n in x.shape}
    count = next(n for n in range(11, 12 + len(sizes)) if n not in sizes)
    try:
        reason = rows.traced(request) if first else None
        if reason is not None:
            return reason
        # Also where a function is traced: values are compared here and now.
        with tf.init_scope():
            if not tf.executing_eagerly():
                return "cannot be tried in a graph of TensorFlow 1"
            rng = np.random.default_rng(5)
            made = [_made_up(x, 2, count, rng) for x in inputs]
            olds = [_made_up(s, 1, count, rng) for s in states]
            whole = rows.results(request, made, olds)
            for number in numbers:
                places = [(4 + 7 * i) % count for i in range(number)]
                part = rows.results(request, _rows(made, places), _rows(olds, places))
                if not rows.alike(whole, part, places, count):
                    return "depends on the other rows, or on their number"
    except Exception as error:  # if it is the cell's own, the loop will raise it
        return f"raises {type(error).__name__} for rows that are made up"
    return None


def _made_up(x: Tensor, lead: int, count: int, rng: Any) -> Any:
    # Unknown sizes, such as that of an image, are made up as well.
    shape = [count, *(8 if n is None else n for n in x.shape[lead:])]
    if x.dtype.is_floating or x.dtype.is_complex:
        values = rng.normal(size=shape)
    else:
        values = rng.integers(0, 2, size=shape)
    return tf.cast(values, x.dtype)


def _rows(leaves: Leaves, places: list[int]) -> Leaves:
    return [tf.gather(x, places) for x in leaves]
