"""The loop over `step`, with the inputs of all time steps projected in one product before it."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import keras

from cellkit.cells.cell import Cell
from cellkit.cells.effects import Undone
from cellkit.cells.recorder import Recorder
from cellkit.cells.runner import trace
from cellkit.cells.scope import SequenceScope, sequence_scope
from cellkit.engines.backend import backend
from cellkit.engines.engine import Engine, Need
from cellkit.engines.shared import needs
from cellkit.typing import Tensor

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves


def _no_project(request: Request) -> str | None:
    cell = request.cell
    if type(cell).project is Cell.project and "project" not in vars(cell):
        return f"{type(cell).__name__} has no `project` of its own"
    return None


def run(request: Request) -> tuple[Leaves, Any, Leaves]:
    """Run the loop; see `cellkit.engines`."""
    projected = project(request)
    leaves = keras.tree.flatten(projected)
    cell, runner, form, training = request.cell, request.runner, request.form, request.training
    single = not keras.tree.is_nested(projected)

    def step(inputs: Leaves, states: Leaves) -> tuple[Leaves, Leaves]:
        x = inputs[0] if single else keras.tree.pack_sequence_as(projected, inputs)
        output, states = runner.run(cell.advance, x, states, training, {})
        return form.flatten(output), states

    # The projection of padding is not zero, and a step may see all rows.
    loop = dataclasses.replace(request.loop(step), clean=True)
    return backend.run(loop, leaves, request.states, request.mask)


def project(request: Request, time_major: bool = False, prepare: Any = None) -> Any:
    """Return what the cell projects the inputs of all time steps to.

    The masks that are constant over time are drawn here, and stay for the loop that follows.

    Args:
        request: The run.
        time_major: True to return tensors `(time, batch, ...)`, not `(batch, time, ...)`.
        prepare: Projects rows, as the cell's own `prepare` does, which does so by default.
    """
    prepare = prepare or functools.partial(request.cell.prepare, training=request.training)
    first = keras.tree.flatten(request.inputs)[0]
    batch, time = _sizes(first, 2)
    lead = (time, batch) if time_major else (batch, time)

    def as_rows(x: Tensor) -> Any:
        rest = _sizes(x)[2:]
        if time_major:
            x = keras.ops.transpose(x, (1, 0, *range(2, len(x.shape))))
        return keras.ops.reshape(x, (batch * time, *rest))

    def for_rows(mask: Tensor) -> Any:
        """Repeat a mask of the batch for all steps."""
        rest = _sizes(mask)[1:]
        mask = keras.ops.expand_dims(mask, 0 if time_major else 1)
        return keras.ops.reshape(
            keras.ops.broadcast_to(mask, (*lead, *rest)), (batch * time, *rest)
        )

    rows = keras.tree.map_structure(as_rows, request.inputs)
    with request.scope.expanded(for_rows):
        projected = prepare(rows)
    request.scope.settle()
    return keras.tree.map_structure(
        lambda x: keras.ops.reshape(x, (*lead, *_sizes(x)[1:])), projected
    )


def _sizes(x: Tensor, count: int | None = None) -> tuple[Any, ...]:
    """Return the sizes of (the first `count`) axes, tensors where they are not known."""
    return tuple(
        keras.ops.shape(x)[i] if d is None else d for i, d in enumerate(tuple(x.shape)[:count])
    )


def not_row_wise(request: Request) -> str | None:
    """Return why the steps of many rows can't be projected at once, or None if they can."""
    key, cache = ("row-wise", request.training), request.options.cache
    if backend.transformed() is not None:
        # Operations run here would become part of a trace.
        known = cache.get(key)
        if known is None or known[0] != request.edition:
            return "PyTorch traces or transforms a call of a cell that was not examined before"
        return known[1]
    reason: str | None = cache.current(key, request.edition, lambda: _not_rows(request))
    return reason


def _not_rows(request: Request) -> str | None:
    """Trace `project`: does all that it returns have the rows of its inputs, and nothing else?"""
    specs = keras.tree.map_structure(
        lambda x: keras.KerasTensor(
            (None, *x.shape[2:]), dtype=keras.backend.standardize_dtype(x.dtype)
        ),
        request.inputs,
    )
    cell, name, training = request.cell, type(request.cell).__name__, request.training
    recorder = Recorder()

    def twice(x: Tensor) -> Any:
        scope = SequenceScope(keras.ops.shape(keras.tree.flatten(x)[0])[0])
        with sequence_scope(scope, [], training):
            with Recorder():
                cell.prepare(x, training)  # draws the masks that are drawn once per call
            with recorder:
                return cell.prepare(x, training)

    error: Exception | None = None
    with Undone(cell) as effects:
        if effects.found is None:
            try:
                projected = trace(twice, specs, variables=cell.variables)
            except Exception as raised:  # if it is the cell's own, the loop will raise it
                error = raised
    if effects.found is not None:
        return f"{name}.project {effects.found}"
    if error is not None:
        return f"{name}.project raises {type(error).__name__} for rows whose number is unknown"
    if recorder.written or recorder.losses:
        return f"{name}.project draws random numbers, writes a variable or adds a loss"
    if all(len(x.shape) and x.shape[0] is None for x in keras.tree.flatten(projected)):
        return None
    return f"what {name}.project returns does not have one row for each row of the inputs"


ROW_WISE = Need("a `project` that treats its rows one by one", not_row_wise)

ENGINE = Engine(
    name="projected",
    summary="`project` for all time steps in one product, then the loop over `step`.",
    cells="`cellkit.Cell` with a `project`",
    run=run,
    loops=True,
    needs=(
        needs.SAME_DTYPE,
        needs.SOMETHING,
        needs.A_CELL,
        Need("a `project` of its own", _no_project),
        needs.untouched({"call": Cell}),
        ROW_WISE,
    ),
)
