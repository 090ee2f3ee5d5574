"""A change to a cell: what it does, where, and the class that has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Change:
    """One small change to the step of a cell.

    Attributes:
        kind: A word or two for what kind of mistake it is, such as "sign".
        what: The change itself, as "before -> after".
        where: A place in the cell: method and line, or the line of an equation.
        make: Makes the changed class of the cell's class.
        reached: Filled when the changed part runs; None where that is not known.
    """

    kind: str
    what: str
    where: str
    make: Callable[[type], type]
    reached: list[bool] | None = field(default=None, compare=False)


def subclass(cls: type, attributes: dict[str, Any]) -> type:
    """Make a class with the name of another that differs in some attributes.

    Args:
        cls: The class of a cell.
        attributes: Attributes that the changed class has instead.
    """
    made: type = type(cls)(
        cls.__name__, (cls,), {"__module__": cls.__module__, "__doc__": cls.__doc__, **attributes}
    )
    return made


def changes_of(cls: type) -> Iterator[Change]:
    """List the changes to a cell: to its equations, or to its methods, and to what it returns.

    Args:
        cls: The class of a registered cell.
    """
    from cellkit_conformance.selftest.cells import equations, results, source

    yield from equations.changes(cls)
    yield from source.changes(cls)
    yield from results.changes(cls)
