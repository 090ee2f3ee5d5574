"""A recorded step over a whole sequence, as one function with a gradient of its own."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch

from cellkit.engines.torch.derive.adjoint import (
    BackwardPlan,
    Planner,
    Pullback,
    Summand,
    pullbacks,
)
from cellkit.engines.torch.derive.codegen import Backward, Forward
from cellkit.engines.torch.derive.record import Node, Tape, evaluate
from cellkit.engines.torch.loop import select
from cellkit.engines.torch.transformations import batched

# Operations that cost no more than to read what they returned.
_CHEAP = frozenset(
    "add sub rsub mul addcmul neg div where slice alias item norm unsqueeze cat stack square clone "
    "detach eq ne lt le gt ge abs relu ones_like zeros_like full_like _to_copy".split()
)
# Elements that are kept of one block of steps. Large blocks cost memory, small ones time.
_BLOCK = 2**20


def apply(sequence: Sequence, arguments: Any) -> tuple[Any, ...]:
    """Run a sequence, so that it can be differentiated where anything asks for that.

    Args:
        sequence: The sequence.
        arguments: The inputs `(time, batch, ...)`, the constants, and the initial states.

    Returns:
        The leaves of the output `(time, batch, ...)`, or of the last one alone; and the final
        states.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in arguments):
        results: tuple[Any, ...] = _Function.apply(sequence, *arguments)
        return results
    return sequence.forward(arguments, None)


class _Function(torch.autograd.Function):
    """All steps at once, with the gradient of `Sequence.backward`."""

    @staticmethod
    def forward(ctx: Any, sequence: Sequence, *arguments: Any) -> Any:
        saved: dict[Node, Any] = {}
        results = sequence.forward(arguments, saved)
        ctx.sequence, ctx.count, ctx.nodes = sequence, len(arguments), list(saved)
        ctx.save_for_backward(*arguments, *saved.values())
        return results

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        sequence = ctx.sequence
        tensors = ctx.saved_tensors  # once: under `torch.utils.checkpoint` they are there once
        arguments, saved = tensors[: ctx.count], tensors[ctx.count :]
        wanted = ctx.needs_input_grad[1:]
        again = torch.is_grad_enabled()
        if again or batched(grads):
            # The gradient is to be differentiated again, or many are wanted at once: leave all of
            # it to autograd.
            if not again:
                both = zip(arguments, wanted, strict=True)
                arguments = [x.detach().requires_grad_(w) for x, w in both]
            with torch.enable_grad():
                results = sequence.with_autograd(arguments)
            given = [x for x, w in zip(arguments, wanted, strict=True) if w]
            pairs = [(y, g) for y, g in zip(results, grads, strict=True) if y.requires_grad]
            ys, gs = zip(*pairs, strict=True)
            found = iter(torch.autograd.grad(ys, given, gs, create_graph=again, allow_unused=True))
            return (None, *(next(found) if w else None for w in wanted))
        known = dict(zip(ctx.nodes, saved, strict=True))
        return (None, *sequence.backward(arguments, known, grads, wanted))


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc keep the memory of one call for the next one.

    Every call takes and frees the same megabytes. From a size on that glibc learns from the largest
    piece that was freed so far, it returns them to the system at once, and each page of them is an
    interruption when it is touched again. So it is shown the largest piece that it learns from (32
    MiB), which is never touched; twice as much is then kept, if it was in use.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


