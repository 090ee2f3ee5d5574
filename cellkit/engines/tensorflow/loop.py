"""The loop on TensorFlow: a Python loop when eager, `tf.while_loop` in a graph."""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import Any

import numpy as np
import tensorflow as tf

from cellkit import _keras_compat as compat
from cellkit.cells.operations import columns_of, matmul_as
from cellkit.cells.recorder import Recorder, current_values
from cellkit.cells.scope import reopened
from cellkit.engines.shared import unrolled as python
from cellkit.engines.shared.around import Around, in_order
from cellkit.engines.shared.loop import Leaves, Loop, as_states
from cellkit.engines.tensorflow.products import cut, times
from cellkit.typing import Tensor


def unstack(x: Tensor) -> list[Any]:
    """Split `(batch, time, ...)` into its time steps."""
    return tf.unstack(x, axis=1)


def stack(steps: list[Any]) -> Any:
    """Join time steps to `(batch, time, ...)`."""
    return tf.stack(steps, axis=1)


def select(keep: Tensor, new: Tensor, old: Tensor) -> Any:
    """Take `new` where `keep`, else `old`; `keep` has the leading axes of `new`."""
    # Eagerly even a cast to the same dtype costs as much as an operation.
    old = old if getattr(old, "dtype", None) == new.dtype else tf.cast(old, new.dtype)
    if keep.shape.rank == 1 and _are_alike(new.shape, old.shape):
        # Whole rows, which takes half of the time of `where`.
        return tf.raw_ops.Select(condition=keep, x=new, y=old)
    for _ in range(new.shape.rank - keep.shape.rank):
        keep = tf.expand_dims(keep, -1)
    return tf.where(keep, new, old)


def _are_alike(one: tf.TensorShape, other: tf.TensorShape) -> bool:
    """Tell whether two tensors have the same shape, the number of their rows aside if unknown."""
    known = one.rank is not None and one.rank > 1 and one[1:].is_fully_defined()
    return known and one.as_list() == other.as_list()


zeros_like = tf.zeros_like


def run(loop: Loop, inputs: Leaves, states: Leaves, mask: Tensor) -> tuple[Leaves, Any, Leaves]:
    """Run the loop; see `cellkit.engines.backend`."""
    batch, length = inputs[0].shape[:2]
    if batch == 0:
        return _no_rows(loop, inputs, states)
    chunked = loop.remat or loop.truncate is not None
    if length and not chunked and (tf.executing_eagerly() or loop.unroll is True):
        return python.run(sys.modules[__name__], loop, inputs, states, mask)
    return _while(loop, inputs, states, mask)


def _no_rows(loop: Loop, inputs: Leaves, states: Leaves) -> tuple[Leaves, Any, Leaves]:
    """Return empty outputs, without a step: Keras' `ops.add` fails in one.

    It looks at the shapes alone, and takes the second of two tensors without rows for a bias.
    """
    unknown = [
        [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in leaves]
        for leaves in (inputs, states)
    ]
    specs = _explore(loop, *unknown).specs
    last = [tf.zeros([0, *s.shape[1:]], s.dtype) for s in specs]
    if not loop.collect:
        return last, None, states
    length = tf.shape(inputs[0])[1]
    outputs = [tf.zeros([0, length, *s.shape[1:]], s.dtype) for s in specs]
    return last, outputs, states


def _while(loop: Loop, inputs: Leaves, states: Leaves, mask: Tensor) -> tuple[Leaves, Any, Leaves]:
    found = _explore(loop, inputs, states)
    loop.scope.redraw()
    batch, length = tf.shape(inputs[0])[0], tf.shape(inputs[0])[1]
    values = [tf.convert_to_tensor(value) for value in current_values(found.written)]
    zeros = [tf.zeros([batch, *s.shape[1:]], s.dtype) for s in found.specs]
    for zero, spec in zip(zeros, found.specs, strict=True):
        zero.set_shape([inputs[0].shape[0], *spec.shape[1:]])
    flags = [mask, loop.on, loop.linked]
    given = [_swap(x) for x in (*inputs, *(f for f in flags if f is not None))]
    steps = in_order(loop.reverse, lambda x: tf.reverse(x, [0]), given)
    flagged = [f is not None for f in flags]
    like = zeros if loop.collect else []
    span: Any = functools.partial(_span, loop, found, flagged)
    if loop.remat and inputs[0].shape[1] != 0:
        span = _recomputed(loop, found, flagged, length, like)
    if loop.truncate is not None and inputs[0].shape[1] != 0:
        span = functools.partial(_chunks, _detached(span, len(states)), loop.truncate, like)
    carry = [*states, *zeros, *values, tf.zeros((), "float32")]
    carry, emitted = span(carry, steps)
    states, last, values, loss = _parted(carry, len(states), len(zeros))
    for variable, value in zip(found.written, values, strict=True):
        variable.assign(value)
    if found.losses:
        loop.add_loss(loss)
    outputs = None
    if loop.collect:
        outputs = [_swap(y) for y in emitted]
        for y, zero in zip(outputs, zeros, strict=True):
            y.set_shape([*inputs[0].shape[:2], *zero.shape[1:]])
    return last, outputs, states


