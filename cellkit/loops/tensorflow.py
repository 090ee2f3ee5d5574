"""The loop on TensorFlow: a Python loop when eager, `tf.while_loop` in a graph."""

from __future__ import annotations

import sys
from typing import Any

import tensorflow as tf

from cellkit import _keras_compat as compat
from cellkit.loops import Leaves, Loop, python
from cellkit.loops.recorder import Recorder


def unstack(x: Any) -> list[Any]:
    """Split `(batch, time, ...)` into its time steps."""
    return tf.unstack(x, axis=1)


def stack(steps: list[Any]) -> Any:
    """Join time steps to `(batch, time, ...)`."""
    return tf.stack(steps, axis=1)


def select(keep: Any, new: Any, old: Any) -> Any:
    """Take `new` where `keep`, else `old`; `keep` has the leading axes of `new`."""
    for _ in range(new.shape.rank - keep.shape.rank):
        keep = tf.expand_dims(keep, -1)
    return tf.where(keep, new, tf.cast(old, new.dtype))


zeros_like = tf.zeros_like


def run(loop: Loop, inputs: Leaves, states: Leaves, mask: Any) -> tuple[Leaves, Any, Leaves]:
    """Run the loop; see `cellkit.loops.run`."""
    batch, length = inputs[0].shape[:2]
    if batch == 0:
        return _no_rows(loop, inputs, states)
    if length and (tf.executing_eagerly() or loop.unroll is True):
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
    _, _, specs = _explore(loop, *unknown)
    last = [tf.zeros([0, *s.shape[1:]], s.dtype) for s in specs]
    if not loop.collect:
        return last, None, states
    length = tf.shape(inputs[0])[1]
    outputs = [tf.zeros([0, length, *s.shape[1:]], s.dtype) for s in specs]
    return last, outputs, states


def _while(loop: Loop, inputs: Leaves, states: Leaves, mask: Any) -> tuple[Leaves, Any, Leaves]:
    written, has_losses, specs = _explore(loop, inputs, states)
    loop.scope.redraw()
    batch, length = tf.shape(inputs[0])[0], tf.shape(inputs[0])[1]
    with Recorder() as scope:  # values of an enclosing stateless call, if there is one
        values = [tf.convert_to_tensor(compat.raw_value(v, scope)) for v in written]
    zeros = [tf.zeros([batch, *s.shape[1:]], s.dtype) for s in specs]
    for zero, spec in zip(zeros, specs, strict=True):
        zero.set_shape([inputs[0].shape[0], *spec.shape[1:]])
    columns = [_column(x, length, loop.reverse) for x in inputs]
    keeps = None if mask is None else _column(mask, length, loop.reverse)
    emitted = [
        tf.TensorArray(s.dtype, size=length, element_shape=z.shape)
        for s, z in zip(specs, zeros, strict=True)
        if loop.collect
    ]

    def body(t: Any, states: Leaves, last: Leaves, values: Leaves, loss: Any, emitted: Any) -> Any:
        x = [c.read(t) for c in columns]
        if written or has_losses:
            with Recorder(zip(written, values, strict=True)) as recorder:
                output, new_states = loop.step(x, states)
            values = [recorder.get_current_value(v) for v in written]
            for extra in recorder.losses:
                loss = loss + tf.cast(extra, loss.dtype)
        else:
            output, new_states = loop.step(x, states)
        out = output
        if keeps is not None:
            keep = keeps.read(t)
            out = [select(keep, o, 0) for o in output]
            output = [select(keep, o, y) for o, y in zip(output, last, strict=True)]
            new_states = [select(keep, n, s) for n, s in zip(new_states, states, strict=True)]
        if not loop.zero_masked:
            out = output
        emitted = [a.write(t, y) for a, y in zip(emitted, out, strict=bool(emitted))]
        for new, old in zip(new_states, states, strict=True):
            new.set_shape(old.shape)  # a `where` on an unknown batch loses the static shape
        for new, old in zip(output, last, strict=True):
            new.set_shape(old.shape)
        return t + 1, new_states, output, values, loss, emitted

    _, states, last, values, loss, emitted = tf.while_loop(
        lambda t, *_: t < length,
        body,
        (tf.constant(0), list(states), zeros, values, tf.zeros((), "float32"), emitted),
        maximum_iterations=length,
    )
    for variable, value in zip(written, values, strict=True):
        variable.assign(value)
    if has_losses:
        loop.add_loss(loss)
    outputs = None
    if loop.collect:
        outputs = [_swap(a.stack()) for a in emitted]
        for y in outputs:
            y.set_shape([inputs[0].shape[0], inputs[0].shape[1], *y.shape[2:]])
    return last, outputs, states


def _swap(x: Any) -> Any:
    """Exchange the batch and the time axis."""
    return tf.transpose(x, [1, 0, *range(2, x.shape.rank)])


def _column(x: Any, length: Any, reverse: bool) -> Any:
    """Return `(batch, time, ...)` as an array of its steps, in the order of processing."""
    steps = _swap(x)
    steps = tf.reverse(steps, [0]) if reverse else steps
    array = tf.TensorArray(x.dtype, size=length, element_shape=steps.shape[1:])
    return array.unstack(steps)


def _explore(loop: Loop, inputs: Leaves, states: Leaves) -> tuple[list[Any], bool, Leaves]:
    """Trace one step in a graph that is thrown away.

    Returns:
        The variables that the step writes, whether it adds losses, and its outputs' specs.
    """
    found: dict[str, Any] = {}

    @tf.function(autograph=False)
    def step(x: Leaves, s: Leaves) -> Leaves:
        with Recorder() as recorder:
            output, _ = loop.step(x, s)
        found["written"] = list(recorder.written.values())
        found["losses"] = bool(recorder.losses)
        return output

    concrete = step.get_concrete_function(
        [tf.TensorSpec([x.shape[0], *x.shape[2:]], x.dtype) for x in inputs],
        [tf.TensorSpec(s.shape, s.dtype) for s in states],
    )
    return found["written"], found["losses"], tf.nest.flatten(concrete.structured_outputs)
