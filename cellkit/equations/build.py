"""The graph of a step, made line by line: what names stand for, and how weights are used."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from cellkit.equations.declare import Value
from cellkit.equations.errors import wrong
from cellkit.equations.expand import Line, Scope
from cellkit.equations.expressions import Environment, Expressions
from cellkit.equations.names import Names
from cellkit.equations.sizes import ONE, Size, Unequal
from cellkit.equations.syntax import (
    Binary,
    Concatenation,
    Expression,
    Name,
    Place,
    walk,
)

__all__ = ["Builder", "Use"]

# Small Greek letters that stand for single numbers, where they stand alone.
SCALARS = frozenset("alpha beta delta epsilon eps zeta eta theta kappa nu xi rho".split())


@dataclasses.dataclass
class Use:
    """The uses of a parameter in a text.

    Args:
        matrix: True if it is applied with ``@``.
        shape: Its sizes.
        place: The place of its first use.
        node: Its node, unless it is a matrix.
        operands: Of a matrix: what it is applied to.
        places: The places where it is applied to each of them.
        of_inputs: Those of them that go by the name of an input.
    """

    matrix: bool
    shape: tuple[Size, ...]
    place: Place
    node: int = -1
    operands: list[int] = dataclasses.field(default_factory=list)
    places: dict[int, Place] = dataclasses.field(default_factory=dict)
    of_inputs: set[int] = dataclasses.field(default_factory=set)


def _written_out(names: Names) -> dict[str, Any]:
    """Return the declared sizes, those of a family such as ``P_k`` for each of its members."""
    declared = dict(names.declaration.sizes)
    for line in names.lines:
        for name, size in names.declaration.sizes.items():
            declared.setdefault(line.scope.name(name), size)
    return declared


class Builder(Expressions):
    """Makes the graph of a text.

    Args:
        names: The text's lines and names.
        numbers: The value of every number.
        drop_elements: True if recurrent dropout applies where a vector weighs a state.

    Attributes:
        graph: The graph.
        values: The nodes of the names on the left, by number of line and of name.
        inputs: The nodes of the inputs.
        old: The nodes of the old states.
        drops: True if recurrent dropout applies to anything.
        uses: The uses of parameters, by their names.
        order: The names of the parameters in the order of the text.
    """

    def __init__(
        self, names: Names, numbers: Mapping[str, Value], drop_elements: bool = False
    ) -> None:
        super().__init__(names, numbers)
        self.drop_elements = drop_elements
        self.values: dict[tuple[int, int], int] = {}
        self.uses: dict[str, Use] = {}
        self.declared = _written_out(names)
        self.scalars = {n for n, size in self.declared.items() if size == ()}
        self.drops = False
        self._splits: list[tuple[int, tuple[str, ...]]] = []
        self.inputs = {
            name: self._input(name, i) for i, name in enumerate(self.declaration.input_names)
        }
        self.old = {
            name: self.add("state", (), name, size=self._declared(name), place=self._place(name))
            for name in names.states
        }
        for number in names.order:
            self._define(number)
        self.order = self._parameter_order()

    # Names -----------------------------------------------------------------------------------

    def _input(self, name: str, position: int) -> int:
        size: Size | None = None
        if name in self.declared:
            size = self._declared(name)
        elif position == 0:
            size = Size.of("features")
        else:
            size = Size.of(f"{name}_features") if self._is_vector(name) else ONE
        return self.add("input", (), name, size=size, place=Place(1, 0, 1))

    def _is_vector(self, name: str) -> bool:
        """Tell whether a further input goes into a product or a concatenation."""
        for line in self.names.lines:
            for node in walk(line.value):
                parts: tuple[Expression, ...] = ()
                if isinstance(node, Binary) and node.operator == "@":
                    parts = (node.right,)
                elif isinstance(node, Concatenation):
                    parts = node.parts
                if any(isinstance(part, Name) and part.name == name for part in parts):
                    return True
        return False

    def _declared(self, name: str) -> Size:
        """Return the declared size of a name, or one that is not known yet."""
        size = self.declared.get(name)
        return self.sizes.new() if size is None or size == () else Size.of(size)

    def _place(self, state: str) -> Place:
        line, target = self.names.defined[state, True][0]
        return self.names.lines[line].places[target]

    def _parameter_order(self) -> list[str]:
        found: dict[str, None] = {}
        for number in range(len(self.names.lines)):
            for node, scope in self.names.used(number):
                if node.name == "e" and "e" not in self.uses:
                    continue
                meaning = self.names.meaning(node, scope, number)
                if meaning.name in self.uses:
                    found[meaning.name] = None
        return list(found)

    def parts_of(self, name: str) -> tuple[str, ...]:
        """Return the names among which a split shares a parameter, if one does."""
        use = self.uses[name]
        for node, names in self._splits:
            size = self.graph.sizes[node]
            if not use.shape or use.shape[-1] != size:
                continue
            below = self.graph.below([node])
            if use.node in below or any(
                self.graph.nodes[i].op == "product" and self.graph.nodes[i].value == name
                for i in below
            ):
                return names
        return ()

    # Lines -----------------------------------------------------------------------------------

    def _define(self, number: int) -> None:
        line, self._line = self.names.lines[number], number
        plain = not line.splits and not line.targets[0][1]
        make = self.value if plain else self.vector  # a condition may have a name
        node = make(line.value, line.scope, {})
        if line.splits:
            self._split(number, line, node)
            return
        name, primed = line.targets[0]
        size = self.graph.sizes[node]
        place = line.places[0]
        if primed:
            old = self.old[name]
            if size is not None:
                self._equal(size, self._size(old), line.value.place, self.graph.places[old])
        elif name in self.declared and size is not None:
            self._equal(size, self._declared(name), line.value.place, place)
        self._name(number, 0, name + "'" * primed, node)

    def _split(self, number: int, line: Line, node: int) -> None:
        size, part = self.graph.sizes[node], self.sizes.new()
        count = len(line.targets)
        if size is None:
            self.fail(
                line.value.place,
                "A single number can't be split.",
                expected="a vector, such as a product with a matrix",
                fix="split a product, `i, f = split(W @ x)`",
            )
        self._equal(size, part.times(count), line.value.place, line.places[0])
        self._splits.append((node, tuple(name for name, _ in line.targets)))
        for target, (name, primed) in enumerate(line.targets):
            place = line.places[target]
            piece = self.add("part", (node,), (target, count), size=part, place=place)
            if primed:
                self._equal(part, self._size(self.old[name]), place, place)
            self._name(number, target, name + "'" * primed, piece)

    def _name(self, number: int, target: int, name: str, node: int) -> None:
        self.values[number, target] = node
        self.graph.names.setdefault(node, []).append(name)

    def _size(self, node: int) -> Size:
        return self.graph.sizes[node] or ONE

    def _equal(self, one: Size, other: Size, here: Place, there: Place) -> None:
        try:
            self.sizes.equal(one, other)
        except Unequal:
            raise self.unequal(one, other, here, there) from None

    # Weights ---------------------------------------------------------------------------------

    def named(self, node: Name, scope: Scope, env: Environment) -> int:
        """Return the node of a name."""
        if not node.primed and node.name in env:
            return env[node.name]
        meaning = self.names.meaning(node, scope, self._line)
        if meaning.kind == "index":
            return self.constant(float(meaning.number), node.place)
        if meaning.kind == "pi":
            return self.constant(math.pi, node.place)
        if meaning.kind == "line":
            return self.values[meaning.line, meaning.target]
        if meaning.kind == "state":
            return self.old[meaning.name]
        if meaning.kind == "input":
            return self.inputs[meaning.name]
        name = meaning.name
        if meaning.kind == "number" and name not in self.declaration.trainable:
            return self.add("number", (), name, size=None, place=node.place)
        if meaning.kind == "size":
            return self.add("size", (), name, size=None, place=node.place)
        return self.parameter(name, node.place, meaning.kind == "number")

    def parameter(self, name: str, place: Place, scalar: bool) -> int:
        """Return the node of a parameter that is not a matrix."""
        use = self.uses.get(name)
        if use is None:
            scalar = scalar or name in self.scalars
            if name in SCALARS and name not in self.declared:
                # Beside a gamma, beta is the shift of a normalisation.
                scalar = not (name == "beta" and self._has("gamma"))
            size = None if scalar else self._declared(name)
            index = self.add("parameter", (), name, size=size, place=place)
            self.uses[name] = Use(False, () if size is None else (size,), place, index)
            return index
        if use.matrix:
            self._two_roles(name, place, use.place)
        return use.node

    def _has(self, name: str) -> bool:
        """Tell whether the text uses a name that it does not define."""
        defined = (name, False) in self.names.defined
        used = (
            n.name for line in self.names.lines for n in walk(line.value) if isinstance(n, Name)
        )
        return not defined and name in used

    def _two_roles(self, name: str, place: Place, other: Place) -> NoReturn:
        raise wrong(
            self.source,
            place,
            f"`{name}` is used in two roles: as a matrix and as a vector.",
            expected=f"products `{name} @ ...` alone, or elementwise ones alone",
            fix="give one of the two another letter",
            other=other,
        )

    def weighed(self, index: int, other: int) -> int:
        """Return a state on its way into a product with a vector of weights."""
        node, weight = self.graph.nodes[index], self.graph.nodes[other]
        recurrent = self.drop_elements and (node.op, weight.op) == ("state", "parameter")
        return self.drop(index, node.value) if recurrent else index

    def drop(self, index: int, name: str) -> int:
        """Return a state on its way into a product, where recurrent dropout applies."""
        self.drops = True
        size, place = self.graph.sizes[index], self.graph.places[index]
        return self.add("drop", (index,), name, size=size, place=place)

    def product(self, node: Binary, scope: Scope, env: Environment) -> int:
        """Return the product of a matrix with a vector."""
        left = node.left
        if not isinstance(left, Name) or left.name in env:
            self.fail(
                left.place,
                "Something other than a weight stands on the left of `@`.",
                expected="the letter of a matrix, such as `W @ x`",
                fix="write elementwise products with `*`",
            )
        meaning = self.names.meaning(left, scope, self._line)
        if meaning.kind != "parameter":
            self.fail(
                left.place,
                f"`{left}` stands on the left of `@`, and is not a weight.",
                expected="the letter of a matrix that nothing defines, such as `W @ x`",
                fix="write elementwise products with `*`, or give the matrix another letter",
            )
        operand = self.operand(node.right, scope, env)
        inner = self.graph.sizes[operand]
        if inner is None or self.graph.is_condition(operand):
            self.fail(
                node.right.place,
                "A matrix is applied to something that is not a vector.",
                expected="an input, a state, or what is made of them",
                fix="write the product with a number as `a * v`",
            )
        name, use = meaning.name, self.uses.get(meaning.name)
        if use is None:
            shape = (self.sizes.new(), self._declared(name))
            use = self.uses[name] = Use(True, shape, left.place)
        if not use.matrix:
            self._two_roles(name, left.place, use.place)
        try:
            self.sizes.equal(use.shape[0], inner)
        except Unequal:
            raise self.unequal(inner, use.shape[0], node.right.place, use.place) from None
        if operand not in use.operands:
            use.operands.append(operand)
            use.places[operand] = left.place
            if isinstance(node.right, Name) and node.right.name in self.inputs:
                use.of_inputs.add(operand)
        return self.add("product", (operand,), name, size=use.shape[1], place=left.place)

    def operand(self, node: Expression, scope: Scope, env: Environment) -> int:
        """Return what a matrix is applied to, with recurrent dropout of the states in it."""
        if isinstance(node, Binary) and node.operator == "*":
            pair = (self.operand(node.left, scope, env), self.operand(node.right, scope, env))
            size = self.elementwise(node.place, (node.left, node.right), pair)
            return self.add("multiply", pair, size=size, place=node.place)
        if isinstance(node, Concatenation):
            return self.concatenated(node, [self.operand(p, scope, env) for p in node.parts])
        index = self.vector(node, scope, env)
        if self.graph.nodes[index].op == "state":
            return self.drop(index, self.graph.nodes[index].value)
        if isinstance(node, Name) and not node.primed and node.name not in env:
            meaning = self.names.meaning(node, scope, self._line)
            if meaning.kind == "line" and meaning.name in self.old:
                return self.drop(index, meaning.name)
        return index