def _parted(carry: Leaves, states: int, outputs: int) -> tuple[Leaves, Leaves, Leaves, Any]:
    """Return states, the last output, values of variables, and losses."""
    end = states + outputs
    return carry[:states], carry[states:end], carry[end:-1], carry[-1]


def _span(
    loop: Loop, found: _Found, flagged: list[bool], carry: Leaves, steps: Leaves
) -> tuple[Leaves, Leaves]:
    """Run a span of steps.

    Args:
        loop: The function to run.
        found: The facts about a step.
        flagged: For the mask, `on` and `linked`, True if it is among the last of `steps`.
        carry: States, last output, values of variables, losses.
        steps: Leaves of shape `(time, batch, ...)`, in the order of processing.

    Returns:
        The new carry, and the outputs `(time, batch, ...)`, of which there are none unless wanted.
    """
    length = tf.shape(steps[0])[0]
    columns = [in_steps(x, length) for x in steps]
    count = len(carry) - len(found.specs) - len(found.written) - 1
    states, last, values, loss = _parted(carry, count, len(found.specs))
    emitted = [
        tf.TensorArray(y.dtype, size=length, element_shape=y.shape) for y in last if loop.collect
    ]

    fixed, product = _weights(found, states[0].shape[0] if states else None)
    # Every tensor that is carried from step to step costs operations. An output that is a state
    # is not carried beside it: it is that state, or zero as long as no step counted. (Of the steps
    # before a chunk the mask says nothing, nor of resets.)
    parted = loop.remat or loop.truncate is not None or flagged[1]
    same = found.as_state if steps[0].shape[0] and not (flagged[0] and parted) else []
    around = Around(select, loop.zero_masked, tuple(same), loop.starts)
    held, losses = [] if same else last, [loss] if found.losses else []

    def body(
        t: Any, states: Leaves, last: Leaves, values: Leaves, losses: Leaves, emitted: Any
    ) -> Any:
        x, (keep, on, linked) = _flags([c.read(t) for c in columns], flagged)
        states, last = around.before(on, linked, states, last)
        inside = [*zip(found.written, values, strict=True), *fixed]
        with Recorder(inside) as recorder, matmul_as(product):
            output, news = loop.step(x, states)
        values = [recorder.get_current_value(v) for v in found.written]
        for extra in recorder.losses:
            losses = [losses[0] + tf.cast(extra, losses[0].dtype)]
        news, held, out = around.after(keep, output, news, states, last)
        emitted = [a.write(t, y) for a, y in zip(emitted, out, strict=bool(emitted))]
        for new, old in zip([*news, *held], [*states, *last], strict=True):
            new.set_shape(old.shape)  # a `where` on an unknown batch loses the static shape
        return t + 1, news, held, values, losses, emitted

    _, states, held, values, losses, emitted = count_to(
        length, body, (tf.constant(0), list(states), list(held), list(values), losses, emitted)
    )
    last, emitted = held, [a.stack() for a in emitted]
    if same:
        keep = _flags(steps, flagged)[1][0]
        # As long as no step counts, a state that begins with zeros is the output that is not there.
        if not loop.zero_masked and all(_is_zero(carry[i]) for i in same):
            keep = None
        last, emitted = around.at_the_end(keep, _ever, _so_far, states, emitted)
    loss = losses[0] if losses else loss
    return [*states, *last, *values, loss], emitted


def _flags(steps: Leaves, flagged: list[bool]) -> tuple[Leaves, Leaves]:
    """Return inputs, and the flags behind them: None for those that are not there."""
    count = len(steps) - sum(flagged)
    rest = iter(steps[count:])
    return steps[:count], [next(rest) if there else None for there in flagged]


def _is_zero(x: Tensor) -> bool:
    """Tell whether a tensor is known to be zero while the function is traced."""
    if tf.is_symbolic_tensor(x) and x.op.type == "Fill":
        x = x.op.inputs[1]
    value = tf.get_static_value(x)
    return value is not None and not np.any(value)


def _ever(keep: Tensor) -> Any:
    return tf.reduce_any(keep, axis=0)


