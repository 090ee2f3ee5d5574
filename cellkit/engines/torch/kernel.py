"""PyTorch's own LSTM and GRU, for cells that are exactly these.

The kernels know no masks. A masked step leaves the states as they are, so the steps that count are
moved to the front of each row, which changes nothing, and the outputs are put back to their places
afterwards. What the steps that are left over at the end compute is not used, but for an LSTM's c,
which the kernel returns for the last step alone. There c is held by its gates: an input of its own
drives them so far that they are exactly 0 and 1.

Nor do they know resets, of which there are two ways round. In pieces: what stands between two
resets of a row runs as a row of its own, in a batch with others of about its length. In spans: all
rows run together up to the next step at which any of them has a reset, and there states are
selected. A rule about the shape of the resets says which way has less to do (see `_costs`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import torch

from cellkit.cells.cell import Cell
from cellkit.cells.memo import Memo
from cellkit.cells.operations import value_of
from cellkit.cells.standard import StandardWeights, standard_weights
from cellkit.engines.engine import Engine, Need
from cellkit.engines.request import in_order
from cellkit.engines.shared import needs, plain
from cellkit.engines.torch.derive.program import keep_freed_memory
from cellkit.engines.torch.loop import select
from cellkit.typing import Tensor

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves

# The numbers of PyTorch's blocks among those of `StandardWeights`.
_BLOCKS = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2)}
# Biases that hold c, by PyTorch's block: the gate i is driven to zero, f to one.
_HELD = (-1.0, 1.0, 0.0, 0.0)
# The products of a step, in numbers of multiplications, that take as long as all else it does. A
# call of the kernel takes as long as so many such steps without their products, and so many rows,
# for what it does with the weights. Masked steps take longer, moved as they are to and fro.
# `benchmarks/resets.py` measures what follows from these.
_STEP, _CALL_STEPS, _CALL_ROWS, _MASKED = 1e5, 50.0, 180.0, 1.5
# Far beyond any sum that could take a gate back.
_FAR = 1e20


def _not_standard(request: Request) -> str | None:
    if standard_weights(request.cell) is None:
        return f"{type(request.cell).__name__} is not a standard LSTM or GRU"
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
    request = in_order(request)
    mask, states = request.mask, request.states
    x, dtype = request.inputs, states[0].dtype
    x = x if x.dtype == dtype else x.to(dtype)  # integers, as a `cellkit.Cell` does
    kind, parameters = _parameters(request)
    try:
        if request.resets is None or not bool(request.resets.any()):
            y, new = _through(kind, x, mask, states, parameters)
        else:
            y, new = _with_resets(request, kind, x, parameters)
    except _NotHeld:
        return plain.run(request)
    last = y[:, -1]
    if mask is not None and request.zero_masked:
        y = select(mask, y, 0)
    form = request.form
    return form.flatten(last), form.flatten(y) if request.collect else None, new


class _NotHeld(Exception):
    """The gates of an LSTM no longer hold c where h is not a number."""


def _through(
    kind: str, x: Tensor, mask: Tensor, states: Leaves, parameters: list[Any]
) -> tuple[Any, Leaves]:
    """Run over all steps; return the outputs, held at masked steps, and the final states."""
    if mask is None:
        y, *new = _kernel(kind, x, states, parameters)
        return y, new
    y, new = _compacted(kind, x, mask, states, parameters)
    if kind == "lstm" and not bool(y[:, -1].isfinite().all()):
        raise _NotHeld
    return y, new


def _with_resets(
    request: Request, kind: str, x: Tensor, parameters: list[Any]
) -> tuple[Any, Leaves]:
    """Run over all steps, in pieces or in spans; see `_through`."""
    resets, (rows, time) = request.resets, x.shape[:2]
    begins = resets.clone()
    begins[:, 0] = True
    place = begins.flatten().nonzero()[:, 0]  # of the first step of each piece, among all steps
    length = torch.diff(place, append=place.new_tensor([rows * time]))
    spans = [0, *(t for t in resets.any(0).nonzero()[:, 0].tolist() if t), time]
    free = _STEP / sum(w.numel() for w in parameters[:2])
    masked = request.mask is not None and not bool(request.mask.all())
    lengths = length.tolist()
    batches = _batches(lengths, free)
    costs = _costs(batches, lengths, spans, rows, free, masked)
    way = min(costs, key=lambda name: costs[name])
    shapes = {
        "pieces": f"{len(place)} pieces of {rows} rows in {len(batches)} batches of "
        + ", ".join(f"{len(batch)} x {longest} steps" for batch, longest in batches),
        "spans": f"{len(spans) - 1} spans of {rows} rows between steps with resets",
    }
    others = ", ".join(f"{name} {cost / costs[way]:.2f}" for name, cost in costs.items())
    request.notes[:] = [f"in {shapes[way]}, as the shape of the resets says (cost: {others})"]
    if way == "spans":
        return _in_spans(request, kind, x, parameters, spans)
    return _in_pieces(request, kind, x, parameters, begins, place, length, batches)


def _costs(
    batches: list[tuple[list[int], int]],
    lengths: list[int],
    spans: list[int],
    rows: int,
    free: float,
    masked: bool,
) -> dict[str, float]:
    """Return how long each way round the resets takes, in steps of one row.

    Args:
        batches: The pieces of each batch, and its steps.
        lengths: The steps of each piece.
        spans: The first step of each span, and the number of steps.
        rows: Number of rows.
        free: The number of rows that take as long as the rest of a step.
        masked: True if some steps do not count.
    """
    padded = [any(lengths[i] < longest for i in batch) for batch, longest in batches]
    pieces = [
        _cost(len(batch), longest, free, masked or moved)
        for (batch, longest), moved in zip(batches, padded, strict=True)
    ]
    each = zip(spans, spans[1:], strict=False)
    return {
        "pieces": sum(pieces),
        "spans": sum(_cost(rows, end - first, free, masked) for first, end in each),
    }


def _cost(rows: int, steps: int, free: float, masked: bool) -> float:
    """Return how long a call of the kernel takes, in steps of one row.

    Args:
        rows: Number of rows.
        steps: Number of steps.
        free: The number of rows that take as long as the rest of a step.
        masked: True if some steps do not count.
    """
    every = steps * (free + rows) * (_MASKED if masked else 1.0)
    return free * _CALL_STEPS + _CALL_ROWS + every


def _in_spans(
    request: Request, kind: str, x: Tensor, parameters: list[Any], spans: list[int]
) -> tuple[Any, Leaves]:
    """Run all rows from each step with a reset to the next one; see `_through`."""
    states, mask, outputs = request.states, request.mask, []
    last = None
    for first, end in zip(spans, spans[1:], strict=False):
        fresh = request.resets[:, first]
        each = zip(request.starts or [], states, strict=True)
        states = [select(fresh, new, old) for new, old in each]
        keep = None if mask is None else mask[:, first:end]
        whole = keep is None or bool(keep.all())
        y, states = _through(kind, x[:, first:end], None if whole else keep, states, parameters)
        if keep is not None and not whole and last is not None:
            # Until a row has a step of its own it repeats what was before, but for a reset.
            before = select(~fresh, last, 0)[:, None].expand_as(y)
            y = select(keep.cumsum(1) > 0, y, before)
        last = y[:, -1]
        outputs.append(y)
    return torch.cat(outputs, 1), states


def _in_pieces(
    request: Request,
    kind: str,
    x: Tensor,
    parameters: list[Any],
    begins: Any,
    place: Any,
    length: Any,
    batches: list[tuple[list[int], int]],
) -> tuple[Any, Leaves]:
    """Run the pieces between resets as rows of their own; see `_through`.

    Args:
        request: The run.
        kind: The kind of the kernel.
        x: The inputs.
        parameters: The weights.
        begins: Boolean tensor `(batch, time)`, True where a piece begins.
        place: The first step of each piece among all steps of all rows.
        length: The number of steps of each piece.
        batches: The pieces that run together, and their steps.
    """
    rows, time = x.shape[:2]
    row = place // time
    fresh = request.resets.flatten()[place]
    each = zip(request.starts or [], request.states, strict=True)
    states = [select(fresh, new[row], old[row]) for new, old in each]
    outputs, finals, count = [], [], 0
    base = torch.empty_like(place)  # of the first step of each piece, among all outputs
    steps, mask = x.flatten(0, 1), None if request.mask is None else request.mask.flatten()
    for batch, longest in batches:
        own = place.new_tensor(batch)
        index = torch.arange(longest, device=x.device)
        keep = index < length[own, None]
        index = (place[own, None] + index).clamp(max=rows * time - 1)
        if mask is not None:
            keep = keep & mask[index]
        moved = steps.index_select(0, index.flatten()).unflatten(0, index.shape)
        given = [s.index_select(0, own) for s in states]
        whole = bool(keep.all())
        y, new = _through(kind, moved, None if whole else keep, given, parameters)
        outputs.append(y.flatten(0, 1))
        finals.append(new)
        base[own] = count + torch.arange(len(batch), device=x.device) * longest
        count += len(batch) * longest
    # Back: the piece of every step, and how far it is into that.
    piece = begins.flatten().cumsum(0) - 1
    index = base[piece] + torch.arange(rows * time, device=x.device) - place[piece]
    y = torch.cat(outputs).index_select(0, index).unflatten(0, (rows, time))
    among = torch.argsort(place.new_tensor([i for batch, _ in batches for i in batch]))
    last = among[piece.unflatten(0, (rows, time))[:, -1]]
    return y, [torch.cat(s).index_select(0, last) for s in zip(*finals, strict=True)]


def _batches(lengths: list[int], free: float) -> list[tuple[list[int], int]]:
    """Return the pieces that run as rows of one batch, and their steps, for every batch.

    Args:
        lengths: The steps of each piece.
        free: The number of rows that take as long as the rest of a step.
    """
    classes: dict[int, list[int]] = {}
    for piece, length in enumerate(lengths):
        classes.setdefault(length.bit_length(), []).append(piece)
    batches = [(c, max(lengths[i] for i in c)) for _, c in sorted(classes.items())]

    at = 0
    while at + 1 < len(batches):
        (short, shorter), (long, longest) = batches[at : at + 2]
        joined = [*short, *long], longest
        # Pieces of two lengths are never all as long as the longest.
        apart = _cost(len(short), shorter, free, True) + _cost(len(long), longest, free, True)
        if _cost(len(joined[0]), longest, free, True) < apart:
            batches[at : at + 2] = [joined]
            at = max(at - 1, 0)
        else:
            at += 1
    return batches


def _compacted(
    kind: str, x: Tensor, mask: Tensor, states: Leaves, parameters: list[Any]
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


def _holding(x: Tensor, hold: Any, parameters: list[Any]) -> tuple[Any, list[Any]]:
    """Return inputs and weights of an LSTM whose gates hold c where `hold` says."""
    kernel, *rest = parameters
    units = kernel.shape[1] // len(_HELD)
    drive = torch.tensor(_HELD, dtype=x.dtype, device=x.device) * _FAR
    kernel = torch.cat([kernel, drive.repeat_interleave(units)[None]])
    return torch.cat([x, hold[..., None].to(x.dtype)], -1), [kernel, *rest]


def _parameters(request: Request) -> tuple[str, list[Any]]:
    """Return the kind of the cell, and its kernels and two biases, as PyTorch has them."""
    cache = request.options.cache
    # An edition has one set of variables: they need not be looked for at every call.
    weights = cache.current("standard weights", request.edition, lambda: _variables(request.cell))
    weights = weights or _weights(request.cell)
    kernel = value_of(weights.kernel)
    biases = [
        _no_bias(cache, kernel) if b is None else value_of(b)
        for b in (weights.bias, weights.recurrent_bias)
    ]
    return weights.kind, [kernel, value_of(weights.recurrent_kernel), *biases]


def _weights(cell: Any) -> StandardWeights:
    """Return the weights of a cell for which the engine was chosen: it is a standard one."""
    weights = standard_weights(cell)
    assert weights is not None  # noqa: S101
    return weights


def _variables(cell: Any) -> StandardWeights | None:
    """Return the weights of a cell if all are variables; a tensor would keep an old value."""
    weights = _weights(cell)
    found = (weights.kernel, weights.recurrent_kernel, weights.bias, weights.recurrent_bias)
    lasting = all(w is None or isinstance(w, keras.Variable) for w in found)
    return weights if lasting else None


def _no_bias(cache: Memo, kernel: Tensor) -> Any:
    """Return the zeros that stand for a bias that a cell has not; nothing changes them."""
    zeros = cache.get("no bias")
    known = zeros is not None and (zeros.dtype, zeros.device) == (kernel.dtype, kernel.device)
    if not known or len(zeros) != kernel.shape[1]:
        with torch.inference_mode(False):  # what is made in it could not be trained with later
            zeros = torch.zeros(kernel.shape[1], dtype=kernel.dtype, device=kernel.device)
        cache.set("no bias", zeros)
    return zeros


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


def _kernel(kind: str, x: Tensor, states: Leaves, parameters: list[Any]) -> tuple[Any, ...]:
    """Return the outputs `(batch, time, units)` and the final states."""
    arguments = (x, *states, *parameters)
    if torch.is_grad_enabled() and any(a.requires_grad for a in arguments):
        return _Kernel.apply(kind, *arguments)
    return _call(kind, *_turned(_reordered(kind, arguments)))


def _turned(arguments: Any) -> list[Any]:
    """Transpose the two kernels among the arguments, or the two gradients of these."""
    *others, kernel, recurrent, b, c = arguments
    return [*others, *(w if w is None else w.t() for w in (kernel, recurrent)), b, c]


def _call(kind: str, x: Tensor, *rest: Any) -> tuple[Any, ...]:
    *states, w, u, b, c = rest
    hidden = [s[None] for s in states]
    options = (True, 1, 0.0, False, False, True)
    if kind == "lstm":
        y, *new = torch.lstm(x, hidden, [w, u, b, c], *options)
    else:
        y, *new = torch.gru(x, hidden[0], [w, u, b, c], *options)
    return (y, *(s[0] for s in new))


def _in_steps(kind: str, x: Tensor, *rest: Any) -> tuple[Any, ...]:
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
