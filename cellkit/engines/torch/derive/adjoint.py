"""The gradient of a recorded step, planned so that little is left for the loop backward.

Everything is linear in the gradients that come back through a step. What they are multiplied with
is known from the forward pass, and computed for many steps at once: these are factors. Factors in a
row become one, so that the loop multiplies once where the step had many operations. What no older
state depends on (the gradients of the weights and of the inputs) is left until the loop is over.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch

from cellkit.engines.torch.derive.record import Node, Tape, derived

_aten: Any = torch.ops.aten
_layer_norm_backward = _aten.native_layer_norm_backward.default


@dataclasses.dataclass
class Pullback:
    """The gradient of an argument of an operation, from the gradient of the result.

    Args:
        to: The argument.
        factor: A node or a number that the gradient is multiplied with first, or None.
        part: The part of the last axis that the gradient belongs to, `(start, end)`, or None.
        function: A function of the gradient and of the values of `needs`, applied then, or None.
        needs: Nodes whose values `function` takes.
        kernel: A matrix whose transpose the gradient is multiplied with, or None.
    """

    to: Node
    factor: Any = None
    part: tuple[int, int] | None = None
    function: Callable[..., Any] | None = None
    needs: tuple[Node, ...] = ()
    kernel: Node | None = None


@dataclasses.dataclass(eq=False)
class Variable:
    """A gradient that the loop computes; `stored` where it is wanted at all steps afterwards."""

    shape: tuple[int, ...]
    stored: bool = False


@dataclasses.dataclass(frozen=True)
class Summand:
    """A variable (or a part of it) times a factor, or times a transposed matrix."""

    variable: Variable
    factor: Any = None
    kernel: Node | None = None
    part: tuple[int, int | None] = (0, None)


@dataclasses.dataclass
class VariableSlice:
    """A part of a variable, `[start, end)` of its last axis."""

    variable: Variable
    start: int = 0
    end: int | None = None


@dataclasses.dataclass
class Instruction:
    """One line of the loop: `target` becomes the sum of the terms.

    Args:
        target: The variable that is computed.
        terms: The terms that are summed, where there is neither a function nor a part.
        parts: The parts of the last axis, `(start, end, terms)`, that the target is put together
            from, before the terms are added.
        function: A function of the one term's variable and the values of `needs`.
        needs: Nodes.
    """

    target: Variable
    terms: list[Summand] = dataclasses.field(default_factory=list)
    parts: list[tuple[int, int, list[Summand]]] = dataclasses.field(default_factory=list)
    function: Callable[..., Any] | None = None
    needs: tuple[Node, ...] = ()


@dataclasses.dataclass
class BackwardPlan:
    """The lines of the backward loop, and the gradients that are left for its end.

    Args:
        d_outputs: Takes the gradients of the output's leaves; empty where there are none.
        d_new_states: Take the gradients of the new states.
        instructions: The lines of one step.
        d_states: The terms of the gradients of the old states.
        known: Terms of the gradient of each node that is asked for after the loop.
    """

    d_outputs: list[Variable]
    d_new_states: list[Variable]
    instructions: list[Instruction]
    d_states: list[list[Summand]]
    known: dict[Node, list[Summand]]

    @property
    def factors(self) -> list[Node]:
        """The nodes that the loop takes, each once."""
        found: dict[Node, None] = {}
        lists = [*self.d_states]
        for instruction in self.instructions:
            lists += [instruction.terms, *(terms for _, _, terms in instruction.parts)]
            found.update((n, None) for n in instruction.needs)
        for terms in lists:
            for term in terms:
                found.update((n, None) for n in (term.factor, term.kernel) if type(n) is Node)
        return list(found)


def pullbacks(node: Node) -> list[Pullback]:
    """Return a pullback for each argument of a node that has a gradient."""
    name, args, found = node.name, node.args, []
    if name == "slice":
        return [Pullback(args[0], part=args[1:])] if args[0].active else []
    if name == "item":
        return _pullbacks_of_norm(node) if args[0].name == "norm" else []
    if name == "moment":
        return []  # a moment is used by its norm alone
    if name in ("cat", "stack"):
        return _pullbacks_of_cat(node)
    if name in ("mm", "addmm"):
        x, kernel = args[-2:]
        if name == "addmm" and args[0].active:
            found.append(_broadcast(Pullback(args[0]), node))
        if x.active:
            found.append(Pullback(x, kernel=kernel))
        if kernel.active:
            found.append(Pullback(kernel, function=_outer, needs=(x,)))
        return found
    if name in ("sum", "mean"):
        (x, dims, keep), size = args, 1
        for d in dims:
            size *= x.shape[d]
        back = functools.partial(_spread, dims=dims, keep=keep, shape=x.shape)
        return (
            [Pullback(x, None if name == "sum" else 1.0 / size, function=back)] if x.active else []
        )
    if name == "unsqueeze":
        back = functools.partial(torch.squeeze, dim=args[1])
        return [Pullback(args[0], function=back)] if args[0].active else []
    if name == "_softmax":
        dim = node.function.keywords["dim"]  # type: ignore[union-attr]
        back = functools.partial(_softmax_back, dim=dim)
        return [Pullback(args[0], function=back, needs=(node,))] if args[0].active else []
    for i, x in enumerate(args):
        if type(x) is Node and x.active:
            found.append(_broadcast(Pullback(x, _local(node, i)), node))
    return found


def _broadcast(pullback: Pullback, node: Node) -> Pullback:
    """Let a gradient be summed over the axes that the argument was broadcast along."""
    if pullback.to.rows and pullback.to.shape != node.shape:
        dims = [i - len(node.shape) for i, n in enumerate(pullback.to.shape) if n != node.shape[i]]
        return dataclasses.replace(pullback, function=lambda d: d.sum(dims, True))
    return pullback


def _pullbacks_of_norm(node: Node) -> list[Pullback]:
    whole, found = node.args[0], []
    (x, scale, shift), sizes = whole.args, whole.function.keywords["sizes"]
    needs = (x, *whole.moments, *([] if scale is None else [scale]))
    for to, back in ((x, _norm_back), (scale, _norm_scale)):
        if to is not None and to.active:
            function = functools.partial(back, sizes=sizes)
            found.append(Pullback(to, function=function, needs=needs))
    if shift is not None and shift.active:
        found.append(Pullback(shift))
    return found


def _pullbacks_of_cat(node: Node) -> list[Pullback]:
    xs, dim = node.args
    found, start = [], 0
    for i, x in enumerate(xs):
        if node.name == "stack":
            back = functools.partial(_taken, dim=dim, index=i)
        else:
            back = functools.partial(_narrowed, dim=dim, start=start, size=x.shape[dim])
            start += x.shape[dim]
        if x.active:
            found.append(Pullback(x, function=back))
    return found


def _local(node: Node, index: int) -> Any:
    """Return the derivative of an elementwise operation: a node, a number, or None for one."""
    name, args = node.name, node.args
    plain = not isinstance(node.function, functools.partial)
    if name in ("clone", "alias") or (name == "add" and plain):
        return None
    if name == "sub" and plain:
        return -1.0 if index else None
    if name == "neg" or (name == "rsub" and plain and index == 0 and len(args) == 2):
        return -1.0
    if name == "mul" and plain:
        return args[1 - index]
    if name == "addcmul" and plain:
        return args[3 - index] if index else None
    if name == "div" and plain and index == 0 and isinstance(args[1], (int, float)):
        return 1.0 / args[1]
    if name in ("sigmoid", "tanh"):
        back = _aten.sigmoid_backward if name == "sigmoid" else _aten.tanh_backward
        return derived(f"d_{name}", functools.partial(_from_output, back=back), node.shape, node)
    if name == "where":
        cond, shape = args[0], node.shape
        return derived(
            "chosen", functools.partial(_chosen, first=index == 1), shape, cond, _like(args, node)
        )
    function = functools.partial(_derivative, function=node.function, index=index)
    return derived("derivative", function, node.shape, *args)


def _like(args: Any, node: Node) -> Node:
    return next(a for a in args[1:] if type(a) is Node and a.active)


def times(f: Any, g: Any) -> Any:
    """Return the product of two factors: nodes, numbers, or None for one."""
    if f is None or g is None:
        return g if f is None else f
    if type(f) is not Node and type(g) is not Node:
        return f * g
    if type(f) is Node and type(g) is Node:
        for a, b in ((f, g), (g, f)):
            # The gradient of a sigmoid takes what comes back to it: one operation for both.
            if a.name in ("d_sigmoid", "d_tanh") and a.shape == b.shape and b.rows:
                back = a.function.keywords["back"]  # type: ignore[union-attr]
                return derived(f"x_{a.name}", back, a.shape, b, a.args[0])
        shape = torch.broadcast_shapes(f.shape, g.shape)
        return derived("mul", torch.mul, shape, f, g)
    node, number = (f, g) if type(f) is Node else (g, f)
    return derived("mul", torch.mul, node.shape, node, number)


def _from_output(y: Any, back: Any) -> Any:
    return back(torch.ones_like(y), y)


def _chosen(condition: Any, like: Any, first: bool) -> Any:
    return (condition if first else condition.logical_not()).to(like.dtype)


def _derivative(*args: Any, function: Any, index: int) -> Any:
    """Return the derivative of an elementwise function, element by element."""
    shapes = [a.shape for a in args if torch.is_tensor(a)]
    with torch.enable_grad():
        x = args[index].detach().expand(torch.broadcast_shapes(*shapes)).clone().requires_grad_()
        y = function(*args[:index], x, *args[index + 1 :])
        return torch.autograd.grad(y, x, torch.ones_like(y))[0]


def _outer(d: Any, x: Any) -> Any:
    return x.reshape(-1, x.shape[-1]).t() @ d.reshape(-1, d.shape[-1])


def _spread(d: Any, dims: list[int], keep: bool, shape: tuple[int, ...]) -> Any:
    if not keep:
        for dim in sorted(dims, reverse=True):
            d = d.unsqueeze(dim)
    return d.expand(*d.shape[: d.ndim - len(shape)], *shape)


def _softmax_back(d: Any, y: Any, dim: int) -> Any:
    return _aten._softmax_backward_data(d, y, dim, y.dtype)


def _norm_back(
    d: Any, x: Any, mean: Any, deviation: Any, scale: Any = None, *, sizes: list[int]
) -> Any:
    return _layer_norm_backward(
        d.contiguous(), x, sizes, mean, deviation, scale, None, (True, False, False)
    )[0]


def _norm_scale(d: Any, x: Any, mean: Any, deviation: Any, scale: Any, *, sizes: list[int]) -> Any:
    return _layer_norm_backward(
        d.contiguous(), x, sizes, mean, deviation, scale, None, (False, True, False)
    )[1]


def _taken(d: Any, dim: int, index: int) -> Any:
    return d.select(dim, index)


def _narrowed(d: Any, dim: int, start: int, size: int) -> Any:
    return d.narrow(dim, start, size)


def _is_sum(instruction: Instruction) -> bool:
    return instruction.function is None and not instruction.parts


class Planner:
    """Plans the loop backward of a tape.

    Args:
        tape: The recorded step.
        with_output: True if a gradient of the output comes back.
        pullbacks_of: `pullbacks`, or what remembers its results.
    """

    def __init__(
        self, tape: Tape, with_output: bool, pullbacks_of: Callable[[Node], list[Pullback]]
    ) -> None:
        self.tape, self.pullbacks = tape, pullbacks_of
        self.instructions: list[Instruction] = []
        self.terms: dict[Node, list[Summand]] = {}
        self.parts: dict[Node, list[tuple[int, int, list[Summand]]]] = {}
        self.known: dict[Node, list[Summand]] = {}
        self.d_outputs = [Variable(y.shape) for y in tape.outputs] if with_output else []
        self.d_new_states = [Variable(s.shape) for s in tape.new_states]

    def plan(self) -> BackwardPlan:
        """Return the plan."""
        results = [*self.tape.outputs] if self.d_outputs else []
        for node, variable in zip(
            [*results, *self.tape.new_states], [*self.d_outputs, *self.d_new_states], strict=True
        ):
            self.terms.setdefault(node, []).append(Summand(variable))
        for node in reversed(self.tape.nodes):
            if node.active and node.loop:
                self._back(node)
        d_states = []
        for state in self.tape.states:
            d_states.append(self._gathered(state))
        # The rest belongs to values that depend on no state.
        self.known.update(self.terms)
        # Values that the loop computes in any case need not be computed again.
        made = {tuple(i.terms): VariableSlice(i.target) for i in self.instructions if _is_sum(i)}
        for i in self.instructions:
            if not i.terms:
                made.update((tuple(t), VariableSlice(i.target, a, b)) for a, b, t in i.parts)
        for node, terms in self.known.items():
            whole = made.get(tuple(terms))
            if whole is not None and any(t.factor is not None or t.kernel for t in terms):
                self.known[node] = terms = [Summand(whole.variable, part=(whole.start, whole.end))]
            for term in terms:
                term.variable.stored = True
        return BackwardPlan(
            self.d_outputs, self.d_new_states, self.instructions, d_states, self.known
        )

    def _gathered(self, node: Node) -> list[Summand]:
        terms, parts = self.terms.pop(node, []), self.parts.pop(node, [])
        if not parts:
            return terms
        whole = Variable(node.shape)
        parts.sort(key=lambda part: part[:2])
        self.instructions.append(Instruction(whole, terms, parts))
        return [Summand(whole)]

    def _back(self, node: Node) -> None:
        parts = bool(self.parts.get(node))
        terms = self._gathered(node)
        found = self.pullbacks(node) if terms else []
        if not found:
            return
        inner = [w for w in found if w.to.loop]
        if len(inner) < len(found):
            self.known[node] = terms
        single = len(terms) == 1 and terms[0].kernel is None
        plain = all(w.function is None and w.kernel is None for w in inner)
        scaled = any(w.factor is not None for w in inner)
        if inner and not parts and not single and (len(found) > 1 or not plain or scaled):
            terms = self._made(node, terms)
            if node in self.known:
                self.known[node] = terms
        for pullback in inner:
            self._go(node, terms, pullback)

    def _made(self, node: Node, terms: list[Summand]) -> list[Summand]:
        """Compute a gradient at this place, unless it is one that there is."""
        if len(terms) == 1 and terms[0].factor is None and terms[0].kernel is None:
            return terms
        variable = Variable(node.shape)
        self.instructions.append(Instruction(variable, terms))
        return [Summand(variable)]

    def _go(self, node: Node, terms: list[Summand], pullback: Pullback) -> None:
        if pullback.factor is not None:
            terms = [dataclasses.replace(t, factor=times(t.factor, pullback.factor)) for t in terms]
        if pullback.part is not None:
            self.parts.setdefault(pullback.to, []).append((*pullback.part, terms))
            return
        if pullback.kernel is not None:
            (term,) = self._made(node, terms)
            terms = [Summand(term.variable, kernel=pullback.kernel)]
        elif pullback.function is not None:
            (term,) = self._made(node, terms)
            variable = Variable(pullback.to.shape)
            self.instructions.append(
                Instruction(variable, [term], function=pullback.function, needs=pullback.needs)
            )
            terms = [Summand(variable)]
        self.terms.setdefault(pullback.to, []).extend(terms)
