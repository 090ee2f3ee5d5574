"""PyTorch's own LSTM and GRU, for cells that are exactly these.

The kernels know no masks. A masked step leaves the states as they are, so the steps that count are
moved to the front of each row, which changes nothing, and the outputs are put back to their places
afterwards. What the steps that are left over at the end compute is not used, but for an LSTM's c,
which the kernel returns for the last step alone. There c is held by its gates: an input of its own
drives them so far that they are exactly 0 and 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import torch

from cellkit.cells.cell import Cell
from cellkit.cells.operations import value_of
from cellkit.cells.standard import StandardWeights, standard_weights
from cellkit.engines.engine import Engine, Need
from cellkit.engines.shared import needs, plain
from cellkit.engines.torch.derive.program import keep_freed_memory
from cellkit.engines.torch.loop import select

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves

# What PyTorch's blocks are among those of `StandardWeights`.
_BLOCKS = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2)}
# How c is held, by PyTorch's block: the gate i is driven to zero, f to one.
_HELD = (-1.0, 1.0, 0.0, 0.0)
# Far beyond any sum that could take a gate back.
_FAR = 1e20


def _not_standard(request: Request) -> str | None:
    if standard_weights(request.cell) is None:
        return f"{type(request.cell).__name__} is no standard LSTM or GRU"
    return None


def _drops(request: Request) -> str | None:
    cell = request.cell
    if request.training and (cell.dropout or cell.recurrent_dropout):
        return f"{type(cell).__name__} drops elements in training"
    return None


def _zoneout(request: Request) -> str | None:
    if getattr(request.cell, "zoneout", 0.0):
        return f"{type(request.cell).__name__} has zoneout"
    return None


def _other_dtype(request: Request) -> str | None:
    dtype = request.runner.compute_dtype
    return None if dtype in ("float32", "float64") else f"the compute dtype is {dtype}"


def _other_inputs(request: Request) -> str | None:
    inputs = request.inputs
    if keras.tree.is_nested(inputs) or inputs.is_complex() or inputs.ndim != 3:
        return "the inputs are not one tensor of real numbers (batch, time, features)"
    if not inputs.is_floating_point() and not isinstance(request.cell, Cell):
        return f"{type(request.cell).__name__} does not cast integers"
    if inputs.shape[2] == 0:
        return "there is no feature"
    return None


def run(request: Request) -> tuple[Leaves, Any, Leaves]:
    """Run the kernel; see `cellkit.engines`."""
    keep_freed_memory()
    weights = standard_weights(request.cell)
    assert weights is not None  # noqa: S101 - or it would not have been chosen
    mask, states = request.mask, request.states
    x = request.inputs.to(states[0].dtype)  # integers, as a `cellkit.Cell` does
    if request.reverse:
        x, mask = x.flip(1), None if mask is None else mask.flip(1)
    parameters = _parameters(weights)
    if mask is None:
        y, *new = _kernel(weights.kind, x, states, parameters)
    else:
        y, new = _compacted(weights.kind, x, mask, states, parameters)
        if weights.kind == "lstm" and not bool(y[:, -1].isfinite().all()):
            return plain.run(request)  # its gates no longer hold c where h is no number
    last = y[:, -1]
    if mask is not None and request.zero_masked:
        y = select(mask, y, 0)
    form = request.form
    return form.flatten(last), form.flatten(y) if request.collect else None, new


def _compacted(
    kind: str, x: Any, mask: Any, states: Leaves, parameters: list[Any]
) -> tuple[Any, Leaves]:
    """Run over the steps that count, moved to the front of each row."""
    given, counts = states, mask.any(1)
    # A row without such a step holds what it was given, of which the kernel sees nothing.
    states = [select(counts, s, 0) for s in states]
    order = torch.argsort(mask.int(), dim=1, descending=True, stable=True)
    x = x.gather(1, order[..., None].expand_as(x))
    count = mask.sum(1)
    over = torch.arange(mask.shape[1], device=mask.device) >= count[:, None]
    if kind == "lstm":
        x, parameters = _holding(x, over, parameters)
    y, _, *c = _kernel(kind, x, states, parameters)
    # The number of steps that counted up to each step says which output is the latest one.
    latest = mask.cumsum(1) - 1
    index = latest.clamp(min=0)[..., None].expand(-1, -1, y.shape[-1])
    y = select(latest >= 0, y.gather(1, index), 0)
    new = (y[:, -1], *c)
    return y, [select(counts, n, s) for n, s in zip(new, given, strict=True)]


def _holding(x: Any, hold: Any, parameters: list[Any]) -> tuple[Any, list[Any]]:
    """Return inputs and weights of an LSTM whose gates hold c where `hold` says."""
    kernel, *rest = parameters
    units = kernel.shape[1] // len(_HELD)
    drive = torch.tensor(_HELD, dtype=x.dtype, device=x.device) * _FAR
    kernel = torch.cat([kernel, drive.repeat_interleave(units)[None]])
    return torch.cat([x, hold[..., None].to(x.dtype)], -1), [kernel, *rest]


def _parameters(weights: StandardWeights) -> list[Any]:
    """Return the kernels and two biases, as PyTorch has them."""
    kernel, recurrent = value_of(weights.kernel), value_of(weights.recurrent_kernel)
    biases = [value_of(b) for b in (weights.bias, weights.recurrent_bias)]
    return [kernel, recurrent, *(torch.zeros_like(kernel[0]) if b is None else b for b in biases)]


def _reordered(kind: str, arguments: Any) -> list[Any]:
    """Exchange the blocks of all weights among the arguments for PyTorch's, or back for ours."""
    order = _BLOCKS[kind]
    if order == tuple(range(len(order))):
        return list(arguments)
    others, weights = arguments[:-4], arguments[-4:]

    def moved(w: Any) -> Any:
        parts = w.chunk(len(order), -1)
        return torch.cat([parts[i] for i in order], -1)

    return [*others, *(None if w is None else moved(w) for w in weights)]


