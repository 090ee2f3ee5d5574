"""Linear recurrences: ``h' = a * h + b`` for every state, where a and b see no state."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cellkit.equations.graph import STATES, Graph
from cellkit.equations.sizes import Size

__all__ = ["Linear", "linear_form"]


@dataclasses.dataclass(frozen=True)
class Linear:
    """A recurrence that can be scanned.

    Args:
        a: For every state the node that its old value is multiplied with, or None for zero.
        b: For every state the node that is added, or None for zero.
    """

    a: Mapping[str, int | None]
    b: Mapping[str, int | None]


class _Refused(Exception):
    """Raised where a state is not linear in its old value."""


def linear_form(
    graph: Graph, old: Mapping[str, int], new: Mapping[str, int], output: int
) -> Linear | None:
    """Return the linear form of a step, or None where it has none.

    The nodes of a and b are added to the graph.

    Args:
        graph: The step.
        old: The old states.
        new: The new states.
        output: The output, which may be made of new states and of inputs.
    """
    finder = _Finder(graph)
    found: dict[str, tuple[int | None, int | None]] = {}
    try:
        for state, node in new.items():
            found[state] = finder.split(node, old[state], {})
    except _Refused:
        return None
    if all(a is None for a, _ in found.values()):
        return None  # there is no recurrence to scan
    news = frozenset(new.values())
    if any(graph.nodes[i].op == "state" for i in graph.below([output], leaves=news)):
        return None
    return Linear({s: a for s, (a, _) in found.items()}, {s: b for s, (_, b) in found.items()})


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def split(
        self, index: int, old: int, known: dict[int, tuple[int | None, int | None]]
    ) -> tuple[int | None, int | None]:
        """Return what the old state is multiplied with in a node, and what is added."""
        if index not in known:
            known[index] = self._split(index, old, known)
        return known[index]

    def _split(
        self, index: int, old: int, known: dict[int, tuple[int | None, int | None]]
    ) -> tuple[int | None, int | None]:
        graph = self.graph
        node = graph.nodes[index]
        if graph.levels[index] < STATES:
            return None, index
        if index == old:
            return self.make("constant", (), index, 1.0), None
        if node.op == "negative":
            a, b = self.split(node.args[0], old, known)
            return self.negative(a, index), self.negative(b, index)
        if node.op in ("add", "subtract"):
            (a, b), (c, d) = (self.split(i, old, known) for i in node.args)
            return self.sum(node.op, a, c, index), self.sum(node.op, b, d, index)
        if node.op == "multiply":
            factor, rest = sorted(node.args, key=lambda i: graph.levels[i])
            if graph.levels[factor] < STATES:
                a, b = self.split(rest, old, known)
                return self.product(a, factor, index), self.product(b, factor, index)
        if node.op == "divide" and graph.levels[node.args[1]] < STATES:
            a, b = self.split(node.args[0], old, known)
            return self.quotient(a, node.args[1], index), self.quotient(b, node.args[1], index)
        if node.op == "where" and graph.levels[node.args[0]] < STATES:
            (a, b), (c, d) = (self.split(i, old, known) for i in node.args[1:])
            condition = node.args[0]
            return self.choice(condition, a, c, index), self.choice(condition, b, d, index)
        raise _Refused

    def make(self, op: str, args: tuple[int, ...], like: int, value: object = None) -> int:
        graph = self.graph
        sizes = [graph.sizes[i] for i in args]
        # Wider than a single element, if one of the arguments is.
        size: Size | None = max(sizes, key=_width, default=None)
        return graph.add(op, args, value, size=size, place=graph.places[like])

    def zero(self, like: int) -> int:
        return self.make("constant", (), like, 0.0)

    def negative(self, x: int | None, like: int) -> int | None:
        return None if x is None else self.make("negative", (x,), like)

    def sum(self, op: str, x: int | None, y: int | None, like: int) -> int | None:
        if y is None:
            return x
        if x is None:
            return y if op == "add" else self.negative(y, like)
        return self.make(op, (x, y), like)

    def product(self, x: int | None, factor: int, like: int) -> int | None:
        if x is None or self.graph.constant(x) == 1.0:
            return x if x is None else factor
        return self.make("multiply", (factor, x), like)

    def quotient(self, x: int | None, divisor: int, like: int) -> int | None:
        return None if x is None else self.make("divide", (x, divisor), like)

    def choice(self, condition: int, x: int | None, y: int | None, like: int) -> int | None:
        if x is None and y is None:
            return None
        yes = self.zero(like) if x is None else x
        no = self.zero(like) if y is None else y
        return self.make("where", (condition, yes, no), like)


def _width(size: Size | None) -> int:
    if size is None:
        return 0
    return 1 if size.number == 1 else 2