def _so_far(keep: Tensor) -> Any:
    return tf.cumsum(tf.cast(keep, "int32"), axis=0) > 0


def count_to(count: Any, body: Any, carry: Any, parallel_iterations: int = 10) -> Any:
    """Return what `carry` is after `count` turns of `body`.

    The number of turns is told once, as the loop's bound. A condition that compares with it as well
    is more work, and shares a constant with the bound that a loop of ONNX needs in another dtype.
    """
    return tf.while_loop(
        lambda *_: tf.constant(True),
        body,
        carry,
        parallel_iterations=parallel_iterations,
        maximum_iterations=count,
    )


def _weights(found: _Found, rows: int | None) -> tuple[list[tuple[Any, Any]], Any]:
    """Read the variables that no step writes, once and not at every step.

    Args:
        found: The facts about a step.
        rows: The rows of a step, None if unknown.

    Returns:
        Pairs of a variable and its value, and what computes products with them; see `matmul_as`.
    """
    written = {id(v) for v in found.written}
    fixed = [v for v in found.read if id(v) not in written]
    weights = [
        _as_seen(tf.convert_to_tensor(value), found.dtypes[id(v)])
        for v, value in zip(fixed, current_values(fixed), strict=True)
    ]
    by_id = {id(v): w for v, w in zip(fixed, weights, strict=True)}
    parts = {
        (key, start, stop): cut(columns_of(by_id[key], slice(start, stop)), rows)
        for key, start, stop in found.kernels
        if key in by_id
    }

    def product(x: Tensor, kernel: Tensor, columns: slice) -> Any:
        blocks = parts.get((id(kernel), columns.start, columns.stop), ())
        if len(blocks) < 2 or blocks[0].dtype != x.dtype:
            return x @ columns_of(kernel, columns)
        return times(x, blocks)

    return list(zip(fixed, weights, strict=True)), product


def _as_seen(value: Any, dtypes: set[str]) -> Any:
    """Cast a weight as its readers see it, if they agree: not once more at every step."""
    return tf.cast(value, next(iter(dtypes))) if len(dtypes) == 1 else value


def _chunks(
    chunk: Any, size: Any, like: Leaves, carry: Leaves, steps: Leaves
) -> tuple[Leaves, Leaves]:
    """Run ``chunk(number, carry, steps)`` over chunks of `size` steps; see `_span`.

    Args:
        chunk: Returns the new carry and the chunk's outputs.
        size: Number of steps of all chunks but the last.
        like: For each output a tensor of the shape and dtype that it has at one step.
        carry: The values that the first chunk starts from.
        steps: Leaves of shape `(time, batch, ...)`.
    """
    length = tf.shape(steps[0])[0]
    count = (length + size - 1) // size
    lengths = tf.minimum(size, length - size * tf.range(count))

    def array(dtype: Any, shape: Any) -> Any:
        return tf.TensorArray(dtype, count, element_shape=[None, *shape], infer_shape=False)

    columns = [array(x.dtype, x.shape[1:]).split(x, lengths) for x in steps]

    def body(i: Any, carry: Leaves, emitted: Any) -> Any:
        parts = []
        for c, x in zip(columns, steps, strict=True):
            part = c.read(i)
            part.set_shape([None, *x.shape[1:]])
            parts.append(part)
        new, outputs = chunk(i, carry, parts)
        for after, before in zip(new, carry, strict=True):
            after.set_shape(before.shape)
        return i + 1, new, [a.write(i, y) for a, y in zip(emitted, outputs, strict=True)]

    emitted = [array(y.dtype, y.shape) for y in like]
    _, carry, emitted = count_to(
        count,
        body,
        (tf.constant(0), list(carry), emitted),
        # One after the other: what a chunk computes again is gone before the next one begins.
        parallel_iterations=1,
    )
    return carry, [a.concat() for a in emitted]


def _detached(span: Any, states: int) -> Any:
    """Return a chunk into which no gradient passes from the states before, but for the first."""

    def chunk(i: Any, carry: Leaves, steps: Leaves) -> tuple[Leaves, Leaves]:
        cut = [tf.where(i == 0, s, tf.stop_gradient(s)) for s in carry[:states]]
        return span([*cut, *carry[states:]], steps)

    return chunk


def _is_smooth(x: Tensor) -> bool:
    """Tell whether gradients go through a tensor: states may be complex."""
    return bool(x.dtype.is_floating or x.dtype.is_complex)


