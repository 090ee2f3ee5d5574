"""Changes to the text of an equation cell, on its syntax tree; the spec stays that of the text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from cellkit.equations.syntax import (
    Binary,
    Call,
    Compare,
    Concatenation,
    Conditional,
    Definition,
    Function,
    Guard,
    Indicator,
    Logical,
    Name,
    Negative,
    Number,
    Repeat,
    Text,
    Variant,
)
from cellkit_conformance.selftest.cells.change import Change, subclass

Edit = tuple[str, str, Any]
"""Kind, what is changed, and the node afterwards."""

OTHER_FUNCTION = {"s": "tanh", "sigmoid": "tanh", "tanh": "s", "relu": "tanh", "exp": "tanh"}


def changes(cls: type) -> Iterator[Change]:
    """List the changes to the equations of a cell; none for a cell that has none.

    Args:
        cls: The class of the cell.
    """
    declaration: Any = getattr(cls, "declaration", None)
    if declaration is None:
        return
    states = tuple(
        target.name
        for statement in _flat(declaration.text.statements)
        if isinstance(statement, Definition)
        for target in statement.targets
        if target.primed
    )
    editor = _Editor(states)
    for kind, what, line, statements in editor.of_text(declaration.text.statements):
        text = Text(declaration.text.source, statements)
        changed = dataclasses.replace(declaration, text=text)
        source = declaration.text.source.splitlines()
        where = source[line - 1].strip() if 0 < line <= len(source) else ""

        def make(base: type, changed: Any = changed) -> type:
            return subclass(base, {"declaration": changed})

        yield Change(kind, what, f"line {line}: {where}", make)


def _flat(statements: Any) -> Iterator[Any]:
    for statement in statements:
        yield statement
        yield from _flat(getattr(statement, "body", ()))


class _Editor:
    """Lists the edits of statements and expressions.

    Args:
        states: The names of the states.
    """

    def __init__(self, states: tuple[str, ...]) -> None:
        self.states = states
        self.defined: list[str] = []

    def of_text(self, statements: tuple[Any, ...]) -> Iterator[tuple[str, str, int, Any]]:
        """List the edits of statements: kind, change, line, and all statements afterwards."""
        for number, statement in enumerate(statements):

            def put(new: Any, number: int = number) -> tuple[Any, ...]:
                return (*statements[:number], new, *statements[number + 1 :])

            if isinstance(statement, (Definition, Function)):
                for kind, what, value in self.of(statement.value):
                    new = dataclasses.replace(statement, value=value)
                    yield kind, what, statement.place.line, put(new)
                if isinstance(statement, Definition):
                    self.defined += [t.name for t in statement.targets if not t.primed]
            elif isinstance(statement, (Variant, Repeat, Guard)):
                for kind, what, line, body in self.of_text(statement.body):
                    yield kind, what, line, put(dataclasses.replace(statement, body=body))

    def of(self, node: Any) -> Iterator[Edit]:
        """List the edits of an expression and of its parts."""
        yield from self._own(node)
        for field, child in _parts(node):
            for kind, what, new in self.of(child):
                yield kind, what, _with_part(node, field, new)

    def _own(self, node: Any) -> Iterator[Edit]:
        new: Any
        if isinstance(node, Binary):
            yield from self._binary(node)
        elif isinstance(node, Negative):
            yield "sign", f"{show(node)} -> {show(node.operand)}", node.operand
        elif isinstance(node, Call):
            yield from self._call(node)
        elif isinstance(node, Name):
            yield from self._name(node)
        elif isinstance(node, Conditional):
            new = dataclasses.replace(node, yes=node.no, no=node.yes)
            yield "branches", f"{show(node)} -> {show(new)}", new
        elif isinstance(node, Compare):
            other = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "!=", "!=": "=="}
            new = dataclasses.replace(node, operator=other[node.operator])
            yield "comparison", f"{show(node)} -> {show(new)}", new
        elif isinstance(node, Number):
            new = Number(node.place, 1.25 * node.value + 0.125)
            yield "number", f"{show(node)} -> {show(new)}", new

    def _binary(self, node: Binary) -> Iterator[Edit]:
        new: Any
        if node.operator in "+-":
            new = dataclasses.replace(node, operator="-" if node.operator == "+" else "+")
            yield "sign", f"{show(node)} -> {show(new)}", new
            for side in ("left", "right"):
                part = getattr(node, side)
                if side == "left" and node.operator == "-" and isinstance(part, Number):
                    yield "complement", f"{show(node)} -> {show(node.right)}", node.right
                    continue
                # Its weights stay, so that those of the reference still fit.
                gone = Binary(node.place, "*", Number(node.place, 0.0), part)
                new = _with_part(node, (side, None), gone)
                yield "dropped term", f"{show(node)} -> {show(new)}", new
        elif node.operator == "*":
            new = dataclasses.replace(node, operator="+")
            yield "operator", f"{show(node)} -> {show(new)}", new
        elif node.operator == "/":
            new = dataclasses.replace(node, operator="*")
            yield "operator", f"{show(node)} -> {show(new)}", new

    def _call(self, node: Call) -> Iterator[Edit]:
        if len(node.arguments) != 1:
            return
        if node.function in OTHER_FUNCTION:
            new = dataclasses.replace(node, function=OTHER_FUNCTION[node.function])
            yield "activation", f"{show(node)} -> {show(new)}", new
        argument = node.arguments[0]
        yield "activation", f"{show(node)} -> {show(argument)}", argument

    def _name(self, node: Name) -> Iterator[Edit]:
        if node.primed:
            new = dataclasses.replace(node, primed=False)
            yield "old for new", f"{show(node)} -> {show(new)}", new
            return
        others = self.states if node.name in self.states else self.defined
        if node.name not in others:
            return
        for name in dict.fromkeys(others):
            if name != node.name:
                kind = "wrong state" if node.name in self.states else "wrong gate"
                yield kind, f"{node.name} -> {name}", dataclasses.replace(node, name=name)


def _parts(node: Any) -> Iterator[tuple[Any, Any]]:
    """List the parts of an expression: the field, with its number in a tuple, and the part."""
    fields: dict[type, tuple[str, ...]] = {
        Negative: ("operand",),
        Binary: ("left", "right"),
        Compare: ("left", "right"),
        Conditional: ("condition", "yes", "no"),
        Indicator: ("condition",),
    }
    tuples = {Logical: "operands", Call: "arguments", Concatenation: "parts"}
    for field in fields.get(type(node), ()):
        # The name of a matrix stands for its weight alone.
        if not (isinstance(node, Binary) and node.operator == "@" and field == "left"):
            yield (field, None), getattr(node, field)
    if type(node) in tuples:
        field = tuples[type(node)]
        for number, part in enumerate(getattr(node, field)):
            yield (field, number), part


def _with_part(node: Any, where: Any, new: Any) -> Any:
    field, number = where
    if number is not None:
        old = getattr(node, field)
        new = (*old[:number], new, *old[number + 1 :])
    return dataclasses.replace(node, **{field: new})


def show(node: Any) -> str:
    """Write an expression on one line.

    Args:
        node: An expression.
    """
    if isinstance(node, Number):
        return f"{node.value:g}"
    if isinstance(node, Name):
        return str(node)
    if isinstance(node, Negative):
        return f"-{show(node.operand)}"
    if isinstance(node, (Binary, Compare)):
        return f"({show(node.left)} {node.operator} {show(node.right)})"
    if isinstance(node, Call):
        return f"{node.function}({', '.join(map(show, node.arguments))})"
    if isinstance(node, Conditional):
        return f"({show(node.yes)} if {show(node.condition)} else {show(node.no)})"
    if isinstance(node, Indicator):
        return f"1[{show(node.condition)}]"
    if isinstance(node, Concatenation):
        return f"[{'; '.join(map(show, node.parts))}]"
    return f"{node.operator} {' '.join(map(show, node.operands))}"
