"""The dataflow of one step: what is computed from what, each value once.

A `Graph` holds `Node` after `Node`; arguments stand before what is made of them. Equal nodes are
one and the same, so two products with one operand are seen to have it in common.

Operations by their names, with `Node.value`:

- "constant" (a number or a flag), "number" and "size" (a name): known when a cell is made;
- "parameter", "input", "state" (a name): where everything else starts, a state with its old value;
- "product" (the name of a matrix) of a vector;
- "drop" (a name): a state on its way into a product, where recurrent dropout applies;
- "add", "subtract", "multiply", "divide", "power", "negative";
- "<", "<=", ">", ">=", "==", "!=", "and", "or", "not": conditions;
- "where" of a condition and two values, "indicator" of a condition;
- "call" (the name of a function in `cellkit.equations.functions`);
- "normalize" of a vector and an epsilon: shifted and scaled to mean zero and variance one;
- "concatenate", "repeat" (how often each element stands beside itself), "part" (which one, of how
  many) of a split.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from cellkit.equations.sizes import Size
from cellkit.equations.syntax import Place

__all__ = ["INPUTS", "STATES", "STATIC", "WEIGHTS", "Graph", "Node"]

STATIC, WEIGHTS, INPUTS, STATES = range(4)
"""The things that a node depends on: numbers alone, weights, inputs, or old states."""

CONDITIONS = frozenset("< <= > >= == != and or not".split())

_LEVELS = {
    "constant": STATIC,
    "number": STATIC,
    "size": STATIC,
    "parameter": WEIGHTS,
    "input": INPUTS,
    "state": STATES,
    "product": WEIGHTS,
}


@dataclasses.dataclass(frozen=True)
class Node:
    """One value.

    Args:
        op: The operation.
        args: The nodes of its arguments.
        value: Further data of the operation.
    """

    op: str
    args: tuple[int, ...] = ()
    value: Any = None


class Graph:
    """The nodes of a step.

    Attributes:
        nodes: The nodes.
        sizes: The size of each; None for a single number that all rows share.
        levels: The level of each.
        places: The place where each was first written.
        names: The names that the text gives to nodes.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.sizes: list[Size | None] = []
        self.levels: list[int] = []
        self.places: list[Place] = []
        self.names: dict[int, list[str]] = {}
        self._index: dict[tuple[Node, type], int] = {}

    def add(
        self,
        op: str,
        args: tuple[int, ...] = (),
        value: Any = None,
        *,
        size: Size | None,
        place: Place,
    ) -> int:
        """Return the node of an operation, which is made if it is not there yet."""
        node = Node(op, args, value)
        key = (node, type(value))
        if key in self._index:
            return self._index[key]
        self.nodes.append(node)
        self.sizes.append(size)
        self.places.append(place)
        below = max((self.levels[a] for a in args), default=STATIC)
        self.levels.append(max(_LEVELS.get(op, STATIC), below))
        self._index[key] = len(self.nodes) - 1
        return len(self.nodes) - 1

    def is_condition(self, index: int) -> bool:
        """Tell whether a node is true or false."""
        node = self.nodes[index]
        return node.op in CONDITIONS or (node.op == "constant" and isinstance(node.value, bool))

    def constant(self, index: int) -> float | bool | None:
        """Return the value of a constant, or None."""
        node = self.nodes[index]
        return node.value if node.op == "constant" else None

    def below(self, roots: list[int], *, leaves: frozenset[int] = frozenset()) -> set[int]:
        """Return the nodes that others are made of, themselves included.

        Args:
            roots: The others.
            leaves: Nodes below which nothing counts.
        """
        found: set[int] = set()
        todo = list(roots)
        while todo:
            index = todo.pop()
            if index not in found:
                found.add(index)
                if index not in leaves:
                    todo.extend(self.nodes[index].args)
        return found

    def parents(self, among: set[int]) -> dict[int, list[int]]:
        """Return for every node those that are made of it, once for each time it is taken."""
        found: dict[int, list[int]] = {}
        for index in sorted(among):
            for argument in self.nodes[index].args:
                found.setdefault(argument, []).append(index)
        return found

    def terms(self, index: int) -> list[int]:
        """Return the terms of a sum, from left to right; of any other node the node itself."""
        found: list[int] = []
        todo = [index]
        while todo:
            at = todo.pop()
            if self.nodes[at].op == "add":
                todo.extend(reversed(self.nodes[at].args))
            else:
                found.append(at)
        return found