def _kernel(kind: str, x: Any, states: Leaves, parameters: list[Any]) -> tuple[Any, ...]:
    """Return the outputs `(batch, time, units)` and the final states."""
    arguments = (x, *states, *parameters)
    if torch.is_grad_enabled() and any(a.requires_grad for a in arguments):
        return _Kernel.apply(kind, *arguments)
    return _call(kind, *_turned(_reordered(kind, arguments)))


def _turned(arguments: Any) -> list[Any]:
    """Transpose the two kernels among the arguments, or the two gradients of these."""
    *others, kernel, recurrent, b, c = arguments
    return [*others, *(w if w is None else w.t() for w in (kernel, recurrent)), b, c]


def _call(kind: str, x: Any, *rest: Any) -> tuple[Any, ...]:
    *states, w, u, b, c = rest
    hidden = [s[None] for s in states]
    options = (True, 1, 0.0, False, False, True)
    if kind == "lstm":
        y, *new = torch.lstm(x, hidden, [w, u, b, c], *options)
    else:
        y, *new = torch.gru(x, hidden[0], [w, u, b, c], *options)
    return (y, *(s[0] for s in new))


def _in_steps(kind: str, x: Any, *rest: Any) -> tuple[Any, ...]:
    """Return what `_call` returns, from operations that autograd can differentiate at will."""
    *states, kernel, recurrent, b, c = rest
    outputs = []
    for z in (x @ kernel + b).unbind(1):
        product, h = states[0] @ recurrent + c, states[0]
        if kind == "lstm":
            i, f, g, o = (z + product).chunk(4, -1)
            memory = f.sigmoid() * states[1] + i.sigmoid() * g.tanh()
            states = [o.sigmoid() * memory.tanh(), memory]
        else:
            (z_r, z_z, z_n), (h_r, h_z, h_n) = z.chunk(3, -1), product.chunk(3, -1)
            n, keep = (z_n + (z_r + h_r).sigmoid() * h_n).tanh(), (z_z + h_z).sigmoid()
            states = [keep * h + (1 - keep) * n]
        outputs.append(states[0])
    return (torch.stack(outputs, 1), *states)


class _Kernel(torch.autograd.Function):
    """The kernel, with a gradient that can be differentiated once more, which its own cannot."""

    @staticmethod
    def forward(ctx: Any, kind: str, *arguments: Any) -> Any:
        ctx.save_for_backward(*arguments)
        ctx.set_materialize_grads(False)
        ctx.kind, ctx.graph = kind, _graph(kind, arguments, ctx.needs_input_grad[1:])
        return tuple(r.detach() for r in ctx.graph[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        kind, wanted, again = ctx.kind, ctx.needs_input_grad[1:], torch.is_grad_enabled()
        if again:
            arguments = ctx.saved_tensors
            results = _in_steps(kind, *_reordered(kind, arguments))
        else:
            # The kernel's own graph is freed on the way, as PyTorch does: made anew if need be.
            arguments, results = ctx.graph or _graph(kind, ctx.saved_tensors, wanted)
            ctx.graph = None
        given = [a for a, w in zip(arguments, wanted, strict=True) if w]
        pairs = [(y, g) for y, g in zip(results, gradients, strict=True) if g is not None]
        if not pairs:
            return (None, *(None for _ in wanted))
        ys, gs = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(ys, given, gs, create_graph=again, allow_unused=True))
        grads = [next(found) if w else None for w in wanted]
        return (None, *(grads if again else _reordered(kind, _turned(grads))))


def _graph(kind: str, arguments: Any, wanted: Any) -> tuple[list[Any], Any]:
    """Return leaves in PyTorch's order, and what the kernel makes of them, with its graph."""
    with torch.no_grad():
        moved = _turned(_reordered(kind, arguments))
        if kind == "lstm":  # whose kernel would else copy them, for its gradient once more
            moved[-4:-2] = [w.contiguous() for w in moved[-4:-2]]
    leaves = [a.detach().requires_grad_(w) for a, w in zip(moved, wanted, strict=True)]
    with torch.enable_grad():
        return leaves, _call(kind, *leaves)


ENGINE = Engine(
    name="kernel",
    summary="The framework's own LSTM or GRU. Torch, in float32 and float64.",
    cells="`lstm`, `gru` with `reset_after`, Keras' `LSTMCell` and `GRUCell`; with tanh and "
    "sigmoid, and without dropout or zoneout in the call",
    run=run,
    needs=(
        needs.SAME_DTYPE,
        needs.SOMETHING,
        Need("a standard LSTM or GRU", _not_standard, rules_out=("constants",)),
        Need("no dropout in training", _drops, rules_out=("dropout",)),
        Need("no `zoneout`", _zoneout, rules_out=("zoneout",)),
        Need("float32 or float64", _other_dtype),
        Need("one tensor of real numbers (batch, time, features)", _other_inputs),
    ),
)
