"""Syntax tree of equations: what `parse` makes of a text, with the place of everything in it.

A text is a `Text` of statements:

- `Definition`: ``i, f = s(W @ x + U @ h + b)``, perhaps for a family (``for k = 0..7``);
- `Function`: ``norm(v) = v / sqrt(var(v) + epsilon)``;
- `Variant`: statements under ``reset_after=True:``;
- `Repeat`: statements under ``repeat depth:`` or ``repeat k = 1..rounds:``;
- `Guard`: statements of a repetition for odd or even numbers alone, ``odd k: ...``.

The right side of a definition is an expression: `Number`, `Name`, `Negative`, `Binary`, `Compare`,
`Logical`, `Call`, `Conditional`, `Indicator` (``1[u > 0]``) or `Concatenation` (``[x; h]``).

Nothing here knows what a name stands for; `cellkit.equations.analyse` finds that out. Trees compare
by what they say, without their places and remarks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TypeAlias

__all__ = [
    "Binary",
    "Call",
    "Compare",
    "Concatenation",
    "Conditional",
    "Definition",
    "Expression",
    "Family",
    "Function",
    "Guard",
    "Indicator",
    "Literal",
    "Logical",
    "Name",
    "Negative",
    "Number",
    "Place",
    "Repeat",
    "Statement",
    "Target",
    "Text",
    "Variant",
    "walk",
]

Literal: TypeAlias = bool | int | str
"""The value of an option."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A place in a text.

    Args:
        line: Number of the line, from 1.
        column: Column of the first character, from 0.
        length: Number of characters.
    """

    line: int
    column: int
    length: int


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A part of an expression.

    Args:
        place: The place of its main sign: the name, the operator, the function.
    """

    place: Place = dataclasses.field(compare=False, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Number(Node):
    """A number as it was written, such as ``1.7159``."""

    value: float


@dataclasses.dataclass(frozen=True, slots=True)
class Name(Node):
    """A name, with `primed` where it is followed by a prime: ``c'``."""

    name: str
    primed: bool = False

    def __str__(self) -> str:
        """Return the name as it is written."""
        return self.name + "'" * self.primed


@dataclasses.dataclass(frozen=True, slots=True)
class Negative(Node):
    """The negative of an operand."""

    operand: Expression


@dataclasses.dataclass(frozen=True, slots=True)
class Binary(Node):
    """Two operands and one of ``+ - * / ^ @ mod``; ``**`` is kept as ``^``, ``%`` as ``mod``."""

    operator: str
    left: Expression
    right: Expression


@dataclasses.dataclass(frozen=True, slots=True)
class Compare(Node):
    """Two operands and one of ``< <= > >= == !=``."""

    operator: str
    left: Expression
    right: Expression


@dataclasses.dataclass(frozen=True, slots=True)
class Logical(Node):
    """One or two conditions and one of ``and or not``."""

    operator: str
    operands: tuple[Expression, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Call(Node):
    """A function of its arguments, ``max(i, l)``."""

    function: str
    arguments: tuple[Expression, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Conditional(Node):
    """One of two values, ``a if c else b``; ``where(c, a, b)`` says the same."""

    condition: Expression
    yes: Expression
    no: Expression


@dataclasses.dataclass(frozen=True, slots=True)
class Indicator(Node):
    """One where a condition holds, zero elsewhere: ``1[u > threshold]``."""

    condition: Expression


@dataclasses.dataclass(frozen=True, slots=True)
class Concatenation(Node):
    """Vectors one after the other, ``[x; h]``."""

    parts: tuple[Expression, ...]


Expression: TypeAlias = (
    Number
    | Name
    | Negative
    | Binary
    | Compare
    | Logical
    | Call
    | Conditional
    | Indicator
    | Concatenation
)


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A name on the left side of a definition."""

    place: Place = dataclasses.field(compare=False, repr=False)
    name: str
    primed: bool = False

    def __str__(self) -> str:
        """Return the name as it is written."""
        return self.name + "'" * self.primed


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """The numbers that an index runs through, both ends included: ``for k = 0..7``.

    Args:
        place: Its place in the text.
        index: The letter of the index.
        first: The first number.
        last: The last one, or the name of a number.
    """

    place: Place = dataclasses.field(compare=False, repr=False)
    index: str
    first: int
    last: int | str


@dataclasses.dataclass(frozen=True, slots=True)
class Definition:
    """One or more names, and what they are.

    Args:
        place: The place of the left side.
        targets: The names on the left. Several share the right side, with weights of their own,
            unless the right side is a ``split(...)``.
        value: The right side.
        rebinds: True if a name gets a new meaning from here on, ``x := ...``.
        family: The index that the definition is repeated for.
        own: The weights of which each name on the left has its own, ``with own W, U each``. None:
            all.
        remark: The remark behind the definition.
    """

    place: Place = dataclasses.field(compare=False, repr=False)
    targets: tuple[Target, ...]
    value: Expression
    rebinds: bool = False
    family: Family | None = None
    own: tuple[str, ...] | None = None
    remark: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Function:
    """A function of the text itself: its name, its arguments, and what it gives."""

    place: Place = dataclasses.field(compare=False, repr=False)
    name: str
    arguments: tuple[str, ...]
    value: Expression
    remark: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    """Statements that hold when an option of the cell has a certain value."""

    place: Place = dataclasses.field(compare=False, repr=False)
    option: str
    value: Literal
    body: tuple[Statement, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Repeat:
    """Statements that are gone through several times.

    Args:
        place: The place of the head.
        index: The letter that counts, or None.
        first: Its first number.
        last: Its last one, or the name of a number.
        body: The statements.
    """

    place: Place = dataclasses.field(compare=False, repr=False)
    index: str | None
    first: int
    last: int | str
    body: tuple[Statement, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Guard:
    """Statements of a repetition for odd, or for even, numbers of its index alone."""

    place: Place = dataclasses.field(compare=False, repr=False)
    index: str
    odd: bool
    body: tuple[Statement, ...]


Statement: TypeAlias = Definition | Function | Variant | Repeat | Guard


@dataclasses.dataclass(frozen=True)
class Text:
    """A parsed text.

    Args:
        source: The text itself, without the indentation that all its lines share.
        statements: Its statements, in their order.
    """

    source: str = dataclasses.field(compare=False)
    statements: tuple[Statement, ...]

    @property
    def options(self) -> dict[str, tuple[Literal, ...]]:
        """The options of the variants with their values, the default first."""
        found: dict[str, dict[tuple[type, Literal], Literal]] = {}
        for statement in _all(self.statements):
            if isinstance(statement, Variant):
                # True and 1 are equal, and not the same.
                key = (type(statement.value), statement.value)
                found.setdefault(statement.option, {})[key] = statement.value
        return {name: tuple(values.values()) for name, values in found.items()}


def _all(statements: tuple[Statement, ...]) -> Iterator[Statement]:
    for statement in statements:
        yield statement
        if isinstance(statement, (Variant, Repeat, Guard)):
            yield from _all(statement.body)


def children(node: Expression) -> tuple[Expression, ...]:
    """Return the parts that an expression is made of, in their order."""
    if isinstance(node, Negative):
        return (node.operand,)
    if isinstance(node, (Binary, Compare)):
        return (node.left, node.right)
    if isinstance(node, Logical):
        return node.operands
    if isinstance(node, Call):
        return node.arguments
    if isinstance(node, Conditional):
        return (node.condition, node.yes, node.no)
    if isinstance(node, Indicator):
        return (node.condition,)
    if isinstance(node, Concatenation):
        return node.parts
    return ()


def walk(node: Expression) -> Iterator[Expression]:
    """Yield an expression and all of its parts, from left to right."""
    yield node
    for child in children(node):
        yield from walk(child)
