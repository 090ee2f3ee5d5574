"""Lines of equations for certain options: families, repetitions and variants written out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cellkit.equations.declare import Declaration, Value, number_of
from cellkit.equations.errors import wrong
from cellkit.equations.syntax import (
    Call,
    Definition,
    Expression,
    Function,
    Guard,
    Literal,
    Place,
    Repeat,
    Statement,
    Variant,
)

__all__ = ["Line", "Scope", "expand"]

MAX_LINES = 2000


@dataclasses.dataclass(frozen=True)
class Scope:
    """The meanings of names on one line.

    Args:
        indices: The numbers of the indices.
        suffix: The name on the left that a weight without a definition belongs to.
        own: The weights that have such a suffix. None: all.
    """

    indices: tuple[tuple[str, int], ...] = ()
    suffix: str | None = None
    own: tuple[str, ...] | None = None

    def name(self, name: str) -> str:
        """Return a name with the numbers of its indices: ``W_k`` is ``W_3``, ``xk`` is ``x3``."""
        for index, number in self.indices:
            head, *parts = name.split("_")
            if parts and index in parts:
                parts = [str(number) if part == index else part for part in parts]
                name = "_".join([head, *parts])
            elif len(name) == 2 and name[1] == index:
                name = f"{name[0]}{number}"
        return name

    def number(self, name: str) -> int | None:
        """Return the number of an index, or None where the name is none."""
        return dict(self.indices).get(name)

    def suffixed(self, name: str) -> str:
        """Return the name of a weight that nothing defines."""
        if self.suffix is None or (self.own is not None and name not in self.own):
            return name
        return f"{name}_{self.suffix}"


@dataclasses.dataclass(frozen=True)
class Line:
    """One definition, written out.

    Args:
        targets: The names on the left, with primes; more than one for a split.
        places: Their places in the text.
        value: The right side; of a split what is split.
        scope: The meanings of its names.
        rebinds: True if a name gets a new meaning, or is one of a repetition's own.
        repeated: True if it is one of a repetition.
        remark: The remark behind it.
    """

    targets: tuple[tuple[str, bool], ...]
    places: tuple[Place, ...]
    value: Expression
    scope: Scope
    rebinds: bool
    repeated: bool
    remark: str

    @property
    def splits(self) -> bool:
        """True if several names share the parts of one vector."""
        return len(self.targets) > 1


class _Expander:
    def __init__(
        self,
        declaration: Declaration,
        options: Mapping[str, Literal],
        numbers: Mapping[str, Value],
    ) -> None:
        self.declaration, self.options, self.numbers = declaration, options, numbers
        self.source = declaration.source
        self.lines: list[Line] = []
        self.functions: dict[str, Function] = {}

    def go(self, statements: tuple[Statement, ...], scope: Scope, repeated: bool) -> None:
        for statement in statements:
            if isinstance(statement, Variant):
                value = self.options[statement.option]
                if (type(value), value) == (type(statement.value), statement.value):
                    self.go(statement.body, scope, repeated)
            elif isinstance(statement, Repeat):
                last = self.count(statement.last, statement.place)
                for number in range(statement.first, last + 1):
                    index = statement.index or "_"
                    inner = ((index, number), *scope.indices)
                    self.go(statement.body, dataclasses.replace(scope, indices=inner), True)
            elif isinstance(statement, Guard):
                number_of_index = scope.number(statement.index)
                if number_of_index is None:
                    raise wrong(
                        self.source,
                        statement.place,
                        f"`{statement.index}` does not count anything here.",
                        expected="the index of a repetition around the condition",
                        fix=f"write the line under `repeat {statement.index} = 1..rounds:`",
                    )
                if number_of_index % 2 == statement.odd:
                    self.go(statement.body, scope, repeated)
            elif isinstance(statement, Function):
                self.function(statement)
            else:
                self.definition(statement, scope, repeated)

    def function(self, statement: Function) -> None:
        known = self.functions.get(statement.name)
        if known is not None and known is not statement:
            raise wrong(
                self.source,
                statement.place,
                f"The function `{statement.name}` is defined twice.",
                expected="one definition of each function",
                fix="remove one of the two, or rename it",
                other=known.place,
            )
        self.functions[statement.name] = statement

    def definition(self, statement: Definition, scope: Scope, repeated: bool) -> None:
        number = number_of(statement, self.source)
        if number is not None and self.declaration.places.get(number[0]) == number[2]:
            return
        family = statement.family
        if family is None:
            self.several(statement, scope, repeated)
            return
        for value in range(family.first, self.count(family.last, family.place) + 1):
            indices = ((family.index, value), *scope.indices)
            inner = dataclasses.replace(scope, indices=indices)
            if all(inner.name(t.name) == scope.name(t.name) for t in statement.targets):
                # One of several definitions on a line, with no part in the family.
                self.several(statement, scope, repeated)
                return
            self.several(statement, inner, repeated)

    def several(self, statement: Definition, scope: Scope, repeated: bool) -> None:
        """Add the lines of a definition, one for each name on the left, or one for a split."""
        targets = [((scope.name(t.name), t.primed), t.place) for t in statement.targets]
        value = statement.value
        if isinstance(value, Call) and value.function == "split":
            names, places = zip(*targets, strict=True)
            if len(value.arguments) != 1 or len(targets) < 2:
                raise wrong(
                    self.source,
                    value.place,
                    "`split` shares one vector among several names on the left.",
                    expected="several names on the left, and one vector in `split(...)`",
                    fix="write `i, f = split(W @ x)`",
                )
            self.add(statement, names, places, value.arguments[0], scope, repeated)
            return
        for ((name, primed), place), suffix in zip(
            targets, _suffixes([t[0][0] for t in targets]), strict=True
        ):
            inner = scope
            if len(targets) > 1:
                inner = dataclasses.replace(scope, suffix=suffix, own=statement.own)
            self.add(statement, ((name, primed),), (place,), value, inner, repeated)

    def add(
        self,
        statement: Definition,
        names: tuple[tuple[str, bool], ...],
        places: tuple[Place, ...],
        value: Expression,
        scope: Scope,
        repeated: bool,
    ) -> None:
        self.lines.append(
            Line(names, places, value, scope, statement.rebinds, repeated, statement.remark)
        )
        if len(self.lines) > MAX_LINES:
            raise wrong(
                self.source,
                statement.place,
                f"Written out, the equations have more than {MAX_LINES} lines.",
                expected="fewer repetitions and smaller families",
                fix="use matrices in place of families, or repeat less often",
            )

    def count(self, last: int | str, place: Place) -> int:
        """Return the number of repetitions."""
        if isinstance(last, int):
            return last
        value = self.numbers.get(last)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
        raise wrong(
            self.source,
            place,
            f"`{last}` does not say how often something is repeated.",
            expected=f"an int of 1 or more; it is {value!r}",
            fix=f"write a line `{last} = 3`, or pass such a number",
        )


def expand(
    declaration: Declaration, options: Mapping[str, Literal], numbers: Mapping[str, Value]
) -> tuple[list[Line], dict[str, Function]]:
    """Write a text out.

    Args:
        declaration: The text.
        options: The value of every option.
        numbers: The value of every number.

    Returns:
        Its lines and its functions.

    Raises:
        ValueError: A number of repetitions is not known, or there are too many of them.
    """
    expander = _Expander(declaration, options, numbers)
    expander.go(declaration.text.statements, Scope(), False)
    return expander.lines, expander.functions


def _suffixes(names: list[str]) -> list[str]:
    """Return what tells names apart: ``i`` and ``f`` also of ``a_i`` and ``a_f``."""
    heads = {name.partition("_")[0] for name in names}
    tails = [name.partition("_")[2] for name in names]
    return tails if len(heads) == 1 and all(tails) and len(names) > 1 else names
