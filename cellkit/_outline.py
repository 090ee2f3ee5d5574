"""A step as a tree of its equations: what each new state is made of, for terminals."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from cellkit.equations.syntax import Definition, Function, Name, Statement, Text, walk

__all__ = ["equations_of", "outline"]

Line = tuple[int, str]
"""A line of an outline: how deep it stands, and what it says."""


def equations_of(cls: type) -> str | None:
    """Return the equations of a class: its text, or the block of its docstring, or None.

    Args:
        cls: The class of a cell.
    """
    if getattr(cls, "declaration", None) is not None:
        return str(cls.declaration.text.source).strip("\n")  # type: ignore[attr-defined]
    block = re.search(r"```\n(.*?)```", cls.__doc__ or "", flags=re.DOTALL)
    if block is None:
        return None
    lines = block[1].rstrip().splitlines()
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[indent:].rstrip() for line in lines).strip("\n")


def outline(text: Text, output: str) -> list[Line]:
    """Return the equations in the order of what is made of what, new states first.

    Args:
        text: The equations.
        output: The name of what is given out.
    """
    defined: dict[str, Definition] = {}
    for definition in _definitions(text.statements):
        for target in definition.targets:
            defined.setdefault(target.name + "'" * target.primed, definition)
    roots = [name for name in defined if name.endswith("'")]
    if output not in roots and output in defined:
        roots.insert(0, output)
    used = {name for definition in defined.values() for name in _names(definition)}
    # What another new state is made of is shown under it.
    tops = [name for name in roots if name not in used] or roots[:1]
    lines: list[Line] = []
    seen: set[int] = set()
    for name in [*tops, *roots]:
        if name in tops or id(defined[name]) not in seen:
            _add(name, 0, defined, text, seen, lines)
    return lines


def _add(
    name: str,
    depth: int,
    defined: Mapping[str, Definition],
    text: Text,
    seen: set[int],
    lines: list[Line],
) -> None:
    definition = defined[name]
    if id(definition) in seen:
        return
    seen.add(id(definition))
    line = text.source.splitlines()[definition.place.line - 1].strip()
    line = re.sub(r"\s+(:?=)\s+", r" \1 ", line, count=1)  # texts are written in columns
    line = re.sub(r"\s{3,}", "  ", line)
    if line not in (said for _, said in lines):  # one line may define several names
        lines.append((depth, line))
    for inner in _names(definition):
        if inner in defined and inner != name:
            _add(inner, depth + 1, defined, text, seen, lines)


def _names(definition: Definition) -> list[str]:
    """Return the names that a definition is made of, each once."""
    found = (
        node.name + "'" * node.primed for node in walk(definition.value) if isinstance(node, Name)
    )
    return list(dict.fromkeys(found))


def _definitions(statements: tuple[Statement, ...]) -> Iterator[Definition]:
    """Yield the definitions of a text, those of its blocks too."""
    for statement in statements:
        if isinstance(statement, Definition):
            yield statement
        elif not isinstance(statement, Function):
            yield from _definitions(statement.body)
