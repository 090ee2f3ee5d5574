"""`recurrence` on TensorFlow: in chunks, since a turn of a loop costs more than a step's work.

A chunked scan runs through the steps of all chunks side by side, twice: first to learn what each
chunk does to its initial state (a product of a's, and an end value), then, from the right initial
states, to fill in the steps. That is ``2 L + C`` turns for C chunks of L steps instead of ``C L``,
stores nothing but the result, and divides by nothing.

Eagerly every operation of every turn would be a call of its own, so that it runs as a graph there:
one for all lengths and sizes, and not one for each, since to trace one takes longer than to run it.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import tensorflow as tf

from cellkit.engines.tensorflow.loop import count_to
from cellkit.typing import Tensor

LENGTH = 32  # of a chunk, where the number of steps is not known


def recurrence(a: Tensor, b: Tensor, start: Any, cuts: bool = False) -> Any:
    """Return all ``h_t = a_t * h_{t-1} + b_t`` with ``h_{-1} = start``.

    Args:
        a: Tensor that is broadcast to the shape of `b`; an axis that is broadcast has size 1.
        b: Tensor of shape `(batch, time, ...)`, with at least one step.
        start: Tensor of shape `(batch, ...)`.
        cuts: True if a zero of `a` lets nothing through, not even NaN or infinity.
    """
    h = _recurrence(a, b, tf.broadcast_to(start, tf.shape(b[:, 0])), False, cuts)
    h.set_shape(b.shape)
    return h


def _times(a: Tensor, x: Tensor, cuts: bool) -> Any:
    return tf.math.multiply_no_nan(x, a) if cuts else a * x


def _recurrence(
    a: Tensor, b: Tensor, start: Any, reverse: bool, cuts: bool, known: Any = None
) -> Any:
    """Return all states, `known` where they were computed before; see `recurrence`."""

    @tf.custom_gradient
    def run(a: Tensor, b: Tensor, start: Any) -> Any:
        h = _run(a, b, start, reverse, cuts) if known is None else tf.identity(known)

        def gradient(grad: Any) -> Any:
            # Second derivatives have to see that the states depend on what they were made of.
            seen = _recurrence(a, b, start, reverse, cuts, h) if tf.executing_eagerly() else h
            return _gradient(a, start, seen, grad, reverse, cuts)

        return h, gradient

    return run(a, b, start)


def _gradient(a: Tensor, start: Any, h: Tensor, grad: Any, reverse: bool, cuts: bool) -> Any:
    """The adjoint of a linear recurrence is one that runs the other way."""
    conj = tf.math.conj(a) if a.dtype.is_complex else a
    before = tf.concat([h[:, 1:], start[:, None]] if reverse else [start[:, None], h[:, :-1]], 1)
    # g_t = grad_t + conj(a_{t+1}) g_{t+1}: at the step computed last there is no later one, and any
    # a will do next to a start of zeros.
    later = conj if a.shape[1] == 1 else tf.roll(conj, 1 if reverse else -1, axis=1)
    g = _recurrence(later, grad, tf.zeros_like(start), not reverse, cuts)
    d_a = g * (tf.math.conj(before) if before.dtype.is_complex else before)
    axes = [i for i, (m, n) in enumerate(zip(a.shape, h.shape, strict=True)) if m == 1 and n != 1]
    d_a = tf.reduce_sum(d_a, axis=axes, keepdims=True) if axes else d_a
    entry = -1 if reverse else 0
    return d_a, g, _times(conj[:, entry], g[:, entry], cuts)


def _run(a: Tensor, b: Tensor, start: Any, reverse: bool, cuts: bool) -> Any:
    """Return all states; see `recurrence`. With `reverse` the last step is the first."""
    known = b.shape[1]
    length = LENGTH if known is None else max(1, math.isqrt(known // 2))
    if not tf.executing_eagerly():
        return _scan(a, b, start, length, reverse, cuts)
    scan = _graph(b.dtype, a.shape.rank, b.shape.rank, a.shape[1] == 1, reverse, cuts)
    with tf.init_scope():  # no tape looks into it: the gradient is known
        return scan(a, b, start, tf.constant(length))


@functools.cache
def _graph(dtype: Any, rank: int, full: int, constant: bool, reverse: bool, cuts: bool) -> Any:
    """Return the scan as a function of TensorFlow.

    Args:
        dtype: Of all tensors.
        rank: The rank of `a`.
        full: The rank of `b`.
        constant: True if `a` is the same at all steps.
        reverse: True to go from the last step to the first.
        cuts: True if a zero of `a` lets nothing through.
    """

    def scan(a: Tensor, b: Tensor, start: Any, length: Any) -> Any:
        return _scan(a, b, start, length, reverse, cuts)

    first = [None, 1 if constant else None, *[None] * (rank - 2)]
    shapes = first, [None] * full, [None] * (full - 1)
    specs = [tf.TensorSpec(shape, dtype) for shape in shapes]
    with tf.device(None):  # it runs where it is called
        graph = tf.function(scan, [*specs, tf.TensorSpec([], "int32")], autograph=False)
        # Called at once, TensorFlow would take all of these for one that it traces too often.
        return graph.get_concrete_function()


def _scan(a: Tensor, b: Tensor, start: Any, length: Any, reverse: bool, cuts: bool) -> Any:
    """Return all states, in chunks of `length` steps; see `_run`."""
    time, known = tf.shape(b)[1], b.shape[1]
    # Rounded up without negative numbers, which other runtimes divide towards zero.
    count = ((time if known is None else known) + length - 1) // length
    extra = count * length - (time if known is None else known)
    if known is None or extra:
        # Steps with a = 1 and b = 0 change nothing, at whichever end they are met.
        a = a if a.shape[1] == 1 else _padded(a, extra, 1)
        b = _padded(b, extra, 0)
    x = a[:, :, None] if a.shape[1] == 1 else _chunks(a, count, length)
    y = _chunks(b, count, length)
    ends = y[:, :, 0]

    def learn(i: Any, product: Any, end: Any) -> Any:
        u, v = _at(x, i, length, reverse), _at(y, i, length, reverse)
        return i + 1, _times(u, product, cuts), _times(u, end, cuts) + v

    zero = tf.zeros_like(ends)
    _, product, end = count_to(length, learn, (tf.constant(0), zero + 1, zero))
    each = (product[:, None], end[:, None], start[:, None])
    starts = _walk(*each, count, reverse, cuts, before=True)[:, 0]
    h = _walk(x, y, starts, length, reverse, cuts)
    h = tf.reshape(h, tf.shape(b))
    return h[:, :time] if known is None or extra else h


def _walk(
    x: Tensor, y: Any, h: Tensor, steps: Any, reverse: bool, cuts: bool, before: bool = False
) -> Any:
    """Go step by step along axis 2, and return the state after (or before) each step."""
    shape = h.shape
    array = tf.TensorArray(y.dtype, size=steps, element_shape=shape)

    def body(i: Any, h: Tensor, array: Any) -> Any:
        t = steps - 1 - i if reverse else i
        new = _times(_at(x, i, steps, reverse), h, cuts) + _at(y, i, steps, reverse)
        new.set_shape(shape)
        return i + 1, new, array.write(t, h if before else new)

    array = count_to(steps, body, (tf.constant(0), h, array))[-1]
    return tf.transpose(array.stack(), [1, 2, 0, *range(3, y.shape.rank)])


def _at(x: Tensor, i: Any, steps: Any, reverse: bool) -> Any:
    """Return the step that comes after `i` others along axis 2."""
    if x.shape[2] == 1:
        return x[:, :, 0]
    return x[:, :, steps - 1 - i if reverse else i]


def _chunks(x: Tensor, count: Any, length: Any) -> Any:
    """Return `(batch, time, ...)` as `(batch, chunk, step, ...)`."""
    shape = tf.shape(x)
    return tf.reshape(x, tf.concat([shape[:1], [count, length], shape[2:]], 0))


def _padded(x: Tensor, extra: Any, value: int) -> Any:
    paddings = [[0, 0], [0, extra], *([[0, 0]] * (x.shape.rank - 2))]
    return tf.pad(x, paddings, constant_values=tf.cast(value, x.dtype))
