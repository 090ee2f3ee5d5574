"""How the results of gates and states change with them, element by element, on PyTorch.

For many steps at once, autograd differentiates a cell's own `combine`. What comes out are factors:
the backward loop multiplies the gradients of a step's results with them, and need not know the
cell. A result that the gates reach only through a new state (an LSTM's h, through its new c) has
one factor for that state, instead of one for every gate behind it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import torch

from cellkit.loops.torch import select

_aten: Any = torch.ops.aten

# The backend's own functions, without the way through Keras at every step.
DIRECT = {keras.activations.sigmoid: torch.sigmoid, keras.activations.tanh: torch.tanh}
# Activations whose derivative follows from what they returned: these take the gradient of it, what
# it was, and where to write the gradient of what went in.
FROM_OUTPUT: dict[Any, Callable[[Any, Any, Any], Any]] = {
    torch.sigmoid: lambda d, y, out: _aten.sigmoid_backward.grad_input(d, y, grad_input=out),
    torch.tanh: lambda d, y, out: _aten.tanh_backward.grad_input(d, y, grad_input=out),
}


@dataclasses.dataclass
class Result:
    """The factors of one result of a step: the output, or a new state.

    Args:
        gates: Pairs of gates in a row, `[first, end)`, and their factors `(rows, gates, units)`.
        states: By the index of an old state, its factor `(rows, units)`.
        through: The index of the result that it goes through, and its factor, or None.
    """

    gates: list[tuple[int, int, Any]] = dataclasses.field(default_factory=list)
    states: dict[int, Any] = dataclasses.field(default_factory=dict)
    through: tuple[int, Any] | None = None


def factors(
    combine: Callable[[list[Any], list[Any]], tuple[Any, list[Any]]],
    activations: list[Any],
    saved: list[Any],
    states: list[Any],
    keep: Any,
) -> tuple[int | None, list[Result]]:
    """Differentiate a block of steps, each element by itself.

    Args:
        combine: Makes the output and the new states from the gates and the old states.
        activations: Of each gate.
        saved: For each gate what its activation returned, or, where the derivative does not follow
            from that, what went in; `(rows, units)`.
        states: The old states, `(rows, units)`.
        keep: `(rows,)`, True where a step counts, or None.

    Returns:
        The index of the new state that is the output, if one is: what comes back to the output
        then goes to that state. And the factors of the output and of each new state.
    """
    leaves = [x.detach().requires_grad_() for x in saved]
    olds = [x.detach().requires_grad_() for x in states]
    with torch.enable_grad():
        gates = [x if a in FROM_OUTPUT else a(x) for a, x in zip(activations, leaves, strict=True)]
        output, news = combine(gates, olds)
    merged = next((i for i, n in enumerate(news) if n is output), None)
    ys = [output, *news]
    wrt = [*leaves, *olds]
    found = []
    for index, y in enumerate(ys):
        result = Result()
        if y.requires_grad and not (index == 0 and merged is not None):
            result = _differentiate(index, ys, wrt, len(leaves), activations)
        if keep is not None and index:
            _mask(result, keep, index - 1, ys[index])
        found.append(result)
    return merged, found


def _differentiate(
    index: int, ys: list[Any], wrt: list[Any], count: int, activations: list[Any]
) -> Result:
    """Return the factors of one result."""
    y, result = ys[index], Result()
    nodes = {n.grad_fn: j for j, n in enumerate(ys) if j and n is not y and n.grad_fn is not None}
    nodes.pop(y.grad_fn, None)
    reached, via = _reached(y, nodes)
    through = next(iter(via)) if len(via) == 1 else None
    if through is not None and not reached & _reached(ys[through], {})[0]:
        sources = [x for x in wrt if id(x) in reached]
    else:
        through, reached = None, _reached(y, {})[0]
        sources = [x for x in wrt if id(x) in reached]
    targets = [*sources, *([] if through is None else [ys[through]])]
    ones = torch.ones_like(y)
    grads = torch.autograd.grad(y, targets, ones, retain_graph=True, allow_unused=True)
    by_source = {id(x): g for x, g in zip(targets, grads, strict=True) if g is not None}
    if through is not None and id(ys[through]) in by_source:
        result.through = (through, by_source[id(ys[through])])
    some = [i for i in range(count) if id(wrt[i]) in by_source]
    for first, end in _rows(some):
        block = torch.empty((len(y), end - first, y.shape[-1]), dtype=y.dtype, device=y.device)
        for i in range(first, end):
            d, x, out = by_source[id(wrt[i])], wrt[i].detach(), block[:, i - first]
            known = FROM_OUTPUT.get(activations[i])
            out.copy_(d) if known is None else known(d, x, out)
        result.gates.append((first, end, block))
    for j, x in enumerate(wrt[count:]):
        if id(x) in by_source:
            result.states[j] = by_source[id(x)]
    return result


def _reached(y: Any, ends: dict[Any, int]) -> tuple[set[int], set[int]]:
    """Return which leaves `y` was computed from, and which of `ends` the search stopped at."""
    if y.grad_fn is None:
        return {id(y)}, set()
    leaves: set[int] = set()
    via: set[int] = set()
    seen, todo = set(), [y.grad_fn]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in ends:
            via.add(ends[node])
            continue
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        todo += [n for n, _ in node.next_functions if n is not None]
    return leaves, via


def _mask(result: Result, keep: Any, state: int, like: Any) -> None:
    """Let a new state be the old one where a step does not count."""
    result.gates = [(a, b, select(keep, block, 0)) for a, b, block in result.gates]
    result.states = {j: select(keep, x, 0) for j, x in result.states.items()}
    if result.through is not None:
        result.through = (result.through[0], select(keep, result.through[1], 0))
    held = (~keep)[:, None].to(like.dtype).expand(like.shape)
    old = result.states.get(state)
    result.states[state] = held if old is None else old + held


def _rows(indices: list[int]) -> list[tuple[int, int]]:
    """Return the runs `[first, end)` of numbers that follow each other."""
    runs: list[tuple[int, int]] = []
    for i in indices:
        if runs and runs[-1][1] == i:
            runs[-1] = (runs[-1][0], i + 1)
        else:
            runs.append((i, i + 1))
    return runs


class Undo:
    """Carries gradients back through the `combine` of single steps of a block.

    Args:
        results: The factors of the output and of the new states.
        targets: Takes the gradients of what goes into the gates, `(steps, batch, gates, units)`.
        states: The number of states.
    """

    def __init__(self, results: list[Result], targets: Any, states: int) -> None:
        steps, batch, count, units = targets.shape

        def in_steps(x: Any) -> Any:
            return x.unflatten(0, (steps, batch)).unbind(0)

        self.zero = targets.new_zeros((batch, units))
        # A result comes before the one that it goes through.
        order = sorted(range(len(results)), key=lambda r: -_depth(results, r))
        self.through = [
            (r, results[r].through[0], in_steps(results[r].through[1]))  # type: ignore[index]
            for r in order
            if results[r].through is not None
        ]
        self.gates: list[Any] = []
        written: set[int] = set()
        for r, result in enumerate(results):
            for first, end, block in result.gates:
                runs = _split([i in written for i in range(first, end)])
                for a, b, old in runs:
                    part, target = block[:, a:b], targets[:, :, first + a : first + b]
                    if b - a == 1:
                        part, target = part[:, 0], target[:, :, 0]
                    self.gates.append((r, b - a > 1, old, in_steps(part), target.unbind(0)))
                written.update(range(first, end))
        for gate in set(range(count)) - written:
            targets[:, :, gate] = 0
        self.states = [
            [(r, in_steps(x.states[j])) for r, x in enumerate(results) if j in x.states]
            for j in range(states)
        ]

    def step(self, i: int, d_output: Any, d_states: list[Any]) -> list[Any]:
        """Fill the targets of a step.

        Args:
            i: The step's index in the block.
            d_output: The gradient of its output, or None.
            d_states: Those of its new states.

        Returns:
            Those of its old states, without what the recurrent product brings back; None for zero.
        """
        d = [self.zero if d_output is None else d_output, *d_states]
        for r, to, factor in self.through:
            d[to] = torch.addcmul(d[to], factor[i], d[r])
        for r, several, old, factor, target in self.gates:
            d_r = d[r][:, None] if several else d[r]
            if old:
                target[i].addcmul_(factor[i], d_r)
            else:
                torch.mul(factor[i], d_r, out=target[i])
        found = []
        for terms in self.states:
            total = None
            for r, factor in terms:
                if total is None:
                    total = factor[i] * d[r]
                else:
                    total.addcmul_(factor[i], d[r])
            found.append(total)
        return found


def _depth(results: list[Result], index: int) -> int:
    through = results[index].through
    return 0 if through is None else 1 + _depth(results, through[0])


def _split(flags: list[bool]) -> list[tuple[int, int, bool]]:
    """Return the runs `[first, end)` of equal flags."""
    runs: list[tuple[int, int, bool]] = []
    for i, flag in enumerate(flags):
        if runs and runs[-1][2] == flag:
            runs[-1] = (runs[-1][0], i + 1, flag)
        else:
            runs.append((i, i + 1, flag))
    return runs
