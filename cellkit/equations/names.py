"""The meanings of names in a text, and the order in which its lines can be computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from cellkit.equations.declare import Declaration, Value
from cellkit.equations.errors import wrong
from cellkit.equations.expand import Scope, expand
from cellkit.equations.syntax import (
    Call,
    Definition,
    Function,
    Literal,
    Name,
    Place,
    Statement,
    Variant,
    walk,
)
from cellkit.errors import problem
from cellkit.registry.names import did_you_mean, listed

__all__ = ["Meaning", "Names"]

MAX_CALLS = 1000

# Letters that the field uses for states alone: none of them is a weight by oversight.
_STATES = ("h", "c")


@dataclasses.dataclass(frozen=True)
class Meaning:
    """The meaning of a name.

    Args:
        kind: "line", "state", "input", "number", "size", "index", "pi" or "parameter".
        name: The name, with the numbers of its indices.
        line: Number of the line that defines it.
        target: Its number among the names on the left of that line.
        number: Number of an index.
    """

    kind: str
    name: str
    line: int = -1
    target: int = 0
    number: int = 0


class Names:
    """The names of a text for certain options.

    Args:
        declaration: The text.
        options: The value of every option.
        numbers: The value of every number.

    Raises:
        ValueError: A name is defined twice, in a loop, or not at all; a state is missing.
    """

    def __init__(
        self,
        declaration: Declaration,
        options: Mapping[str, Literal],
        numbers: Mapping[str, Value],
    ) -> None:
        self.declaration = declaration
        self.source = declaration.source
        self.lines, self.functions = expand(declaration, options, numbers)
        self.defined: dict[tuple[str, bool], list[tuple[int, int]]] = {}
        for number, line in enumerate(self.lines):
            for target, key in enumerate(line.targets):
                self.defined.setdefault(key, []).append((number, target))
        self._written = set(_targets(declaration.text.statements))
        self._weights: dict[str, int] = {}
        self.states = self._states()
        self._check_twice()
        self.output = self._output()
        self._free: dict[str, tuple[Name, ...]] = {}
        self.needs = [list(self._needed(number)) for number in range(len(self.lines))]
        self.order = self._order()

    # Definitions --------------------------------------------------------------------------------

    def _states(self) -> tuple[str, ...]:
        """Return the states in their order."""
        found = [name for name, primed in self.defined if primed]
        if not found:
            raise wrong(
                self.source,
                Place(1, 0, 1),
                "The equations define no new state.",
                expected="at least one name with a prime on the left, such as `h'`",
                fix="write for example `h' = tanh(W @ x + U @ h + b)`",
            )
        declared = self.declaration.states
        if declared is None:
            return tuple(sorted(found, key=lambda name: name != "h"))
        unknown = [name for name in declared if name not in found]
        left = [name for name in found if name not in declared]
        if unknown or left:
            raise problem(
                "`states` does not name the states that the equations define.",
                received=f"states={declared!r}",
                expected=f"{listed(found)} in any order",
                fix=f"define `{unknown[0]}'` in the text"
                if unknown
                else f"add {left[0]!r} to `states`",
            )
        return declared

    def _output(self) -> tuple[str, bool]:
        """Return the name of what is given out, and whether it is a new state."""
        declared = self.declaration.output
        if declared is not None:
            if declared in self.states:
                return declared, True
            if (declared, False) in self.defined:
                return declared, False
            names = [name for name, _ in self.defined]
            raise problem(
                "The equations do not define their output.",
                received=f"output={declared!r}",
                expected=f"one of {listed(dict.fromkeys(names))}",
                fix=did_you_mean(declared, names) + "name a line of the text",
            )
        for name in ("y", "h"):
            if (name, False) in self.defined and name not in self.states:
                return name, False
            if name == "y" and name in self.states:
                return name, True
        return self.states[0], True

    def _check_twice(self) -> None:
        """Refuse a name with two meanings at one place."""
        for (name, primed), places in self.defined.items():
            first_line, first_target = places[0]
            first = self.lines[first_line]
            others = {
                "a state": not primed and name in self.states,
                "an input": not primed and name in self.declaration.input_names,
                "a number": not primed and name in self.declaration.numbers,
                "a size": not primed and name in ("units", *self.declaration.size_names),
            }
            for what, clashes in others.items():
                rebinds = first.rebinds and what in ("a state", "an input")
                if clashes and not rebinds:
                    other = self.defined.get((name, True)) if what == "a state" else None
                    raise wrong(
                        self.source,
                        first.places[first_target],
                        f"`{name}` is defined twice: it is {what} already.",
                        expected="one definition of each name",
                        fix="rename one of the two, or write `:=` where it gets a new meaning",
                        other=None if other is None else self._place(*other[0]),
                    )
            for (before, at), (number, target) in zip(places, places[1:], strict=False):
                line = self.lines[number]
                again = line.repeated and line.places == self.lines[before].places
                if primed or not (line.rebinds or again):
                    raise wrong(
                        self.source,
                        line.places[target],
                        f"`{name}{chr(39) * primed}` is defined twice.",
                        expected="one definition of each name"
                        + (", also where something is repeated" if again else ""),
                        fix="remove one of the two"
                        + ("" if primed else ", or write `:=` where the name gets a new meaning"),
                        other=self._place(before, at),
                    )

    def _place(self, line: int, target: int) -> Place:
        return self.lines[line].places[target]

    # Meanings of names --------------------------------------------------------------------------

    def meaning(self, node: Name, scope: Scope, at: int) -> Meaning:
        """Return what a name stands for on a line.

        Args:
            node: The name.
            scope: The values of its indices.
            at: Number of the line.

        Raises:
            ValueError: It is a state that nothing defines.
        """
        number = None if node.primed else scope.number(node.name)
        if number is not None:
            return Meaning("index", node.name, number=number)
        name = scope.name(node.name)
        found = self._known(name, node.primed, at)
        if found is None and not node.primed:
            suffixed = scope.suffixed(name)
            found = self._known(suffixed, False, at) if suffixed != name else None
            if found is None and name == "pi":
                return Meaning("pi", name)
            name = suffixed
        if found is not None:
            return found
        if node.primed or name in _STATES:
            raise wrong(
                self.source,
                node.place,
                f"The state `{name}` is never defined.",
                expected=f"a line `{name}' = ...` for its new value; there are "
                f"{listed(n + chr(39) for n in self.states)}",
                fix=f"define `{name}'`, or use the name of a state that is there",
            )
        if node.name in self._written:
            raise wrong(
                self.source,
                node.place,
                f"`{node.name}` is not defined here.",
                expected="a definition that holds for these options: it has one for others alone",
                fix=f"define `{node.name}` for every value of the option, or outside of it",
            )
        return Meaning("parameter", name)

    def _known(self, name: str, primed: bool, at: int) -> Meaning | None:
        """Return what a name that the text or the declaration knows stands for, or None."""
        places = self.defined.get((name, primed), ())
        before = [place for place in places if place[0] < at]
        if before:
            return Meaning("line", name, *before[-1])
        if not primed:
            if name in self.states:
                return Meaning("state", name)
            if name in self.declaration.input_names:
                return Meaning("input", name)
            if name in self.declaration.numbers:
                return Meaning("number", name)
            if name in ("units", "features", *self.declaration.size_names):
                return Meaning("size", name)
        return Meaning("line", name, *places[0]) if places else None

    def free(self, function: Function, outer: tuple[str, ...] = ()) -> tuple[Name, ...]:
        """Return the names in a function that are none of its arguments."""
        if function.name in outer:
            raise wrong(
                self.source,
                function.place,
                f"The function `{function.name}` calls itself.",
                expected="functions that call others, without a loop in the definitions",
                fix="write the calls out, or repeat them with `repeat`",
            )
        if function.name not in self._free:
            found: list[Name] = []
            for node in walk(function.value):
                if isinstance(node, Name) and node.name not in function.arguments:
                    found.append(node)
                elif isinstance(node, Call) and node.function in self.functions:
                    inner = self.functions[node.function]
                    found.extend(self.free(inner, (*outer, function.name)))
            self._free[function.name] = tuple(dict.fromkeys(found))
            self._weigh(function)
        return self._free[function.name]

    def _weigh(self, function: Function) -> None:
        """Refuse a function that, written out, would never come to an end."""
        inner = [n.function for n in walk(function.value) if isinstance(n, Call)]
        weight = 1 + sum(self._weights.get(name, 1) for name in inner)
        if weight > MAX_CALLS:
            raise wrong(
                self.source,
                function.place,
                f"Written out, the function `{function.name}` is too long.",
                expected=f"at most {MAX_CALLS} calls of other functions, and of theirs",
                fix="give what is called more than once a name on a line of its own",
            )
        self._weights[function.name] = weight

    def used(self, number: int) -> Iterator[tuple[Name, Scope]]:
        """Yield the names that a line uses, in their order, those of its functions included."""
        line = self.lines[number]
        for node in walk(line.value):
            if isinstance(node, Name):
                yield node, line.scope
            elif isinstance(node, Call) and node.function in self.functions:
                for name in self.free(self.functions[node.function]):
                    yield name, Scope()

    def _needed(self, number: int) -> Iterator[Meaning]:
        for node, scope in self.used(number):
            if node.name == "e" and not self._known("e", False, number):
                continue
            meaning = self.meaning(node, scope, number)
            if meaning.kind == "line":
                yield meaning

    def _order(self) -> list[int]:
        """Return the numbers of the lines, each after those that it needs."""
        done: dict[int, bool] = {}
        order: list[int] = []
        for start in range(len(self.lines)):
            path: list[tuple[int, Iterator[Meaning]]] = []
            if start not in done:
                done[start] = False
                path.append((start, iter(self.needs[start])))
            while path:
                number, needed = path[-1]
                following = next(needed, None)
                if following is None:
                    done[number] = True
                    order.append(number)
                    path.pop()
                elif following.line not in done:
                    done[following.line] = False
                    path.append((following.line, iter(self.needs[following.line])))
                elif not done[following.line]:
                    self._loop(following, [n for n, _ in path])
        return order

    def _loop(self, again: Meaning, path: list[int]) -> None:
        loop = path[path.index(again.line) :]
        written = [self.lines[n].targets[0] for n in loop]
        names = [name + "'" * primed for name, primed in [*written, written[0]]]
        raise wrong(
            self.source,
            self.lines[loop[-1]].places[0],
            "The definitions go round in a loop.",
            expected="each name made of others that do not need it; here "
            + " needs ".join(f"`{name}`" for name in names),
            fix="use the old value of a state, without a prime, or `:=` for a new meaning",
            other=self.lines[loop[0]].places[0],
        )

    def unused(self) -> list[tuple[Place, str]]:
        """Return the names on the left that nothing needs, with their places."""
        keys = [(state, True) for state in self.states] + [self.output]
        todo = [self.defined[key][-1] for key in keys]
        needed: set[tuple[int, int]] = set()
        lines: set[int] = set()
        while todo:
            line, target = todo.pop()
            needed.add((line, target))
            if line not in lines:
                lines.add(line)
                todo.extend((m.line, m.target) for m in self.needs[line])
        return [
            (line.places[target], name + "'" * primed)
            for number, line in enumerate(self.lines)
            for target, (name, primed) in enumerate(line.targets)
            if (number, target) not in needed
        ]


def _targets(statements: tuple[Statement, ...]) -> Iterator[str]:
    """Yield the names without primes that a text defines, for whatever options."""
    for statement in statements:
        if isinstance(statement, Variant):
            yield from _targets(statement.body)
        elif isinstance(statement, Definition):
            yield from (target.name for target in statement.targets if not target.primed)
