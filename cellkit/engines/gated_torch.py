"""Gated cells on PyTorch: the whole sequence as one function with a gradient of its own.

A step is one recurrent product, one call of each activation for all the gates in a row that have
it, and the cell's `combine`. What autograd would do step by step is done for many steps at once:
`combine` and the activations work element by element, so all that the backward pass needs of them
is how each new state changes with each gate and each old state, in the same row and unit. These
factors are computed by autograd itself from the cell's own `combine`, for a block of steps at a
time; what remains for the loop is to multiply with them and with the recurrent kernel. The gradient
of the kernel is one product after the loop.

That `combine` works element by element is not taken on trust: a first run with small tensors
watches every operation that PyTorch executes in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cellkit.cell import training_mode
from cellkit.engines import gated
from cellkit.engines.factors_torch import DIRECT, FROM_OUTPUT, Undo, factors
from cellkit.engines.projected import project
from cellkit.loops.recorder import Recorder
from cellkit.loops.torch import select

if TYPE_CHECKING:
    from cellkit.engines import Request
    from cellkit.loops import Leaves

# Operations that compute each element from the elements at the same place, and from numbers.
_ELEMENTWISE = frozenset(
    "add sub rsub mul div neg reciprocal abs sign square sqrt rsqrt pow exp expm1 exp2 log log1p "
    "sigmoid tanh sin cos tan sinh cosh asinh atan erf relu relu6 gelu silu mish softplus elu "
    "leaky_relu hardsigmoid hardtanh hardswish log_sigmoid_forward clamp clamp_min clamp_max "
    "maximum minimum where lerp addcmul addcdiv eq ne lt le gt ge logical_and logical_or "
    "logical_not _to_copy clone alias detach ones_like zeros_like full_like celu selu "
    "lift_fresh scalar_tensor isnan".split()
)
# Elements of the gates of one block of steps. Large blocks cost memory, small ones time.
_BLOCK = 2**21


def why_not(request: Request) -> str | None:
    """Return why this engine does not apply, or None; see `cellkit.engines`."""
    reason = gated.why_not(request)
    if reason is not None:
        return reason
    cell = request.cell
    # Everything that `combine` could depend on and a user could change between two calls.
    key = ("elementwise", request.training, *map(id, vars(cell).values()))
    found = request.layer._holder.make("combine", dict)
    if key not in found:
        found.clear()
        found[key] = _probe(request)
    return found[key]


def run(request: Request) -> tuple[Leaves, Any, Leaves]:
    """Run the sequence; see `cellkit.engines`."""
    states, keep = request.states, None
    z = project(request, time_major=True)
    if request.mask is not None:
        keep = request.mask.t()
    if request.reverse:
        z, keep = z.flip(0), None if keep is None else keep.flip(0)
    kernel = request.cell.recurrent_kernel.value
    sequence = _Sequence(request, keep, gated.recurrent_mask(request, states[0]))
    if torch.is_grad_enabled() and any(x.requires_grad for x in (z, kernel, *states)):
        outputs, *states = _Function.apply(sequence, z, kernel, *states)
    else:
        outputs, states = sequence.forward(z, kernel, states)
    last, collected = outputs[-1], outputs
    if keep is not None:
        last, held = _hold(outputs, keep, request.collect)
        collected = select(keep, outputs, 0) if request.zero_masked else held
    last = request.form.flatten(last)
    if not request.collect:
        return last, None, states
    return last, request.form.flatten(collected.transpose(0, 1)), states


def _hold(outputs: Any, keep: Any, collect: bool) -> tuple[Any, Any]:
    """Repeat the previous output at masked steps, zeros where there is none.

    Args:
        outputs: What the steps returned, `(time, batch, units)`.
        keep: `(time, batch)`.
        collect: Whether all outputs are wanted.

    Returns:
        The last output, and all of them (None unless wanted).
    """
    steps = torch.arange(len(keep), device=keep.device)[:, None]
    latest = torch.where(keep, steps, -1)
    latest = latest.cummax(0).values if collect else latest.max(0, keepdim=True).values
    index = latest.clamp(min=0)[..., None].expand(-1, -1, outputs.shape[-1])
    held = select(latest >= 0, outputs.gather(0, index), 0)
    return held[-1], held if collect else None


class _Function(torch.autograd.Function):
    """All steps at once, with the gradient of `_Sequence.backward`."""

    @staticmethod
    def forward(ctx: Any, sequence: _Sequence, z: Any, kernel: Any, *states: Any) -> Any:
        saved: list[Any] = []
        outputs, final = sequence.forward(z, kernel, list(states), saved)
        ctx.sequence, ctx.count = sequence, len(states)
        ctx.save_for_backward(z, kernel, *states, *saved)
        return (outputs, *final)

    @staticmethod
    def backward(ctx: Any, d_outputs: Any, *d_states: Any) -> Any:
        sequence, end = ctx.sequence, 2 + ctx.count
        inputs, (kept, *before) = ctx.saved_tensors[:end], ctx.saved_tensors[end:]
        z, kernel, *states = inputs
        wanted = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            # The gradient is to be differentiated again: leave all of it to autograd.
            outputs, final = sequence.forward(z, kernel, states)
            given = [x for x, w in zip(inputs, wanted, strict=True) if w]
            found = iter(
                torch.autograd.grad(
                    [outputs, *final],
                    given,
                    [d_outputs, *d_states],
                    create_graph=True,
                    allow_unused=True,
                )
            )
            return (None, *(next(found) if w else None for w in wanted))
        d_z, d_initial = sequence.backward(kept, before, kernel, d_outputs, list(d_states))
        d_kernel = None
        if wanted[1]:
            h = before[0] if sequence.dropped is None else before[0] * sequence.dropped
            d_kernel = h.flatten(0, 1).t() @ d_z.flatten(0, 1)
        return (None, d_z, d_kernel, *d_initial)


class _Sequence:
    """The steps of one call: how the gates are made, combined, and undone."""

    def __init__(self, request: Request, keep: Any, dropped: Any) -> None:
        self.cell, self.layout = request.cell, request.runner.layout
        self.training, self.collect = request.training, request.collect or keep is not None
        self.keep, self.dropped = keep, dropped
        self.names = list(request.cell.gates)
        self.units = request.cell.units
        self.runs = _runs(request.cell)
        self.widths = [sum(widths) for _, widths in self.runs]

    def combine(self, gates: list[Any], states: Leaves) -> tuple[Any, Leaves]:
        """Return the output and the leaves of the new states."""
        named = dict(zip(self.names, gates, strict=True))
        output, new = self.cell.combine(named, self.layout.pack(states))
        flat = self.layout.flat  # the walk through a structure takes longer than a small step
        return output, new if flat and type(new) is list else keras.tree.flatten(new)

    def gates(self, z: Any, saved: Leaves | None) -> list[Any]:
        """Return the activated gates of a step.

        Args:
            z: What goes into the gates.
            saved: Where to write what a gradient needs of each run of gates, or None.
        """
        gates: list[Any] = []
        for index, block in enumerate(z.split_with_sizes(self.widths, -1)):
            activation, widths = self.runs[index]
            if saved is None:
                y = activation(block)
            elif activation in FROM_OUTPUT:
                y = activation(block, out=saved[index])
            else:
                y = activation(saved[index].copy_(block))
            gates += y.split_with_sizes(widths, -1) if len(widths) > 1 else (y,)
        return gates

    def forward(
        self, z: Any, kernel: Any, states: Leaves, saved: list[Any] | None = None
    ) -> tuple[Any, Leaves]:
        """Run all steps.

        Args:
            z: The projected inputs, `(time, batch, gates * units)`.
            kernel: The recurrent kernel.
            states: The initial states.
            saved: Takes what `factors` needs of the gates, and the states before each step.

        Returns:
            The outputs `(time, batch, units)`, or the last one alone, `(1, batch, units)`; and the
            final states.
        """
        keeps = [None] * len(z) if self.keep is None else self.keep[..., None].unbind(0)
        before: list[Leaves] = []
        blocks: list[Any] = [None] * len(z)
        outputs, kept = [], z
        if saved is not None:
            kept = torch.empty_like(z, memory_format=torch.contiguous_format)
            runs = kept.split_with_sizes(self.widths, -1)
            blocks = list(zip(*(x.unbind(0) for x in runs), strict=True))
        with training_mode(self.training):
            for z_t, keep, block in zip(z.unbind(0), keeps, blocks, strict=True):
                h = states[0] if self.dropped is None else states[0] * self.dropped
                gates = self.gates(torch.addmm(z_t, h, kernel), block)
                output, new = self.combine(gates, states)
                if saved is not None:
                    before.append(states)
                if keep is not None:
                    new = [torch.where(keep, n, s) for n, s in zip(new, states, strict=True)]
                states = new
                if self.collect:
                    outputs.append(output)
        if saved is not None:
            saved += [kept, *map(torch.stack, zip(*before, strict=True))]
            # A state that is a gate is a part of what is saved: hand out a copy.
            own = kept.untyped_storage().data_ptr()
            inside = [s.untyped_storage().data_ptr() == own for s in states]
            states = [s.clone() if i else s for s, i in zip(states, inside, strict=True)]
        return torch.stack(outputs if self.collect else [output]), states

    def backward(
        self, kept: Any, states: Leaves, kernel: Any, d_outputs: Any, d_states: Leaves
    ) -> tuple[Any, Leaves]:
        """Return the gradients of what goes into the gates and of the initial states."""
        time, batch, width = kept.shape
        size = max(1, _BLOCK // (batch * width))
        d_z = torch.empty_like(kept)
        targets = d_z.view(time, batch, len(self.names), self.units)
        transposed, d_states = kernel.t().contiguous(), list(d_states)
        d_steps = [None] * (time - len(d_outputs)) + list(d_outputs.unbind(0))
        activations = [a for a, widths in self.runs for _ in widths]
        for end in range(time, 0, -size):
            block = slice(max(0, end - size), end)
            rows = [x[block].reshape(-1, x.shape[-1]) for x in (kept, *states)]
            keep = None if self.keep is None else self.keep[block].reshape(-1)
            with training_mode(self.training):
                merged, results = factors(
                    self.combine, activations, rows[0].split(self.units, -1), rows[1:], keep
                )
            undo = Undo(results, targets[block], len(d_states))
            for i in range(block.stop - block.start - 1, -1, -1):
                d_y = d_steps[block.start + i]
                if merged is not None and d_y is not None:
                    # At a masked step nothing comes back to the output, so this is right there.
                    d_states[merged] = d_states[merged] + d_y
                d_states = undo.step(i, d_y, d_states)
                d_z_t, d_h = d_z[block.start + i], d_states[0]
                if self.dropped is not None:
                    d_new = (d_z_t @ transposed) * self.dropped
                    d_states[0] = d_new if d_h is None else d_new.add_(d_h)
                elif d_h is None:
                    d_states[0] = d_z_t @ transposed
                else:
                    d_states[0] = d_h.addmm_(d_z_t, transposed)
                d_states = [torch.zeros_like(d_states[0]) if d is None else d for d in d_states]
        return d_z, d_states


def _runs(cell: Any) -> list[tuple[Any, list[int]]]:
    """Return the activations with the widths of the gates in a row that they apply to."""
    runs: list[tuple[Any, list[int]]] = []
    for name in cell.gates.values():
        activation = getattr(cell, name)
        activation = DIRECT.get(activation, activation)
        if not runs or runs[-1][0] is not activation:
            runs.append((activation, []))
        runs[-1][1].append(cell.units)
    return runs


class _Watch(TorchDispatchMode):
    """Notes the first operation that does not compute each element by itself.

    Args:
        known: Tensors of one shape. What is computed from them, and numbers, may be used too.
    """

    def __init__(self, known: list[Any]) -> None:
        super().__init__()
        self.known = {id(x): x for x in known}
        self.found: str | None = None

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = operation.overloadpacket.__name__
        result = operation(*args, **(kwargs or {}))
        tensors = [x for x in (*args, *(kwargs or {}).values()) if torch.is_tensor(x)]
        foreign = [x for x in tensors if id(x) not in self.known]
        if name not in _ELEMENTWISE:
            self.found = self.found or f"executes `{name}`"
        elif any(x.numel() != 1 or x.requires_grad for x in foreign):
            self.found = self.found or f"gives `{name}` a tensor that is no gate and no state"
        elif len(tensors) > len(foreign):
            self.known[id(result)] = result
        return result


def _probe(request: Request) -> str | None:
    """Return why the activations and `combine` are not known to work element by element."""
    sequence, name = _Sequence(request, None, None), type(request.cell).__name__
    like, rows, units = request.states[0], 7, sequence.units

    def values(shift: float) -> Any:
        x = torch.linspace(-1.0, 1.0, rows * units, dtype=like.dtype, device=like.device)
        return (x + shift).reshape(rows, units)

    states = [values(0.1 * i) for i in range(len(request.states))]
    inputs = [values(0.07 * i) for i in range(len(sequence.names))]
    activations = [a for a, widths in sequence.runs for _ in widths]
    with torch.no_grad(), Recorder() as recorder, training_mode(request.training):
        with _Watch([*states, *inputs]) as watch:
            gates = [a(x) for a, x in zip(activations, inputs, strict=True)]
            output, new = sequence.combine(gates, states)
    if recorder.written or recorder.losses:
        return f"{name}.combine writes a variable or adds a loss"
    if watch.found is not None:
        return f"{name}.combine, or an activation, {watch.found}: not element by element"
    returned = [output, *new] if torch.is_tensor(output) else []
    same = all(id(y) in watch.known and y.dtype == like.dtype for y in returned)
    if len(returned) != 1 + len(states) or not same:
        return f"{name}.combine returns other tensors than an output and states like the old ones"
    return None