class Program:
    """A recorded step, the plans of its gradient, and the code for both.

    Args:
        tape: The record of a step.
    """

    def __init__(self, tape: Tape) -> None:
        keep_freed_memory()
        self.tape, self.outputs = tape, len(tape.outputs)
        self.pullbacks = functools.cache(pullbacks)
        self.plans = {flag: Planner(tape, flag, self.pullbacks).plan() for flag in (True, False)}
        self.outward: dict[Node, list[tuple[Node, Pullback]]] = {}
        for node in tape.nodes:
            for pullback in self.pullbacks(node) if node.active and node.rows else ():
                if not pullback.to.loop:
                    self.outward.setdefault(pullback.to, []).append((node, pullback))
        self.before: dict[Node, None] = {}
        self.saved = self._saved()
        self.code = functools.cache(self._code)

    def _saved(self) -> list[Node]:
        """Return what the forward loop keeps for the gradient."""
        todo: list[Node] = []
        for plan in self.plans.values():
            todo += plan.factors
        for pairs in self.outward.values():
            for _, pullback in pairs:
                todo += [n for n in (pullback.factor, *pullback.needs) if type(n) is Node]
        saved: dict[Node, None] = {}
        seen: set[Node] = set()
        own = set(self.tape.nodes)
        while todo:
            node = todo.pop()
            if node in seen or not node.timed:
                continue
            seen.add(node)
            if node.name == "state":
                self.before[node] = None
            elif node in own and node.loop and node.name not in _CHEAP:
                saved[node] = None
            else:
                todo += node.parents
        return [n for n in self.tape.nodes if n in saved]

    def place(self, plan: BackwardPlan, node: Node) -> Any:
        """Return the variable of the loop backward that is all of a node's gradient, or None."""
        terms = plan.known.get(node, [])
        outward = [] if node.loop else self.outward.get(node, [])
        if len(terms) + len(outward) != 1:
            return None
        if outward:
            ((consumer, pullback),) = outward
            same = pullback == Pullback(node) and consumer.shape == node.shape
            return self.place(plan, consumer) if same else None
        (term,) = terms
        return term.variable if term == Summand(term.variable) else None

    def _code(self, saving: bool) -> Forward:
        return Forward(self.tape, *((self.saved, list(self.before)) if saving else ([], [])))

    @functools.cached_property
    def loops(self) -> dict[bool, Backward]:
        """The code of the loop backward, with and without a gradient of the output."""
        return {flag: Backward(plan) for flag, plan in self.plans.items()}