def _recomputed(loop: Loop, found: _Found, flagged: list[bool], length: Any, like: Leaves) -> Any:
    """Return a span that keeps the carry between chunks, and computes them again when needed."""
    size: Any = loop.remat
    if loop.remat is True:
        size = tf.maximum(1, tf.cast(tf.sqrt(tf.cast(length, "float32")), "int32"))
    weights = [tf.convert_to_tensor(value) for value in current_values(found.read)]
    drawn = [compat.cached_dropout_masks(cell) for cell in loop.scope.stock]
    constants = loop.constants
    # Gradients reach what is among the arguments of the chunk, and nothing else.
    extra = [*weights, *(loop.starts or [])]
    fixed = len(extra)
    extra += [] if constants is None else tf.nest.flatten(constants)

    def chunk(_: Any, carry: Leaves, steps: Leaves) -> tuple[Leaves, Leaves]:
        counts = len(carry), len(steps)

        def compute(*tensors: Any) -> list[Any]:
            carry, steps = list(tensors[: counts[0]]), list(tensors[counts[0] : sum(counts)])
            rest = tensors[sum(counts) :]
            values = zip(found.read, rest[: len(weights)], strict=True)
            here = loop
            if loop.starts is not None:
                here = dataclasses.replace(here, starts=list(rest[len(weights) : fixed]))
            if loop.with_constants is not None:
                given = tf.nest.pack_sequence_as(constants, list(rest[fixed:]))
                here = dataclasses.replace(here, step=loop.with_constants(given))
            with reopened(loop.scope, drawn), Recorder(values):
                carry, emitted = _span(here, found, flagged, carry, steps)
            return [*carry, *emitted]

        @tf.custom_gradient
        def run(*tensors: Any) -> Any:
            results = compute(*tensors)

            def gradient(*upstream: Any) -> list[Any]:
                smooth = [x for x in tensors if _is_smooth(x)]
                with tf.GradientTape() as tape:
                    tape.watch(smooth)
                    # The call of the layer is over by now.
                    again = loop.within(lambda: compute(*tensors))
                pairs = [(y, g) for y, g in zip(again, upstream, strict=True) if _is_smooth(y)]
                grads = iter(tape.gradient([y for y, _ in pairs], smooth, [g for _, g in pairs]))
                return [next(grads) if _is_smooth(x) else None for x in tensors]

            return results, gradient

        results = run(*carry, *steps, *extra)
        return list(results[: counts[0]]), list(results[counts[0] :])

    return functools.partial(_chunks, chunk, size, like)


def _swap(x: Tensor) -> Any:
    """Exchange the batch and the time axis."""
    return tf.transpose(x, [1, 0, *range(2, x.shape.rank)])


def in_steps(x: Tensor, length: Any) -> Any:
    """Return `(time, batch, ...)` as an array of its steps."""
    return tf.TensorArray(x.dtype, size=length, element_shape=x.shape[1:]).unstack(x)


@dataclasses.dataclass
class _Found:
    """The facts about a step.

    Args:
        read: Variables that it reads.
        dtypes: In which dtypes it sees them, by their ids.
        written: Variables that it writes.
        kernels: Ids of those that it multiplies with, and which of their columns.
        losses: True if it adds losses.
        as_state: The index of the state that each output is, if all are states; else empty.
        specs: Shapes and dtypes of its outputs.
    """

    read: list[Any]
    dtypes: dict[int, set[str]]
    written: list[Any]
    kernels: set[tuple[int, Any, Any]]
    losses: bool
    as_state: list[int]
    specs: list[Any]


def _explore(loop: Loop, inputs: Leaves, states: Leaves) -> _Found:
    """Trace one step in a graph that is thrown away, and return what is known of it then."""
    found: dict[str, Any] = {}

    @tf.function(autograph=False)
    def step(x: Leaves, s: Leaves) -> Leaves:
        kernels: set[tuple[int, Any, Any]] = set()

        def product(x: Tensor, kernel: Tensor, columns: slice) -> Any:
            if len(kernel.shape) == 2:
                kernels.add((id(kernel), columns.start, columns.stop))
            return x @ columns_of(kernel, columns)

        with Recorder() as recorder, matmul_as(product):
            output, states = loop.step(x, s)
        found["read"] = list(recorder.read.values())
        found["dtypes"] = recorder.dtypes
        found["written"] = list(recorder.written.values())
        found["kernels"] = kernels
        found["losses"] = bool(recorder.losses)
        found["as_state"] = as_states(output, states)
        return output

    concrete = step.get_concrete_function(
        [tf.TensorSpec([x.shape[0], *x.shape[2:]], x.dtype) for x in inputs],
        [tf.TensorSpec(s.shape, s.dtype) for s in states],
    )
    return _Found(**found, specs=tf.nest.flatten(concrete.structured_outputs))
