"""Declarations beside the equations themselves: inputs, states, sizes, numbers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cellkit.equations.errors import wrong
from cellkit.equations.parse import parse
from cellkit.equations.syntax import (
    Binary,
    Call,
    Definition,
    Expression,
    Guard,
    Literal,
    Name,
    Negative,
    Number,
    Place,
    Repeat,
    Statement,
    Text,
    Variant,
    walk,
)
from cellkit.errors import problem
from cellkit.registry.names import listed

__all__ = ["Declaration", "Value", "declare"]

Value = float | int | None
"""A number with its default; None where it has none."""

NAME = re.compile(r"[^\W\d]\w*~?")


@dataclasses.dataclass(frozen=True)
class Declaration:
    """A text of equations, and what was said beside it.

    Args:
        name: Of the cell.
        text: The equations.
        inputs: The names of the inputs, in the structure that the layer takes them in.
        states: The names of the states in their order, or None for that of the text.
        output: The name of what is given out, or None for the rule of the language.
        sizes: Sizes by name: of what a matrix makes, or of a vector. A number, the name of a size,
            or an empty tuple for a parameter that is a single number.
        numbers: The numbers that are arguments of the constructor, with their defaults.
        trainable: The names of those that are trained.
        places: The places of the numbers that have a line of the text.
        counts: Those that say how often something is repeated.
    """

    name: str
    text: Text
    inputs: Any
    states: tuple[str, ...] | None
    output: str | None
    sizes: Mapping[str, Any]
    numbers: Mapping[str, Value]
    trainable: frozenset[str]
    places: Mapping[str, Place]
    counts: frozenset[str]

    @property
    def source(self) -> str:
        """The text as it was written."""
        return self.text.source

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs, one after the other."""
        return tuple(leaves(self.inputs))

    @property
    def options(self) -> dict[str, tuple[Literal, ...]]:
        """The options of the text's variants with their values, the default first."""
        return self.text.options

    @property
    def size_names(self) -> tuple[str, ...]:
        """The named sizes that are arguments of the constructor."""
        own = [size for size in self.sizes.values() if isinstance(size, str)]
        return tuple(name for name in dict.fromkeys(own) if name not in ("units", "features"))


def leaves(structure: Any) -> Iterator[str]:
    """Yield the names in a structure, in the order in which it was written."""
    if isinstance(structure, str):
        yield structure
        return
    children = structure.values() if isinstance(structure, Mapping) else structure
    for child in children:
        yield from leaves(child)


def declare(
    name: str,
    text: str,
    *,
    inputs: Any = "x",
    states: tuple[str, ...] | None = None,
    output: str | None = None,
    sizes: Mapping[str, Any] | None = None,
    numbers: Mapping[str, Value] | None = None,
    trainable: tuple[str, ...] = (),
) -> Declaration:
    """Parse a text, and check what is declared beside it; see `Declaration`.

    Raises:
        ValueError: The text is not well formed, or a declaration does not fit.
    """
    tree = parse(text)
    inputs = _checked_inputs(inputs)
    states = None if states is None else _checked_names("states", states)
    trainable = _checked_names("trainable", trainable) if trainable else ()
    sizes = _checked_sizes(sizes or {})
    given = _checked_numbers(numbers or {})
    in_text, places = _numbers_of(tree)
    for number in given:
        in_text.pop(number, None)
    found: dict[str, Value] = {**in_text, **given}
    counts = frozenset(_counts(tree.statements))
    for count in sorted(counts):
        if count not in sizes.values() and count not in leaves(inputs):
            found.setdefault(count, None)
    for known in ("epsilon", "eps"):
        if known not in found and known in _used(tree):
            found[known] = 1e-5
    for number in trainable:
        if number not in found:
            raise problem(
                "A number that is to be trained is none of the numbers.",
                received=f"trainable={trainable!r}",
                expected=f"names of numbers with a default: {listed(found) or 'there are none'}",
                fix=f"give it a default, for example by a line `{number} = 1.0`",
            )
    taken = set(leaves(inputs)) | {s for s in sizes.values() if isinstance(s, str)}
    for number in found:
        if number in taken or number in tree.options:
            raise problem(
                "A number has the name of something else.",
                received=f"the number {number!r}",
                expected="a name that no input, no size and no option has",
                fix="rename one of the two",
            )
    return Declaration(
        name, tree, inputs, states, output, sizes, found, frozenset(trainable), places, counts
    )


def _checked_inputs(inputs: Any) -> Any:
    """Return the structure of the inputs' names; one name alone stands for itself."""

    def check(structure: Any) -> bool:
        if isinstance(structure, str):
            return bool(NAME.fullmatch(structure))
        if isinstance(structure, Mapping):
            return bool(structure) and all(map(check, structure.values()))
        sequence = isinstance(structure, (list, tuple)) and len(structure) > 0
        return sequence and all(map(check, structure))

    names = list(leaves(inputs)) if check(inputs) else []
    if not names or len(set(names)) < len(names):
        raise problem(
            "The inputs of equations are not different names.",
            received=f"inputs={inputs!r}",
            expected="a name, or a tuple, list or dict of names",
            fix="write inputs=('x', 'dt') for a layer that takes two tensors",
        )
    if not isinstance(inputs, (str, Mapping)) and len(inputs) == 1:
        return inputs[0]
    return inputs


