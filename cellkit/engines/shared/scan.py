"""The parallel scan: all coefficients at once, then one linear recurrence for each state.

For cells with ``h' = a * h + b`` (`cellkit.LinearCell`). A masked step has ``a = 1, b = 0``.
The gradient of a linear recurrence is a linear recurrence that runs the other way, so training
stores a and the states, once each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from cellkit.cells.cell import training_mode
from cellkit.cells.linear import LinearCell, as_dtype
from cellkit.engines.backend import backend
from cellkit.engines.engine import Engine, Need
from cellkit.engines.shared import at_once
from cellkit.typing import Tensor

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves


def _not_linear(request: Request) -> str | None:
    if isinstance(request.cell, LinearCell):
        return None
    return f"{type(request.cell).__name__} is no `cellkit.LinearCell`"


def run(request: Request) -> tuple[Leaves, Any, Leaves]:
    """Run the scan; see `cellkit.engines`."""
    return at_once.run(request, _scan, recompute=True)


def _scan(
    request: Request,
    x: Tensor,
    states: Leaves,
    mask: Tensor,
    last: Leaves | None,
    resets: Tensor,
) -> tuple[Leaves, Any, Leaves]:
    """Scan over all steps at once; see `at_once.Advance`."""
    cell = request.cell
    own, seen = cell.split_states(request.runner.layout.pack(states))
    sizes = at_once.sizes_of(keras.tree.flatten(x)[0])
    starts: Any = [None] * len(states)
    if resets is not None:
        fresh, unseen = cell.split_states(request.runner.layout.pack(request.starts or []))
        if not request.runner.starts_at_zero():
            starts = keras.tree.flatten(fresh)
    if seen:
        x, seen = at_once.windows(x, seen[0], mask, resets, resets is not None and unseen[0])
    rows = keras.tree.map_structure(at_once.rows_of, x)
    with training_mode(request.training):
        if seen:
            rows = cell.look(rows)
            x = keras.tree.map_structure(lambda v: at_once.steps_of(v, sizes), rows)
        a, b = (keras.tree.flatten(c) for c in cell.coefficients(rows))
        olds = keras.tree.flatten(own)
        cell.check_coefficients(a, b, olds)
        each = zip(a, b, olds, starts[: len(olds)], strict=True)
        hs = [_states(u, v, h, mask, sizes, resets, s) for u, v, h, s in each]

        def read(values: Leaves, x: Tensor) -> Any:
            return cell.read(keras.tree.pack_sequence_as(own, values), x)

        last, outputs = at_once.read_out(request, read, hs, x, mask, last, resets, held=True)
    return last, outputs, [*(h[:, -1] for h in hs), *seen]


def _states(
    a: Tensor,
    b: Tensor,
    h: Tensor,
    mask: Tensor,
    sizes: tuple[Any, Any],
    resets: Tensor,
    start: Any,
) -> Any:
    """Return a state after every step.

    Args:
        a: Coefficients of the state before, of rows.
        b: Terms, of rows.
        h: The state before the first step.
        mask: Boolean tensor `(batch, time)`, or None.
        sizes: Batch and time.
        resets: Boolean tensor `(batch, time)`, or None.
        start: The state before a step with a reset, None for zeros.
    """
    a, b = _in_time(a, h, sizes), _in_time(b, h, sizes)
    shape = (*sizes, *h.shape[1:])
    b = b if tuple(b.shape) == shape else keras.ops.broadcast_to(b, shape)
    if mask is not None:
        a, b = backend.select(mask, a, 1), backend.select(mask, b, 0)
    if resets is None:
        return backend.recurrence(a, b, h)
    on = keras.ops.logical_not(resets)
    if start is not None:
        b = backend.select(on, b, a * start[:, None] + b)
    return backend.recurrence(backend.select(on, a, 0), b, h, True)


def _in_time(x: Tensor, h: Tensor, sizes: tuple[Any, Any]) -> Any:
    """Return coefficients of rows as `(batch, time, ...)`, those of no row as `(1, 1, ...)`."""
    rank = len(h.shape) + 1
    if isinstance(x, (int, float)):
        return keras.ops.full((1,) * rank, x, dtype=keras.backend.standardize_dtype(h.dtype))
    x = as_dtype(x, h.dtype)
    constant = len(x.shape) < rank - 1 or x.shape[0] == 1
    lead = (1,) * (rank - len(x.shape)) if constant else sizes
    return keras.ops.reshape(x, (*lead, *x.shape[not constant :]))


ENGINE = Engine(
    name="scan",
    summary="A parallel scan over time.",
    cells="Cells with a linear recurrence (`cellkit.LinearCell`)",
    run=run,
    needs=(Need("a `cellkit.LinearCell`", _not_linear), *at_once.needs_of(LinearCell)),
)
