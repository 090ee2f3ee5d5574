"""Parts of the engines that compute for all steps at once, and not step by step.

They see time in the order of processing, go block by block where that pays, keep windows of earlier
inputs, and return outputs that are held over masked steps.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from cellkit.cells.cell import Cell
from cellkit.cells.operations import numbered
from cellkit.engines.backend import backend
from cellkit.engines.engine import Need
from cellkit.engines.request import in_order, pack
from cellkit.engines.shared import needs
from cellkit.engines.shared import project as projected
from cellkit.typing import Tensor, Tree

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves

Advance = Callable[
    ["Request", Any, "Leaves", Any, "Leaves | None", Any], "tuple[Leaves, Any, Leaves]"
]
"""Advances many steps at once.

Takes a request, the projected inputs of every step, leaves of the states before the first one, the
mask or None, the output before the first one or None for zeros, and the resets or None. Returns the
same as an engine.
"""

RECOMPUTED = 64  # steps of a block that is computed again in the backward pass


def needs_of(base: type[Cell]) -> tuple[Need, ...]:
    """Return the needs of an engine that computes for all steps of a kind of cells at once.

    Args:
        base: The class that says how such cells advance.
    """
    return (
        needs.SAME_DTYPE,
        needs.SOMETHING,
        needs.SAME_BLOCKS,
        needs.untouched(
            {
                "step": base,
                "advance_states": base,
                "call": Cell,
                "advance": Cell,
                "prepare": Cell,
            }
        ),
        needs.NO_ZONEOUT,
        needs.NOT_UNROLLED,
        needs.NO_UPDATES,
        needs.NOT_COUNTED,
    )


def run(request: Request, advance: Advance, recompute: bool = False) -> tuple[Leaves, Any, Leaves]:
    """Run `advance` on the whole sequence, or block by block; see `cellkit.engines`.

    Args:
        request: The run.
        advance: Advances many steps.
        recompute: True to keep only the states between blocks for the backward pass, where a
            state has many more numbers than what is projected for a step.
    """
    request = in_order(request)
    inputs, mask = request.inputs, request.mask
    first = keras.tree.flatten(inputs)[0]
    open_ended = first.shape[1] is None
    if open_ended:
        # There may be no step at all, which nothing below expects: a masked one changes nothing.
        mask = keras.ops.ones(keras.ops.shape(first)[:2], "bool") if mask is None else mask
        mask = _after_a_masked_step(mask)
        if request.resets is not None:
            request = dataclasses.replace(request, resets=_after_a_masked_step(request.resets))
        inputs = keras.tree.map_structure(_after_a_masked_step, inputs)
    drops = request.training and request.cell.dropout  # masks are drawn for the whole sequence
    # An exported function of JAX need not know the number of steps, nor then that of blocks.
    countable = open_ended or isinstance(first.shape[1], int)
    streams = countable and not (request.collect or request.training)
    pays = backend.blocks_pay and not open_ended
    project = functools.partial(_project, request)
    if not drops and (streams or (pays and not (recompute and _is_matrix(request)))):
        last, outputs, states = _in_blocks(request, advance, inputs, mask, project)
    else:
        x = project(inputs)
        # Where their number is not known there may be no block, which no loop of chunks takes.
        known = isinstance(first.shape[1], int)
        if recompute and known and _is_wide(request, x):
            last, outputs, states = _in_blocks(request, advance, x, mask, again=True)
        else:
            last, outputs, states = advance(request, x, request.states, mask, None, request.resets)
    if open_ended and outputs is not None:
        outputs = [y[:, 1:] for y in outputs]
    return last, outputs, states


def _project(request: Request, inputs: Tree) -> Any:
    return projected.project(dataclasses.replace(request, inputs=inputs))


def _own(request: Request) -> Leaves:
    """Return the states of the recurrence, without the inputs that a window keeps."""
    own, _ = request.cell.split_states(request.runner.layout.pack(request.states))
    found: Leaves = keras.tree.flatten(own)
    return found


def _is_matrix(request: Request) -> bool:
    return any(len(s.shape) > 2 for s in _own(request))


def _is_wide(request: Request, x: Tensor) -> bool:
    """Tell whether the states of a step are many more numbers than what was projected for it."""

    def count(leaves: Leaves, lead: int) -> int:
        return sum(int(np.prod(v.shape[lead:])) for v in leaves)

    return _is_matrix(request) and count(_own(request), 1) > 2 * count(keras.tree.flatten(x), 2)


def _after_a_masked_step(x: Tensor) -> Any:
    dtype = keras.backend.standardize_dtype(x.dtype)
    step = keras.ops.zeros((sizes_of(x)[0], 1, *x.shape[2:]), dtype=dtype)
    return keras.ops.concatenate([step, x], axis=1)


def _in_blocks(
    request: Request,
    advance: Advance,
    inputs: Tree,
    mask: Tensor,
    project: Callable[[Any], Any] | None = None,
    again: bool = False,
) -> tuple[Leaves, Any, Leaves]:
    """Go block by block.

    Without sequences, at inference, the memory then does not grow with the number of steps.

    Args:
        request: The run.
        advance: Advances the steps of a block.
        inputs: The inputs, or the projected inputs.
        mask: Boolean tensor `(batch, time)`, or None.
        project: Projects the inputs of a block. None: they were projected before.
        again: True if a block is computed again in the backward pass.
    """
    size = RECOMPUTED if again else backend.block
    flags = [f for f in (mask, request.resets) if f is not None]
    leaves = [*keras.tree.flatten(inputs), *flags]
    batch, time = sizes_of(leaves[0])
    count = (time - 1) // size
    rest = time - count * size
    structure, number = inputs, len(request.states)

    def block(leaves: Leaves, states: Leaves, last: Leaves | None) -> tuple[Leaves, Leaves]:
        x = pack(structure, leaves[: len(leaves) - len(flags)])
        rest = iter(leaves[len(leaves) - len(flags) :])
        keep = None if mask is None else next(rest)
        resets = None if request.resets is None else next(rest)
        x = x if project is None else project(x)
        last, outputs, states = advance(request, x, states, keep, last, resets)
        return outputs or last, [*states, *last]

    outputs, states = block([x[:, :rest] for x in leaves], request.states, None)
    if isinstance(count, int) and count == 0:
        return states[number:], outputs if request.collect else None, states[:number]
    blocks = [keras.ops.reshape(x[:, rest:], (batch, count, size, *x.shape[2:])) for x in leaves]
    loop = dataclasses.replace(
        request.loop(lambda x, s: block(x, s[:number], s[number:])),
        reverse=False,
        unroll=False,
        on=None,
        linked=None,
    )
    loop = backend.recomputed(loop) if again else loop
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


def read_out(
    request: Request,
    read: Callable[[Leaves, Any], Any],
    values: Leaves,
    x: Tensor,
    mask: Tensor,
    last: Any,
    resets: Tensor,
    held: bool,
) -> tuple[Leaves, Leaves | None]:
    """Return the last output and those of all steps, None unless they are collected.

    Args:
        request: The run.
        read: Makes the output of rows of values and rows of `x`.
        values: The parts that outputs are made of, leaves `(batch, time, ...)`.
        x: The projected inputs, likewise.
        mask: Boolean tensor `(batch, time)`, or None.
        last: Leaves of the output before the first step, or None for zeros.
        resets: Boolean tensor `(batch, time)`, or None.
        held: True if values stay what they were in masked steps.
    """
    form, (batch, time) = request.form, sizes_of(values[0])
    if request.collect:
        every = keras.tree.map_structure(rows_of, (values, x))
    elif mask is None:
        every = keras.tree.map_structure(lambda v: v[:, -1], (values, x))
    else:
        # The last output is made at the last step that counts.
        index = _newest(mask)
        place = keras.ops.maximum(index, 0)
        made = [v[:, -1] if held else pick(v, place) for v in values]
        every = made, keras.tree.map_structure(lambda v: pick(v, place), x)
    y = form.flatten(read(*every))
    if not request.collect:
        if mask is None:
            return y, None
        begun = None if resets is None else _newest(resets)
        return _or_before(y, index, begun, last), None
    y = [steps_of(v, (batch, time)) for v in y]
    if mask is None:
        return [v[:, -1] for v in y], y
    index = _last_kept(mask)
    shown = [pick(v, index) for v in y]
    if last is not None:
        last = [
            keras.ops.broadcast_to(v[:, None], keras.ops.shape(h))
            for v, h in zip(last, shown, strict=True)
        ]
    begun = None if resets is None else _last_kept(resets)
    shown = _or_before(shown, index, begun, last)
    ends = [v[:, -1] for v in shown]
    return ends, [backend.select(mask, v, 0) for v in y] if request.zero_masked else shown


def windows(x: Tensor, seen: Any, mask: Tensor, resets: Tensor, unseen: Any) -> tuple[Any, Leaves]:
    """Return the window of inputs that ends at each step, and the inputs to remember at the end.

    Args:
        x: The projected inputs, `(batch, time, ...)`.
        seen: The inputs before, `(batch, window - 1, ...)`.
        mask: Boolean tensor `(batch, time)`, or None. Masked steps are in no later window.
        resets: Boolean tensor `(batch, time)`, or None. No window reaches back beyond one.
        unseen: The inputs before a reset, as `seen`.
    """
    count, (batch, time) = seen.shape[1], sizes_of(x)
    if resets is not None:
        return _cut_windows(keras.ops.concatenate([unseen, seen, x], axis=1), count, mask, resets)
    x = keras.ops.concatenate([seen, x], axis=1)
    if mask is None:
        taps = [x[:, i : i + time] for i in range(count + 1)]
        return keras.ops.stack(taps, axis=2), [x[:, time:]]
    # For every position, and one behind the end, the last one before it that counts.
    keep = keras.ops.concatenate([keras.ops.ones((batch, count), "bool"), mask], axis=1)
    before = keras.ops.concatenate([keras.ops.zeros((batch, 1), "int32"), _last_kept(keep)], axis=1)
    return _tapped(x, before, count, count)


def _cut_windows(x: Tensor, count: int, mask: Tensor, resets: Tensor) -> tuple[Any, Leaves]:
    """Return windows as `windows` does, none of which reaches back beyond a reset.

    Args:
        x: The inputs before a reset, those before the call, and those of the call.
        count: Number of inputs before.
        mask: Boolean tensor `(batch, time)`, or None.
        resets: Boolean tensor `(batch, time)`.
    """
    batch, time = sizes_of(resets)
    mask = keras.ops.ones((batch, time), "bool") if mask is None else mask
    keep = keras.ops.concatenate([keras.ops.ones((batch, 2 * count), "bool"), mask], axis=1)
    first = keras.ops.zeros((batch, 1), "int32")
    before = keras.ops.concatenate([first, _last_kept(keep)], axis=1)
    # Where the sequence of each position begins. The position behind the end has that of the last.
    none = keras.ops.zeros((batch, 2 * count), "bool")
    begun = _last_kept(keras.ops.concatenate([none, resets], axis=1))
    begun = keras.ops.concatenate([begun, begun[:, -1:]], axis=1)
    return _tapped(x, keras.ops.where(before < begun, count - 1, before), count, 2 * count)


def _tapped(x: Tensor, before: Any, count: int, lead: int) -> tuple[Any, Leaves]:
    """Return windows, and the inputs to remember at the end.

    Args:
        x: Inputs, the first `lead` of them before the first step.
        before: For each position, and one behind the end, the one before it in a window.
        count: Number of inputs of a window before the last one.
        lead: Number of positions before the first step.
    """
    batch, positions = sizes_of(before)
    steps = positions - lead
    here = keras.ops.broadcast_to(numbered(steps)[None] + lead, (batch, steps))
    taps = [here]
    for _ in range(count):
        taps.insert(0, pick(before, taps[0]))
    window = keras.ops.stack([pick(x, tap[:, :-1]) for tap in taps], axis=2)
    return window, [keras.ops.stack([pick(x, tap[:, -1]) for tap in taps[:-1]], axis=1)]


def _last_kept(mask: Tensor) -> Any:
    """Return for every step the index of the last one up to it that counts, or -1."""
    keep = keras.ops.cast(mask, "float32")
    steps = keras.ops.cast(numbered(sizes_of(mask)[1]), "float32")
    # A linear recurrence as well; whole numbers are exact in float32 up to 16 million steps.
    return keras.ops.cast(
        backend.recurrence(1 - keep, keep * steps, -keras.ops.ones_like(keep[:, 0])), "int32"
    )


def pick(x: Tensor, index: Any) -> Any:
    """Return from each row of `(batch, time, ...)` the steps of `index`, `(batch, ...)`.

    An index of -1 stands for none; any step is returned in its place.
    """
    batch, time = sizes_of(x)
    starts = numbered(batch) * time
    starts = keras.ops.reshape(starts, (-1,) + (1,) * (len(index.shape) - 1))
    index = keras.ops.cast(keras.ops.maximum(index, 0), "int32")
    rows, rest = rows_of(x), tuple(x.shape[2:])
    if len(rest) == 1:
        return keras.ops.take(rows, starts + index, axis=0)
    # What Keras takes from other ranks than a table's, PyTorch puts into files with an operation
    # that onnxruntime refuses.
    taken = keras.ops.take(keras.ops.reshape(rows, (-1, math.prod(rest))), starts + index, axis=0)
    return keras.ops.reshape(taken, (*keras.ops.shape(index), *rest))


def _newest(flags: Any) -> Any:
    """Return the index of the last true step of each row, or -1."""
    steps = numbered(sizes_of(flags)[1])[None]
    return keras.ops.max(keras.ops.where(flags, steps, -1), axis=1)


def _or_before(y: Leaves, index: Any, begun: Any, last: Leaves | None) -> Leaves:
    """Return outputs where a step of the sequence has counted, elsewhere those held before it.

    Args:
        y: Outputs.
        index: The last step that counts, or -1.
        begun: The step with which the sequence begins, -1 for one that began before; or None.
        last: The output before all steps; None for zeros.
    """
    olds = [0] * len(y) if last is None else last
    if begun is None:
        return [backend.select(index >= 0, v, old) for v, old in zip(y, olds, strict=True)]
    some = keras.ops.logical_and(index >= 0, index >= begun)
    if last is not None:
        olds = [backend.select(begun < 0, old, 0) for old in last]
    return [backend.select(some, v, old) for v, old in zip(y, olds, strict=True)]


def rows_of(x: Tensor) -> Any:
    """Return `(batch, time, ...)` as so many rows."""
    batch, time = sizes_of(x)
    return keras.ops.reshape(x, (batch * time, *x.shape[2:]))


def steps_of(rows: Any, sizes: tuple[Any, Any]) -> Any:
    """Return rows as `(batch, time, ...)`."""
    return keras.ops.reshape(rows, (*sizes, *rows.shape[1:]))


def sizes_of(x: Tensor) -> tuple[Any, Any]:
    """Return the sizes of batch and time, tensors where they are not known."""
    batch, time = (keras.ops.shape(x)[i] if x.shape[i] is None else x.shape[i] for i in (0, 1))
    return batch, time