def _checked_names(what: str, names: Any) -> tuple[str, ...]:
    given = tuple(names) if isinstance(names, (list, tuple)) else ()
    plain = all(isinstance(n, str) and NAME.fullmatch(n) for n in given)
    if not given or not plain or len(set(given)) < len(given):
        raise problem(
            f"`{what}` is not a tuple of different names.",
            received=f"{what}={names!r}",
            expected="names of the text, without primes",
            fix=f"write {what}=('h', 'c')",
        )
    return given


def _checked_sizes(sizes: Any) -> dict[str, Any]:
    entries = sizes if isinstance(sizes, Mapping) else {"": sizes}
    for name, size in entries.items():
        number = isinstance(size, int) and not isinstance(size, bool) and size > 0
        named = isinstance(size, str) and size.isidentifier()
        if (
            not isinstance(name, str)
            or not NAME.fullmatch(name)
            or not (number or named or size in ((), []))
        ):
            raise problem(
                "The sizes of equations are not sizes by name.",
                received=f"sizes={sizes!r}",
                expected="a dict from names of the text to positive ints or names of sizes, or to "
                "() for a parameter that is a single number",
                fix="write for example sizes={'P': 'projection_units'}",
            )
    return {name: () if size == [] else size for name, size in entries.items()}


def _checked_numbers(numbers: Any) -> dict[str, Value]:
    entries = numbers if isinstance(numbers, Mapping) else {"": numbers}
    for name, value in entries.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        finite = number and abs(value) < float("inf")
        if not isinstance(name, str) or not NAME.fullmatch(name) or not finite:
            raise problem(
                "A number of the equations has no default that is a number.",
                received=f"{name}={value!r}",
                expected="a name of the text, and a finite number",
                fix="write for example leaky=1.0",
            )
    return dict(entries)


def _numbers_of(tree: Text) -> tuple[dict[str, Value], dict[str, Place]]:
    """Return the numbers that have a line of their own, such as ``epsilon = 1e-5``."""
    rebound = {
        target.name
        for statement in _definitions(tree.statements)
        for target in statement.targets
        if statement.rebinds
    }
    found: dict[str, Value] = {}
    places: dict[str, Place] = {}
    for statement in tree.statements:
        number = number_of(statement, tree.source)
        if number is None or number[0] in rebound:
            continue
        name, value, place = number
        if name in found:
            raise wrong(
                tree.source,
                place,
                f"`{name}` is defined twice.",
                expected="one definition of each name",
                fix="remove one of the two, or write `:=` where a name gets a new meaning",
                other=places[name],
            )
        found[name], places[name] = value, place
    return found, places


def number_of(statement: Statement, source: str) -> tuple[str, float | int, Place] | None:
    """Return name, value and place of a line such as ``epsilon = 1e-5``, or None."""
    if not isinstance(statement, Definition) or statement.rebinds or statement.family is not None:
        return None
    (target, *others), value = statement.targets, statement.value
    sign = -1 if isinstance(value, Negative) else 1
    inner = value.operand if isinstance(value, Negative) else value
    if others or target.primed or not isinstance(inner, Number):
        return None
    line = source.split("\n")[inner.place.line - 1]
    written = line[inner.place.column : inner.place.column + inner.place.length]
    number = int(written) if written.isdigit() else inner.value
    return target.name, sign * number, target.place


def _definitions(statements: tuple[Statement, ...]) -> Iterator[Definition]:
    for statement in statements:
        if isinstance(statement, Definition):
            yield statement
        elif isinstance(statement, (Variant, Repeat, Guard)):
            yield from _definitions(statement.body)


def _counts(statements: tuple[Statement, ...]) -> Iterator[str]:
    """Yield the names of numbers of repetitions."""
    for statement in statements:
        if isinstance(statement, Repeat) and isinstance(statement.last, str):
            yield statement.last
        if isinstance(statement, Definition):
            family = statement.family
            if family is not None and isinstance(family.last, str):
                yield family.last
            for node in walk(statement.value):
                if isinstance(node, Call) and node.function == "repeat":
                    for argument in node.arguments[1:]:
                        if isinstance(argument, Name):
                            yield argument.name
        if isinstance(statement, (Variant, Repeat, Guard)):
            yield from _counts(statement.body)


def _used(tree: Text) -> set[str]:
    """Return the names that the right sides of a text use."""

    def expressions(statements: tuple[Statement, ...]) -> Iterator[Expression]:
        for statement in statements:
            if isinstance(statement, (Variant, Repeat, Guard)):
                yield from expressions(statement.body)
            else:
                yield statement.value

    return {
        node.name
        for value in expressions(tree.statements)
        for node in walk(value)
        if isinstance(node, Name)
    }


def is_euler(node: Expression) -> bool:
    """Tell whether an expression is a power of e."""
    return isinstance(node, Binary) and node.operator == "^" and node.left == _E


_E = Name(Place(0, 0, 0), "e")
