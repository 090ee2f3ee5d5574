"""The parallel scan: all coefficients at once, then one linear recurrence for each state.

For cells with ``h' = a * h + b`` (`cellkit.linear.LinearCell`). A masked step has ``a = 1, b = 0``.
The gradient of a linear recurrence is a linear recurrence that runs the other way, so training
stores a and the states, once each.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import keras

from cellkit import _keras_compat as compat
from cellkit.cells.cell import Cell, training_mode
from cellkit.cells.linear import LinearCell, as_dtype
from cellkit.engines.backend import backend
from cellkit.engines.engine import Engine, Need
from cellkit.engines.request import in_order, pack
from cellkit.engines.shared import needs
from cellkit.engines.shared import project as projected

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves


def _not_linear(request: Request) -> str | None:
    if isinstance(request.cell, LinearCell):
        return None
    return f"{type(request.cell).__name__} is no `cellkit.linear.LinearCell`"


def _zoneout(request: Request) -> str | None:
    return "zoneout mixes new states with old ones at every step" if request.cell.zoneout else None


def _updates(request: Request) -> str | None:
    cell = request.cell
    if any(p is not cell and p.non_trainable_variables for p in _layers(cell)):
        return f"layers inside {type(cell).__name__} have variables that a step may update"
    return None


def _counts(request: Request) -> str | None:
    dtypes = [keras.backend.standardize_dtype(s.dtype) for s in request.states]
    if any(not keras.backend.is_float_dtype(d) and "complex" not in d for d in dtypes):
        return "a state is neither floating nor complex"
    return None


def run(request: Request) -> tuple[Leaves, Any, Leaves]:
    """Run the scan; see `cellkit.engines`."""
    inputs, mask = in_order(request)
    first = keras.tree.flatten(inputs)[0]
    open_ended = first.shape[1] is None
    if open_ended:
        # There may be no step at all, which nothing below expects: a masked one changes nothing.
        mask = keras.ops.ones(keras.ops.shape(first)[:2], "bool") if mask is None else mask
        mask = _after_a_masked_step(mask)
        inputs = keras.tree.map_structure(_after_a_masked_step, inputs)
    drops = request.training and request.cell.dropout  # masks are drawn for the whole sequence
    # An exported function of JAX need not know the number of steps, nor then that of blocks.
    countable = open_ended or isinstance(first.shape[1], int)
    streams = countable and not (request.collect or request.training)
    if not drops and (streams or (backend.blocks_pay and not open_ended)):
        last, outputs, states = _in_blocks(request, inputs, mask)
    else:
        last, outputs, states = _scan(request, inputs, request.states, mask, None)
    if open_ended and outputs is not None:
        outputs = [y[:, 1:] for y in outputs]
    return last, outputs, states


def _after_a_masked_step(x: Any) -> Any:
    dtype = keras.backend.standardize_dtype(x.dtype)
    step = keras.ops.zeros((_sizes(x)[0], 1, *x.shape[2:]), dtype=dtype)
    return keras.ops.concatenate([step, x], axis=1)


def _in_blocks(request: Request, inputs: Any, mask: Any) -> tuple[Leaves, Any, Leaves]:
    """Scan block by block.

    Without sequences, at inference, the memory then does not grow with the number of steps.
    """
    leaves = [*keras.tree.flatten(inputs), *([] if mask is None else [mask])]
    size, (batch, time) = backend.block, _sizes(leaves[0])
    count = (time - 1) // size
    rest = time - count * size
    structure, number = inputs, len(request.states)

    def block(leaves: Leaves, states: Leaves, last: Leaves | None) -> tuple[Leaves, Leaves]:
        keep = None if mask is None else leaves[-1]
        x = pack(structure, leaves if mask is None else leaves[:-1])
        last, outputs, states = _scan(request, x, states, keep, last)
        return outputs or last, [*states, *last]

    outputs, states = block([x[:, :rest] for x in leaves], request.states, None)
    if isinstance(count, int) and count == 0:
        return states[number:], outputs if request.collect else None, states[:number]
    blocks = [keras.ops.reshape(x[:, rest:], (batch, count, size, *x.shape[2:])) for x in leaves]
    loop = dataclasses.replace(
        request.loop(lambda x, s: block(x, s[:number], s[number:])), reverse=False, unroll=False
    )
    _, more, states = backend.run(loop, blocks, states, None)
    if not request.collect:
        return states[number:], None, states[:number]
    joined = [
        keras.ops.concatenate(
            [y, keras.ops.reshape(z, (batch, count * size, *z.shape[3:]))], axis=1
        )
        for y, z in zip(outputs, more, strict=True)
    ]
    return states[number:], joined, states[:number]


def _scan(
    request: Request, inputs: Any, states: Leaves, mask: Any, last: Leaves | None
) -> tuple[Leaves, Any, Leaves]:
    """Scan over all steps at once.

    Args:
        request: Which cell, and what is wanted.
        inputs: Leaves `(batch, time, ...)`, in the order of processing.
        states: Leaves of the states before the first step.
        mask: Boolean tensor `(batch, time)`, or None.
        last: Leaves of the output before the first step; None for zeros.

    Returns:
        As `Engine.run`.
    """
    cell, form = request.cell, request.form
    own, seen = cell.split_states(request.runner.layout.pack(states))
    x = projected.project(dataclasses.replace(request, inputs=inputs))
    batch, time = sizes = _sizes(keras.tree.flatten(x)[0])
    if seen:
        x, seen = _windows(x, seen[0], mask)
    rows = keras.tree.map_structure(_rows, x)
    with training_mode(request.training):
        if seen:
            rows = cell.look(rows)
            x = keras.tree.map_structure(lambda v: _steps(v, sizes), rows)
        a, b = (keras.tree.flatten(c) for c in cell.coefficients(rows))
        olds = keras.tree.flatten(own)
        cell.check_coefficients(a, b, olds)
        hs = [_states(u, v, h, mask, sizes) for u, v, h in zip(a, b, olds, strict=True)]
        final = [h[:, -1] for h in hs]
        if request.collect:
            read = _like(own, [_rows(h) for h in hs]), rows
        elif mask is None:
            read = _like(own, final), keras.tree.map_structure(lambda v: v[:, -1], x)
        else:
            # A masked step left the states as they were: the final ones are those of the last step
            # that counts, and its inputs are all that is missing for the last output.
            steps = keras.ops.arange(time)[None]
            index = keras.ops.max(keras.ops.where(mask, steps, -1), axis=1)
            read = (
                _like(own, final),
                keras.tree.map_structure(lambda v: _pick(v, keras.ops.maximum(index, 0)), x),
            )
        y = form.flatten(cell.read(*read))
    states = [*final, *seen]
    if not request.collect:
        return y if mask is None else _or_before(y, index >= 0, last), None, states
    y = [_steps(v, sizes) for v in y]
    if mask is None:
        return [v[:, -1] for v in y], y, states
    index = _last_kept(mask)
    held = [_pick(v, index) for v in y]
    if last is not None:
        last = [
            keras.ops.broadcast_to(v[:, None], keras.ops.shape(h))
            for v, h in zip(last, held, strict=True)
        ]
    held = _or_before(held, index >= 0, last)
    ends = [v[:, -1] for v in held]
    return ends, [backend.select(mask, v, 0) for v in y] if request.zero_masked else held, states


def _states(a: Any, b: Any, h: Any, mask: Any, sizes: tuple[Any, Any]) -> Any:
    """Return a state after every step, from its coefficients and its start `h`."""
    a, b = _in_time(a, h, sizes), _in_time(b, h, sizes)
    shape = (*sizes, *h.shape[1:])
    b = b if tuple(b.shape) == shape else keras.ops.broadcast_to(b, shape)
    if mask is not None:
        a, b = backend.select(mask, a, 1), backend.select(mask, b, 0)
    return backend.recurrence(a, b, h)


def _in_time(x: Any, h: Any, sizes: tuple[Any, Any]) -> Any:
    """Return coefficients of rows as `(batch, time, ...)`, those of no row as `(1, 1, ...)`."""
    rank = len(h.shape) + 1
    if isinstance(x, (int, float)):
        return keras.ops.full((1,) * rank, x, dtype=keras.backend.standardize_dtype(h.dtype))
    x = as_dtype(x, h.dtype)
    constant = len(x.shape) < rank - 1 or x.shape[0] == 1
    lead = (1,) * (rank - len(x.shape)) if constant else sizes
    return keras.ops.reshape(x, (*lead, *x.shape[not constant :]))


def _windows(x: Any, seen: Any, mask: Any) -> tuple[Any, Leaves]:
    """Return the window of inputs that ends at each step, and the inputs to remember at the end.

    Args:
        x: What was projected, `(batch, time, ...)`.
        seen: The inputs before, `(batch, window - 1, ...)`.
        mask: Boolean tensor `(batch, time)`, or None. Masked steps are in no later window.
    """
    count, (batch, time) = seen.shape[1], _sizes(x)
    x = keras.ops.concatenate([seen, x], axis=1)
    if mask is None:
        taps = [x[:, i : i + time] for i in range(count + 1)]
        return keras.ops.stack(taps, axis=2), [x[:, time:]]
    # For every position, and one behind the end, the last one before it that counts.
    keep = keras.ops.concatenate([keras.ops.ones((batch, count), "bool"), mask], axis=1)
    before = keras.ops.concatenate([keras.ops.zeros((batch, 1), "int32"), _last_kept(keep)], axis=1)
    here = keras.ops.broadcast_to(keras.ops.arange(time + 1)[None] + count, (batch, time + 1))
    taps = [here]
    for _ in range(count):
        taps.insert(0, _pick(before, taps[0]))
    window = keras.ops.stack([_pick(x, tap[:, :-1]) for tap in taps], axis=2)
    return window, [keras.ops.stack([_pick(x, tap[:, -1]) for tap in taps[:-1]], axis=1)]


def _last_kept(mask: Any) -> Any:
    """Return for every step the index of the last one up to it that counts, or -1."""
    keep = keras.ops.cast(mask, "float32")
    steps = keras.ops.arange(_sizes(mask)[1], dtype="float32")
    # A linear recurrence as well; whole numbers are exact in float32 up to 16 million steps.
    return keras.ops.cast(
        backend.recurrence(1 - keep, keep * steps, -keras.ops.ones_like(keep[:, 0])), "int32"
    )


def _pick(x: Any, index: Any) -> Any:
    """Return from each row of `(batch, time, ...)` the steps of `index`, `(batch, ...)`.

    An index of -1 stands for none; any step is returned in its place.
    """
    batch, time = _sizes(x)
    starts = keras.ops.arange(batch, dtype="int32") * time
    starts = keras.ops.reshape(starts, (-1,) + (1,) * (len(index.shape) - 1))
    index = keras.ops.cast(keras.ops.maximum(index, 0), "int32")
    return keras.ops.take(_rows(x), starts + index, axis=0)


def _or_before(y: Leaves, some: Any, last: Leaves | None) -> Leaves:
    """Return outputs where a step has counted, elsewhere the output before all steps."""
    olds = [0] * len(y) if last is None else last
    return [backend.select(some, v, old) for v, old in zip(y, olds, strict=True)]


def _like(states: Any, leaves: Leaves) -> Any:
    return keras.tree.pack_sequence_as(states, leaves)


def _rows(x: Any) -> Any:
    """Return `(batch, time, ...)` as so many rows."""
    batch, time = _sizes(x)
    return keras.ops.reshape(x, (batch * time, *x.shape[2:]))


def _steps(rows: Any, sizes: tuple[Any, Any]) -> Any:
    """Return rows as `(batch, time, ...)`."""
    return keras.ops.reshape(rows, (*sizes, *rows.shape[1:]))


def _sizes(x: Any) -> tuple[Any, Any]:
    """Return the sizes of batch and time, tensors where they are not known."""
    batch, time = (keras.ops.shape(x)[i] if x.shape[i] is None else x.shape[i] for i in (0, 1))
    return batch, time


def _layers(cell: Any) -> list[Any]:
    return [p for p in compat.parts(cell) if isinstance(p, keras.layers.Layer)]


ENGINE = Engine(
    name="scan",
    summary="A parallel scan over time.",
    cells="Cells with a linear recurrence (`cellkit.linear.LinearCell`)",
    run=run,
    needs=(
        Need("a `cellkit.linear.LinearCell`", _not_linear),
        needs.SAME_DTYPE,
        needs.SOMETHING,
        needs.untouched({"step": LinearCell, "call": Cell, "advance": Cell, "prepare": Cell}),
        Need("no `zoneout`", _zoneout, rules_out=("zoneout",)),
        needs.NOT_UNROLLED,
        Need("no layer inside the cell with variables that are updated", _updates),
        Need("states that are floating or complex", _counts),
    ),
)
