"""`recurrence` on TensorFlow: in chunks, since a turn of a loop costs more than a step's work.

A chunked scan runs through the steps of all chunks side by side, twice: first to learn what each
chunk does to its initial state (a product of a's, and an end value), then, from the right initial
states, to fill in the steps. That is ``2 L + C`` turns for C chunks of L steps instead of ``C L``,
stores nothing but the result, and divides by nothing.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

LENGTH = 32  # of a chunk, where the number of steps is not known


def recurrence(a: Any, b: Any, start: Any) -> Any:
    """Return all ``h_t = a_t * h_{t-1} + b_t`` with ``h_{-1} = start``.

    Args:
        a: Tensor that is broadcast to the shape of `b`; an axis that is broadcast has size 1.
        b: Tensor of shape `(batch, time, ...)`, with at least one step.
        start: Tensor of shape `(batch, ...)`.
    """
    h = _recurrence(a, b, tf.broadcast_to(start, tf.shape(b[:, 0])), False)
    h.set_shape(b.shape)
    return h


def _recurrence(a: Any, b: Any, start: Any, reverse: bool) -> Any:
    @tf.custom_gradient
    def run(a: Any, b: Any, start: Any) -> Any:
        h = _scan(a, b, start, reverse)

        def gradient(grad: Any) -> Any:
            return _gradient(a, start, h, grad, reverse)

        return h, gradient

    return run(a, b, start)


def _gradient(a: Any, start: Any, h: Any, grad: Any, reverse: bool) -> Any:
    """The adjoint of a linear recurrence is one that runs the other way."""
    conj = tf.math.conj(a) if a.dtype.is_complex else a
    before = tf.concat([h[:, 1:], start[:, None]] if reverse else [start[:, None], h[:, :-1]], 1)
    # g_t = grad_t + conj(a_{t+1}) g_{t+1}: at the step computed last there is no later one, and any
    # a will do next to a start of zeros.
    later = conj if a.shape[1] == 1 else tf.roll(conj, 1 if reverse else -1, axis=1)
    g = _recurrence(later, grad, tf.zeros_like(start), not reverse)
    d_a = g * (tf.math.conj(before) if before.dtype.is_complex else before)
    axes = [i for i, (m, n) in enumerate(zip(a.shape, h.shape, strict=True)) if m == 1 and n != 1]
    d_a = tf.reduce_sum(d_a, axis=axes, keepdims=True) if axes else d_a
    entry = -1 if reverse else 0
    return d_a, g, conj[:, entry] * g[:, entry]


def _scan(a: Any, b: Any, start: Any, reverse: bool) -> Any:
    """Return all states; see `recurrence`. With `reverse` the last step is the first."""
    time, known = tf.shape(b)[1], b.shape[1]
    length = LENGTH if known is None else max(1, math.isqrt(known // 2))
    count = -(-time // length) if known is None else -(-known // length)
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
        return i + 1, product * u, end * u + v

    zero = tf.zeros_like(ends)
    _, product, end = _while(learn, length, (zero + 1, zero))
    each = (product[:, None], end[:, None], start[:, None])
    starts = _walk(*each, count, reverse, before=True)[:, 0]
    h = _walk(x, y, starts, length, reverse)
    h = tf.reshape(h, tf.shape(b))
    return h[:, :time] if known is None or extra else h


def _walk(x: Any, y: Any, h: Any, steps: Any, reverse: bool, before: bool = False) -> Any:
    """Go step by step along axis 2, and return the state after (or before) each step."""
    shape = h.shape
    array = tf.TensorArray(y.dtype, size=steps, element_shape=shape)

    def body(i: Any, h: Any, array: Any) -> Any:
        t = steps - 1 - i if reverse else i
        new = _at(x, i, steps, reverse) * h + _at(y, i, steps, reverse)
        new.set_shape(shape)
        return i + 1, new, array.write(t, h if before else new)

    array = _while(body, steps, (h, array))[-1]
    return tf.transpose(array.stack(), [1, 2, 0, *range(3, y.shape.rank)])


def _while(body: Any, steps: Any, carry: Any) -> Any:
    return tf.while_loop(lambda i, *_: i < steps, body, (0, *carry), maximum_iterations=steps)


def _at(x: Any, i: Any, steps: Any, reverse: bool) -> Any:
    """Return the step that comes after `i` others along axis 2."""
    if x.shape[2] == 1:
        return x[:, :, 0]
    return x[:, :, steps - 1 - i if reverse else i]


def _chunks(x: Any, count: Any, length: int) -> Any:
    """Return `(batch, time, ...)` as `(batch, chunk, step, ...)`."""
    shape = tf.shape(x)
    return tf.reshape(x, tf.concat([shape[:1], [count, length], shape[2:]], 0))


def _padded(x: Any, extra: Any, value: int) -> Any:
    paddings = [[0, 0], [0, extra], *([[0, 0]] * (x.shape.rank - 2))]
    return tf.pad(x, paddings, constant_values=tf.cast(value, x.dtype))
