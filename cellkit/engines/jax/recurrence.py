"""`recurrence` on JAX: one compiled loop on the CPU, an associative scan elsewhere.

On a CPU the whole recurrence is bound by memory: a compiled loop that reads and writes every number
once is faster than any scan that needs several passes. An accelerator would wait for every step,
and takes the logarithm of their number.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cellkit.engines.jax.linear import linear
from cellkit.typing import Tensor


def recurrence(a: Tensor, b: Tensor, start: Any, cuts: bool = False) -> Any:
    """Return all ``h_t = a_t * h_{t-1} + b_t`` with ``h_{-1} = start``.

    Args:
        a: Array that is broadcast to the shape of `b`.
        b: Array of shape `(batch, time, ...)`, with at least one step.
        start: Array of shape `(batch, ...)`.
        cuts: True if a zero of `a` lets nothing through, not even NaN or infinity.
    """
    return _recurrence((False, cuts), a, b, jnp.broadcast_to(start, b[:, 0].shape))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _recurrence(how: tuple[bool, bool], a: Tensor, b: Tensor, start: Any) -> Any:
    scan = loop if jax.default_backend() == "cpu" else tree
    return scan(a, b, start, *how)


def _times(a: Tensor, x: Tensor, cuts: bool) -> Any:
    return jnp.where(a == 0, 0, a * x) if cuts else a * x


@_recurrence.defjvp
def _jvp(how: tuple[bool, bool], primals: Any, tangents: Any) -> tuple[Any, Any]:
    a, _, start = primals
    h = _recurrence(how, *primals)
    forwards, back = partial(_tangent, how), partial(_cotangent, how)
    [d_h] = linear(forwards, back, (a, start, h), tangents)
    return h, d_h


def _tangent(how: tuple[bool, bool], fixed: Any, tangents: Any) -> list[Any]:
    """The tangent of a linear recurrence is one itself."""
    a, start, h = fixed
    d_a, d_b, d_start = tangents
    return [_recurrence(how, a, d_a * _before(how[0], start, h) + d_b, d_start)]


def _cotangent(how: tuple[bool, bool], fixed: Any, grads: Any) -> list[Any]:
    """The adjoint of a linear recurrence is one that runs the other way."""
    a, start, h = fixed
    [grad] = grads
    reverse, cuts = how
    # g_t = grad_t + a_{t+1} g_{t+1}: at the step computed last there is no later one, and any a
    # will do next to a start of zeros.
    shift, entry = (1, -1) if reverse else (-1, 0)
    later = a if a.shape[1] == 1 else jnp.roll(a, shift, axis=1)
    g = _recurrence((not reverse, cuts), later, grad, jnp.zeros_like(start))
    d_a = g * _before(reverse, start, h)
    axes = tuple(i for i, (m, n) in enumerate(zip(a.shape, d_a.shape, strict=True)) if m != n)
    d_a = jnp.sum(d_a, axis=axes, keepdims=True) if axes else d_a
    return [d_a, g, _times(a[:, entry], g[:, entry], cuts)]


def _before(reverse: bool, start: Any, h: Tensor) -> Any:
    """Return the state before every step."""
    edge = start[:, None]
    return jnp.concatenate([h[:, 1:], edge] if reverse else [edge, h[:, :-1]], axis=1)


def loop(a: Tensor, b: Tensor, start: Any, reverse: bool, cuts: bool = False) -> Any:
    """Go through the steps one by one, in place."""
    time = b.shape[1]

    def body(i: Any, carry: Any) -> Any:
        h, out, a, b = carry
        t = time - 1 - i if reverse else i
        h = _times(a[:, 0] if a.shape[1] == 1 else a[:, t], h, cuts) + b[:, t]
        return h, out.at[:, t].set(h), a, b

    # XLA carries what a loop reads in any case; exporters take loops that read nothing else.
    return jax.lax.fori_loop(0, time, body, (start, jnp.zeros_like(b), a, b))[1]


def tree(a: Tensor, b: Tensor, start: Any, reverse: bool, cuts: bool = False) -> Any:
    """Scan over pairs (a, b), in a number of rounds that grows with the logarithm of the steps."""

    def join(first: Any, second: Any) -> Any:
        (p, x), (q, y) = first, second
        return _times(q, p, cuts), _times(q, x, cuts) + y

    first = -1 if reverse else 0
    a = jnp.broadcast_to(a, b.shape)
    b = b.at[:, first].add(_times(a[:, first], start, cuts))
    return jax.lax.associative_scan(join, (a, b), axis=1, reverse=reverse)[1]
