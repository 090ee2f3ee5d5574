"""`recurrence` on PyTorch: in chunks where the tensors of a step are small.

A chunked scan runs through the steps of all chunks side by side, twice: first to learn what each
chunk does to its initial state (a product of a's, and an end value), then, from the right initial
states, to fill in the steps. That is ``2 L + C`` small operations for C chunks of L steps instead
of ``C L``, stores nothing but the result, and divides by nothing. Where a single step has enough to
do, the plain loop moves less memory.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from cellkit.engines.torch.transformations import batched, seen_through, unusual
from cellkit.typing import Tensor, Tree

SHORT = 64  # steps; below, chunks do not pay
WIDE = 8192  # elements of a step; above, a CPU is busy with one step at a time


def recurrence(a: Tensor, b: Tensor, start: Any, cuts: bool = False) -> Any:
    """Return all ``h_t = a_t * h_{t-1} + b_t`` with ``h_{-1} = start``.

    Args:
        a: Tensor that is broadcast to the shape of `b`.
        b: Tensor of shape `(batch, time, ...)`, with at least one step.
        start: Tensor of shape `(batch, ...)`.
        cuts: True if a zero of `a` lets nothing through, not even NaN or infinity.
    """
    if seen_through() or unusual((a, b, start)):
        return _plainly(a, b, start.expand_as(b[:, 0]), False, cuts)
    return _Recurrence.apply(a, b, start.expand_as(b[:, 0]), False, cuts)


def _plainly(a: Tensor, b: Tensor, h: Tensor, reverse: bool, cuts: bool) -> Any:
    """Return the states from operations that write into no memory that they are given."""
    hs = []
    pairs = zip(a.expand_as(b).unbind(1), b.unbind(1), strict=True)
    for u, v in _ordered(pairs, reverse):
        h = torch.addcmul(v, u, torch.where(u == 0, 0, h) if cuts else h)
        hs.append(h)
    return torch.stack(hs[::-1] if reverse else hs, dim=1)


class _Recurrence(torch.autograd.Function):
    """The adjoint of a linear recurrence is one that runs the other way."""

    @staticmethod
    def forward(a: Tensor, b: Tensor, start: Any, reverse: bool, cuts: bool) -> Any:
        out = torch.empty_like(b)
        _scan(a.expand_as(b), b, start, out, reverse, cuts)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: Tree, output: Tree) -> None:
        a, _, start, ctx.reverse, ctx.cuts = inputs
        ctx.save_for_backward(a, start, output)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        a, start, h = ctx.saved_tensors
        time, reverse, cuts = h.shape[1], ctx.reverse, ctx.cuts
        whole = a.conj().resolve_conj().expand_as(h)
        # g_t = grad_t + conj(a_{t+1}) g_{t+1}, from the step that was computed last.
        inner = whole[:, :-1] if reverse else whole[:, 1:]
        first, rest = (grad[:, 0], grad[:, 1:]) if reverse else (grad[:, -1], grad[:, :-1])
        if time == 1:
            g = grad
        elif torch.is_grad_enabled() or batched((grad,)):  # a second gradient, or many at once
            again = _plainly if batched((grad,)) else _Recurrence.apply
            g = again(inner, rest, first, not reverse, cuts)
            g = torch.cat([first[:, None], g] if reverse else [g, first[:, None]], dim=1)
        else:
            g = torch.empty_like(grad)
            g[:, 0 if reverse else -1] = first
            _scan(inner, rest, first, g[:, 1:] if reverse else g[:, :-1], not reverse, cuts)
        entry = time - 1 if reverse else 0
        d_a = d_start = None
        if ctx.needs_input_grad[0]:
            before = [h[:, 1:], start[:, None]] if reverse else [start[:, None], h[:, :-1]]
            d_a = (g * torch.cat(before, dim=1).conj()).sum_to_size(a.shape)
        if ctx.needs_input_grad[2]:
            u, d = whole[:, entry], g[:, entry]
            d_start = u * (torch.where(u == 0, 0, d) if cuts else d)
        return d_a, g, d_start, None, None


def _scan(a: Tensor, b: Tensor, h: Tensor, out: Any, reverse: bool, cuts: bool) -> None:
    """Fill `out`; see `recurrence`. With `reverse` the last step is the first."""
    _fill(a, b, h, out, reverse)
    if cuts and not bool(out.isfinite().all()):
        # Of zero times NaN or infinity something came through: rare, so that it is looked for
        # afterwards.
        out.copy_(_plainly(a, b, h, reverse, True))


def _fill(a: Tensor, b: Tensor, h: Tensor, out: Any, reverse: bool) -> None:
    """Fill `out`, for numbers that are finite."""
    time = b.shape[1]
    wide = b.device.type == "cpu" and h.numel() >= WIDE
    if time < SHORT or wide:
        _steps(a, b, h, out, reverse)
        return
    length = math.isqrt(time // 2)
    count = time // length
    # Steps that fill no block are those that come last in order, and are left for the end.
    cut = time - count * length
    main, rest = slice(0, time - cut), slice(time - cut, None)
    if reverse:
        main, rest = slice(cut, None), slice(0, cut)
    x, y, z = (v[:, main].unflatten(1, (count, length)) for v in (a, b, out))
    product, end = torch.ones_like(y[:, :, 0]), torch.zeros_like(y[:, :, 0])
    for u, v in _ordered(zip(x.unbind(2), y.unbind(2), strict=True), reverse):
        torch.addcmul(v, u, end, out=end)
        product.mul_(u)
    starts = torch.empty_like(end)
    for u, v, s in _ordered(
        zip(product.unbind(1), end.unbind(1), starts.unbind(1), strict=True), reverse
    ):
        s.copy_(h)
        h = torch.addcmul(v, u, h)
    _steps(x.transpose(1, 2), y.transpose(1, 2), starts, z.transpose(1, 2), reverse)
    _steps(a[:, rest], b[:, rest], h, out[:, rest], reverse)


def _steps(a: Tensor, b: Tensor, h: Tensor, out: Any, reverse: bool) -> None:
    """Fill `out` step by step along axis 1."""
    for u, v, o in _ordered(zip(a.unbind(1), b.unbind(1), out.unbind(1), strict=True), reverse):
        torch.addcmul(v, u, h, out=o)
        h = o


def _ordered(steps: Any, reverse: bool) -> Any:
    return reversed(list(steps)) if reverse else steps
