"""Expressions of equations as nodes of a graph, with the sizes that follow."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import NoReturn

from cellkit.equations.declare import Value
from cellkit.equations.errors import wrong
from cellkit.equations.expand import Scope
from cellkit.equations.functions import FUNCTIONS
from cellkit.equations.graph import Graph, Node
from cellkit.equations.names import Names
from cellkit.equations.sizes import ONE, Size, Sizes, Unequal
from cellkit.equations.syntax import (
    Binary,
    Call,
    Compare,
    Concatenation,
    Conditional,
    Expression,
    Function,
    Indicator,
    Logical,
    Name,
    Negative,
    Number,
    Place,
)
from cellkit.registry.names import did_you_mean

__all__ = ["Environment", "Expressions"]

MAX_NODES = 20_000
MAX_STEPS = 200_000
MAX_NESTING = 150

Environment = Mapping[str, int]
"""The nodes of the arguments of a function."""

_ARITHMETIC: dict[str, tuple[str, Callable[[float, float], float]]] = {
    "+": ("add", operator.add),
    "-": ("subtract", operator.sub),
    "*": ("multiply", operator.mul),
    "/": ("divide", operator.truediv),
    "^": ("power", operator.pow),
}
_COMPARED: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


class Expressions:
    """Makes nodes of expressions. What names and products with matrices are, a subclass says.

    Args:
        names: The text's lines and names.
        numbers: The value of every number.

    Attributes:
        graph: The graph.
        called: The functions of the text that are called.
    """

    def __init__(self, names: Names, numbers: Mapping[str, Value]) -> None:
        self.names, self.numbers = names, numbers
        self.declaration, self.source = names.declaration, names.source
        self.graph, self.sizes = Graph(), Sizes()
        self.called: set[str] = set()
        self._steps = self._nesting = self._line = 0
        self._calls: dict[tuple[str, tuple[int, ...], int], int] = {}

    def named(self, node: Name, scope: Scope, env: Environment) -> int:
        """Return the node of a name."""
        raise NotImplementedError

    def product(self, node: Binary, scope: Scope, env: Environment) -> int:
        """Return the product of a matrix with a vector."""
        raise NotImplementedError

    def weighed(self, index: int, other: int) -> int:
        """Return a node as it is multiplied with another one, element by element."""
        raise NotImplementedError

    def fail(self, place: Place, what: str, *, expected: str, fix: str) -> NoReturn:
        """Raise the error of a place in the text."""
        raise wrong(self.source, place, what, expected=expected, fix=fix)

    def add(
        self,
        op: str,
        args: tuple[int, ...] = (),
        value: object = None,
        *,
        size: Size | None,
        place: Place,
    ) -> int:
        """Return the node of an operation."""
        if len(self.graph.nodes) > MAX_NODES:
            self.too_large(place)
        return self.graph.add(op, args, value, size=size, place=place)

    def too_large(self, place: Place) -> NoReturn:
        """Refuse equations that compute too much."""
        self.fail(
            place,
            "The equations compute too much in one step.",
            expected=f"at most {MAX_NODES} operations, and functions up to {MAX_NESTING} deep",
            fix="use matrices in place of families, and repeat less often",
        )

    def unequal(self, one: Size, other: Size, here: Place, there: Place) -> ValueError:
        """Return the error of two sizes that do not fit, with the places that disagree."""
        one, other = self.sizes.resolve(one), self.sizes.resolve(other)
        return wrong(
            self.source,
            here,
            "Two vectors of different sizes do not fit together.",
            expected=f"equal sizes; here they are `{one}` and `{other}`",
            fix="multiply one of them with a matrix, or declare its size, "
            "for example sizes={'P': 'projection_units'}",
            other=there,
        )

    def vector(self, node: Expression, scope: Scope, env: Environment) -> int:
        """Return the node of an expression that is a number or a vector."""
        index = self.value(node, scope, env)
        if self.graph.is_condition(index):
            self.fail(
                node.place,
                "A condition stands in the place of a number.",
                expected="a number or a vector",
                fix="write `1[condition]`, or `where(condition, a, b)`",
            )
        return index

    def condition(self, node: Expression, scope: Scope, env: Environment) -> int:
        """Return the node of an expression that is true or false."""
        index = self.value(node, scope, env)
        if not self.graph.is_condition(index):
            self.fail(
                node.place,
                "A number stands in the place of a condition.",
                expected="a comparison such as `u > threshold`",
                fix="compare the number with another one",
            )
        return index

    def value(self, node: Expression, scope: Scope, env: Environment) -> int:
        """Return the node of an expression."""
        self._steps += 1
        self._nesting += 1
        if self._steps > MAX_STEPS or self._nesting > MAX_NESTING:
            self.too_large(node.place)
        try:
            return self._value(node, scope, env)
        finally:
            self._nesting -= 1

    def _value(self, node: Expression, scope: Scope, env: Environment) -> int:
        place = node.place
        if isinstance(node, Number):
            return self.constant(node.value, place)
        if isinstance(node, Name):
            return self.named(node, scope, env)
        if isinstance(node, Negative):
            inner = self.vector(node.operand, scope, env)
            value = self.graph.constant(inner)
            if value is not None:
                return self.constant(-value, place)
            return self.add("negative", (inner,), size=self.graph.sizes[inner], place=place)
        if isinstance(node, Binary):
            return self.binary(node, scope, env)
        if isinstance(node, Compare):
            pair = (self.vector(node.left, scope, env), self.vector(node.right, scope, env))
            return self.compared(node, pair)
        if isinstance(node, Logical):
            return self.logical(node, scope, env)
        if isinstance(node, Conditional):
            return self.where(node, (node.condition, node.yes, node.no), scope, env)
        if isinstance(node, Indicator):
            inner = self.condition(node.condition, scope, env)
            value = self.graph.constant(inner)
            if value is not None:
                return self.constant(float(value), place)
            return self.add("indicator", (inner,), size=self.graph.sizes[inner], place=place)
        if isinstance(node, Concatenation):
            return self.concatenated(node, [self.vector(p, scope, env) for p in node.parts])
        return self.call(node, scope, env)

    def constant(self, value: float | bool, place: Place) -> int:
        """Return the node of a number or a flag that is known now."""
        if isinstance(value, complex) or not math.isfinite(value):
            self.fail(
                place,
                "A calculation with numbers alone has no finite result.",
                expected="real numbers below 1.8e308",
                fix="change the numbers",
            )
        value = value if isinstance(value, bool) else float(value)
        return self.add("constant", (), value, size=None, place=place)

    # Operations ------------------------------------------------------------------------------

    def binary(self, node: Binary, scope: Scope, env: Environment) -> int:
        """Return the node of two operands and an operator."""
        if node.operator == "@":
            return self.product(node, scope, env)
        if self.is_euler(node, scope, env):
            inner = self.vector(node.right, scope, env)
            size = self.graph.sizes[inner]
            return self.add("call", (inner,), "exp", size=size, place=node.place)
        left = self.vector(node.left, scope, env)
        right = self.vector(node.right, scope, env)
        if node.operator == "*":
            left, right = self.weighed(left, right), self.weighed(right, left)
        if node.operator == "mod":
            size = self.elementwise(node.place, (node.left, node.right), (left, right))
            return self.add("call", (left, right), "mod", size=size, place=node.place)
        op, function = _ARITHMETIC[node.operator]
        one, other = self.graph.constant(left), self.graph.constant(right)
        if one is not None and other is not None:
            try:
                result = function(one, other)
            except (ZeroDivisionError, OverflowError):
                result = math.inf
            return self.constant(result, node.place)
        size = self.elementwise(node.place, (node.left, node.right), (left, right))
        index = self.add(op, (left, right), size=size, place=node.place)
        return self.normalized(index) if op == "divide" else index

    def is_euler(self, node: Binary, scope: Scope, env: Environment) -> bool:
        """Tell whether an expression is a power of Euler's number."""
        left = node.left
        if node.operator != "^" or not isinstance(left, Name) or left.name != "e" or "e" in env:
            return False
        return self.names.meaning(left, scope, self._line).kind == "parameter"

    def elementwise(
        self, place: Place, operands: tuple[Expression, ...], args: tuple[int, ...]
    ) -> Size | None:
        """Return the size of vectors combined element by element."""
        size: Size | None = None
        first = place
        for operand, index in zip(operands, args, strict=True):
            own = self.graph.sizes[index]
            if own is None:
                continue
            if size is None:
                size, first = own, operand.place
                continue
            try:
                size = self.sizes.broadcast(size, own)
            except Unequal:
                raise self.unequal(size, own, first, operand.place) from None
        return size

    def normalized(self, index: int) -> int:
        """Return one operation for ``(v - mean(v)) / sqrt(var(v) + epsilon)``, if it is that."""
        nodes = self.graph.nodes
        above, below = (nodes[i] for i in nodes[index].args)
        if above.op != "subtract" or (below.op, below.value) != ("call", "sqrt"):
            return index
        v, mean = above.args
        inner = nodes[below.args[0]]
        if nodes[mean] != Node("call", (v,), "mean") or inner.op != "add":
            return index
        var, epsilon = inner.args
        if nodes[var] != Node("call", (v,), "var"):
            return index
        if nodes[epsilon].op not in ("number", "constant"):
            return index
        size, place = self.graph.sizes[v], self.graph.places[index]
        return self.add("normalize", (v, epsilon), size=size, place=place)

    def concatenated(self, node: Concatenation, parts: list[int]) -> int:
        """Return vectors one after the other."""
        total = Size()
        for part, index in zip(node.parts, parts, strict=True):
            size = self.graph.sizes[index]
            if size is None or self.graph.is_condition(index):
                self.fail(
                    part.place,
                    "Something that is not a vector is to be put beside others.",
                    expected="vectors, `[x; h]`",
                    fix="leave it out of the brackets",
                )
            total = total + size
        return self.add("concatenate", tuple(parts), size=total, place=node.place)

    def compared(self, node: Compare, pair: tuple[int, int]) -> int:
        """Return the node of a comparison."""
        one, other = (self.graph.constant(i) for i in pair)
        if one is not None and other is not None:
            return self.constant(_COMPARED[node.operator](one, other), node.place)
        size = self.elementwise(node.place, (node.left, node.right), pair)
        return self.add(node.operator, pair, size=size, place=node.place)

    def logical(self, node: Logical, scope: Scope, env: Environment) -> int:
        """Return the node of conditions joined."""
        args = tuple(self.condition(o, scope, env) for o in node.operands)
        values = [self.graph.constant(i) for i in args]
        if all(value is not None for value in values):
            result = all(values) if node.operator == "and" else any(values)
            return self.constant(not values[0] if node.operator == "not" else result, node.place)
        size = self.elementwise(node.place, node.operands, args)
        return self.add(node.operator, args, size=size, place=node.place)

    def where(
        self, node: Expression, parts: tuple[Expression, ...], scope: Scope, env: Environment
    ) -> int:
        """Return the node of a choice; a known condition chooses now."""
        condition = self.condition(parts[0], scope, env)
        known = self.graph.constant(condition)
        if known is not None:
            return self.vector(parts[1] if known else parts[2], scope, env)
        args = (condition, *(self.vector(p, scope, env) for p in parts[1:]))
        size = self.elementwise(node.place, parts, args)
        return self.add("where", args, size=size, place=node.place)

    # Calls -----------------------------------------------------------------------------------

    def call(self, node: Call, scope: Scope, env: Environment) -> int:
        """Return what a function gives."""
        function = self.names.functions.get(node.function)
        if function is not None:
            return self.call_own(node, function, scope, env)
        kind = FUNCTIONS.get(node.function)
        if kind is None:
            known = [*FUNCTIONS, *self.names.functions]
            self.fail(
                node.place,
                f"There is no function `{node.function}`.",
                expected="one of " + ", ".join(sorted(known)),
                fix=did_you_mean(node.function, known)
                + "define it on a line of its own, `f(v) = ...`, or write a product with `*`",
            )
        if not kind.least <= len(node.arguments) <= kind.most:
            count = f"{kind.least}" if kind.least == kind.most else f"{kind.least} to {kind.most}"
            self._arguments(node, count)
        if node.function == "where":
            return self.where(node, node.arguments, scope, env)
        if node.function == "repeat":
            return self.repeated(node, scope, env)
        if kind.shape == "special":
            self.fail(
                node.place,
                "`split` shares one vector among several names, and stands alone.",
                expected="a line such as `i, f = split(W @ x)`",
                fix="write the split on a line of its own",
            )
        args = tuple(self.vector(a, scope, env) for a in node.arguments)
        single = kind.shape == "single" or (node.function in ("max", "min") and len(args) == 1)
        size = self.elementwise(node.place, node.arguments, args)
        if kind.shape == "vector" or single:
            if size is None:
                self.fail(
                    node.place,
                    f"`{node.function}` is taken of a vector, not of a single number.",
                    expected="an input, a state, or what is made of them",
                    fix="leave the function out",
                )
            size = ONE if single else size
        return self.add("call", args, node.function, size=size, place=node.place)

    def _arguments(self, node: Call, count: str) -> NoReturn:
        self.fail(
            node.place,
            f"`{node.function}` does not take {len(node.arguments)} argument(s).",
            expected=f"{count} argument(s)",
            fix="separate arguments by commas",
        )

    def call_own(self, node: Call, function: Function, scope: Scope, env: Environment) -> int:
        """Return what a function of the text gives."""
        if len(node.arguments) != len(function.arguments):
            self._arguments(node, str(len(function.arguments)))
        self.called.add(function.name)
        args = tuple(self.value(a, scope, env) for a in node.arguments)
        key = (function.name, args, self._line)
        if key not in self._calls:
            inner = dict(zip(function.arguments, args, strict=True))
            self._calls[key] = self.value(function.value, Scope(), inner)
        return self._calls[key]

    def repeated(self, node: Call, scope: Scope, env: Environment) -> int:
        """Return a vector with each element several times beside itself."""
        index = self.vector(node.arguments[0], scope, env)
        size, count = self.graph.sizes[index], node.arguments[1]
        times: Value = None
        if isinstance(count, Number) and count.value.is_integer():
            times = int(count.value)
        elif isinstance(count, Name):
            number = scope.number(count.name)
            times = self.numbers.get(count.name) if number is None else number
        if not isinstance(times, int) or times < 1 or size is None:
            self.fail(
                node.place,
                "`repeat` does not know what to repeat, or how often.",
                expected="a vector, and an int of 1 or more or the name of such a number",
                fix="write `repeat(v, 2)`, or a line such as `chunk_size = 2`",
            )
        return self.add("repeat", (index,), times, size=size.times(times), place=node.place)