class Sequence:
    """The steps of one call."""

    def __init__(
        self, program: Program, masks: list[Any], keep: Any, collect: bool, resets: Any = None
    ) -> None:
        self.program, self.drawn, self.keep, self.collect = program, masks, keep, collect
        self.on: list[Any] | None = None
        if resets is not None:
            # Only where a sequence begins is there anything to do.
            begins = resets.any(1).tolist()
            each = zip((~resets)[..., None].unbind(0), begins, strict=True)
            self.on = [on if any_ else None for on, any_ in each]

    def _split(self, arguments: Any) -> tuple[list[Any], ...]:
        tape, parts, first = self.program.tape, [], 0
        for size in (len(tape.inputs), len(tape.fixed), len(tape.states)):
            parts.append(list(arguments[first : first + size]))
            first += size
        return (*parts, list(arguments[first:]))

    def _leaves(self, inputs: list[Any], constants: list[Any]) -> dict[Node, Any]:
        tape = self.program.tape
        known = dict(zip(tape.inputs, inputs, strict=True))
        known.update(zip(tape.fixed, constants, strict=True))
        known.update(zip(tape.masks, self.drawn, strict=True))
        return known

    def _keeps(self, first: int = 0, end: int | None = None) -> Any:
        if self.keep is None:
            return itertools.repeat(None)
        return self.keep[first:end, :, None].unbind(0)

    def _ons(self, first: int = 0, end: int | None = None) -> Any:
        return itertools.repeat(None) if self.on is None else self.on[first:end]

    def with_autograd(self, arguments: Any) -> list[Any]:
        """Return the outputs and the final states, from operations that autograd knows."""
        tape = self.program.tape
        inputs, constants, states, starts = self._split(arguments)
        emitted = []
        flags = zip(range(len(inputs[0])), self._keeps(), self._ons(), strict=False)
        for t, keep, on in flags:
            if on is not None:
                both = zip(states, starts, strict=True)
                states = [select(on[:, 0], s, start) for s, start in both]
            known = self._leaves([x[t] for x in inputs], constants)
            known.update(zip(tape.states, states, strict=True))
            emitted.append([evaluate(y, known) for y in tape.outputs])
            new_states = [evaluate(s, known) for s in tape.new_states]
            if keep is not None:
                new_states = [
                    select(keep[:, 0], n, s) for n, s in zip(new_states, states, strict=True)
                ]
            states = new_states
        emitted = emitted if self.collect else emitted[-1:]
        return [*(torch.stack(ys) for ys in zip(*emitted, strict=True)), *states]

    def forward(self, arguments: Any, saved: dict[Node, Any] | None) -> tuple[Any, ...]:
        """Run all steps.

        Args:
            arguments: The inputs `(time, batch, ...)`, the constants, and the initial states.
            saved: Takes what a gradient needs.

        Returns:
            The leaves of the output `(time, batch, ...)`, or of the last one alone; and the final
            states.
        """
        code = self.program.code(saved is not None)
        inputs, constants, states, starts = self._split(arguments)
        time, batch = inputs[0].shape[:2]
        known = self._leaves(inputs, constants)
        buffers = {n: inputs[0].new_empty((time, batch, *n.shape)) for n in code.saved}
        scratch = {n: inputs[0].new_empty((batch, *n.shape)) for n in code.scratch}
        rows = [evaluate(n, known).unbind(0) for n in code.before]
        rows += [evaluate(n, dict(buffers)).unbind(0) for n in code.slots]
        fixed = [evaluate(n, known) for n in code.fixed]
        fixed += [evaluate(n, dict(scratch)) for n in code.spare]
        gathered: list[Any] = []
        emitted: list[Any] = []
        each = zip(*rows, strict=True) if rows else itertools.repeat(())
        steps = zip(range(time), each, self._keeps(), self._ons(), strict=False)
        with torch.no_grad():
            states = code.function(steps, fixed, states, starts, gathered, emitted)
        if saved is not None:
            saved.update(buffers)
            for node, values in zip(code.gathered, zip(*gathered, strict=True), strict=True):
                saved[node] = torch.stack(values)
        own = {b.untyped_storage().data_ptr() for b in buffers.values()}
        own |= {a.untyped_storage().data_ptr() for a in arguments}
        # A final state that is a part of what is kept, or an argument: hand out a copy.
        states = [s.clone() if s.untyped_storage().data_ptr() in own else s for s in states]
        emitted = emitted if self.collect else emitted[-1:]
        return (*(torch.stack(ys) for ys in zip(*emitted, strict=True)), *states)

    def backward(
        self, arguments: Any, saved: dict[Node, Any], grads: Any, wanted: Any
    ) -> list[Any]:
        """Return the gradients of the arguments.

        Args:
            arguments: As `forward` was given them.
            saved: Values that the forward loop kept.
            grads: The gradients of what it returned.
            wanted: Flags of the arguments whose gradients are wanted.
        """
        program, tape = self.program, self.program.tape
        inputs, constants, _, starts = self._split(arguments)
        time = len(inputs[0])
        d_starts = [torch.zeros_like(s) for s in starts]
        d_outputs, d_states = list(grads[: program.outputs]), list(grads[program.outputs :])
        size = sum(n.numel() // time for n in saved.values()) or 1
        size = max(1, _BLOCK // size)
        flags = [(i >= time - len(d_outputs[0])) for i in range(time)]
        blocks = _blocks(flags, size)
        ask_inputs, ask_constants, *_ = self._split(wanted)
        d_inputs = [
            x.new_empty(x.shape) if w else None for x, w in zip(inputs, ask_inputs, strict=True)
        ]
        d_constants: list[Any] = [None] * len(constants)
        turned: dict[Node, Any] = {}
        for first, end in blocks:
            code = program.loops[flags[first]]
            known = self._leaves([x[first:end] for x in inputs], constants)
            known.update({n: x[first:end] for n, x in saved.items()})
            d_rows = [d[first - time : None if end == time else end - time] for d in d_outputs]
            # The loop writes the gradients of inputs that it computes itself to their places.
            parts = [None if d is None else d[first:end] for d in d_inputs]
            places = {
                program.place(code.plan, node): part
                for node, part in zip(tape.inputs, parts, strict=True)
                if part is not None
            }
            stored, d_states = code.run(
                known,
                d_rows if flags[first] else [],
                d_states,
                d_starts,
                (self._keeps(first, end), self._ons(first, end)),
                end - first,
                places,
                turned,
            )
            gradient = _LeafGradients(program, code.plan, known, stored)
            for node, part in zip(tape.inputs, parts, strict=True):
                d = None if part is None else gradient.of(node)
                if part is not None and d is not part:
                    part.zero_() if d is None else part.copy_(d)
            for i, node in enumerate(tape.fixed):
                d = gradient.of(node) if ask_constants[i] else None
                if d is not None:
                    d = d.sum_to_size(constants[i].shape)  # over the steps
                    d_constants[i] = d if d_constants[i] is None else d_constants[i] + d
        return [*d_inputs, *d_constants, *d_states, *d_starts]


def _blocks(flags: list[bool], size: int) -> list[tuple[int, int]]:
    """Return runs of steps `(first, end)` of equal flags, from the last one back."""
    blocks, end = [], len(flags)
    while end:
        first = end - 1
        while first and flags[first - 1] == flags[end - 1] and end - first < size:
            first -= 1
        blocks.append((first, end))
        end = first
    return blocks


class _LeafGradients:
    """The gradients of inputs and constants, for all steps of a block at once."""

    def __init__(
        self, program: Program, plan: BackwardPlan, known: dict[Node, Any], stored: dict[Any, Any]
    ) -> None:
        self.program, self.plan, self.known, self.stored = program, plan, known, stored
        self.found: dict[Node, Any] = {}

    def of(self, node: Node) -> Any:
        """Return the gradient of a node, or None for zero."""
        if node in self.found:
            return self.found[node]
        total = None
        for term in self.plan.known.get(node, ()):
            total = _plus(total, self._term(term))
        if not node.loop:
            parts = []
            for consumer, pullback in self.program.outward.get(node, ()):
                d = self.of(consumer)
                if d is None:
                    continue
                if pullback.part is not None:
                    parts.append((pullback.part, d))
                    continue
                total = _plus(total, self._pull_back(node, pullback, d))
            if parts:
                total = self._joined(node, parts, total)
        self.found[node] = total
        return total

    def _term(self, term: Summand) -> Any:
        start, end = term.part
        d = self.stored[term.variable]
        d = d if end is None else d[..., start:end]
        if term.kernel is not None:
            return d @ evaluate(term.kernel, self.known).t()
        if term.factor is None:
            return d
        factor = term.factor
        return d * (evaluate(factor, self.known) if type(factor) is Node else factor)

    def _pull_back(self, node: Node, pullback: Pullback, d: Any) -> Any:
        if pullback.factor is not None:
            factor = pullback.factor
            d = d * (evaluate(factor, self.known) if type(factor) is Node else factor)
        if pullback.kernel is not None:
            d = d @ evaluate(pullback.kernel, self.known).t()
        if pullback.function is not None:
            d = pullback.function(d, *(evaluate(n, self.known) for n in pullback.needs))
        return d if node.rows else d.sum_to_size(node.shape)

    def _joined(self, node: Node, parts: list[Any], total: Any) -> Any:
        parts.sort(key=lambda part: part[0])
        ends = [0, *(b for (_, b), _ in parts)]
        if total is None and ends[-1] == node.shape[-1]:
            if all(a == end for ((a, _), _), end in zip(parts, ends, strict=False)):
                return torch.cat([d for _, d in parts], -1)
        like = parts[0][1]
        whole = like.new_zeros((*like.shape[:-1], node.shape[-1]))
        for (a, b), d in parts:
            whole[..., a:b] += d
        return whole if total is None else whole + total


def _plus(a: Any, b: Any) -> Any:
    return b if a is None else a + b
