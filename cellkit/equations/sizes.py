"""Sizes of vectors that are not numbers yet, and the equations between them.

A size is a linear form such as ``features + units`` or ``4 * p``: coefficients of named sizes and
of unknowns. `Sizes` collects what must be equal and solves for the unknowns, one at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fractions import Fraction

__all__ = ["ONE", "Size", "Sizes", "Unequal"]


@dataclasses.dataclass(frozen=True)
class Unknown:
    """A size that is not known yet, told apart by its number."""

    number: int


@dataclasses.dataclass(frozen=True)
class Size:
    """A linear form of named sizes and unknowns.

    Args:
        terms: Coefficients by named size (a text) or unknown; without those that are zero.
        constant: A number that is added to them.
    """

    terms: tuple[tuple[str | Unknown, Fraction], ...] = ()
    constant: Fraction = Fraction(0)

    @staticmethod
    def of(value: int | str) -> Size:
        """Return a size that is a number or has a name."""
        if isinstance(value, str):
            return Size(((value, Fraction(1)),))
        return Size((), Fraction(value))

    @property
    def number(self) -> Fraction | None:
        """The number that a size is, or None where it depends on others."""
        return None if self.terms else self.constant

    @property
    def unknowns(self) -> tuple[Unknown, ...]:
        """The unknowns that a size depends on."""
        return tuple(key for key, _ in self.terms if isinstance(key, Unknown))

    @property
    def names(self) -> tuple[str, ...]:
        """The named sizes that a size depends on."""
        return tuple(key for key, _ in self.terms if isinstance(key, str))

    def __add__(self, other: Size) -> Size:
        """Return the sum."""
        total = dict(self.terms)
        for key, coefficient in other.terms:
            total[key] = total.get(key, Fraction(0)) + coefficient
        left = tuple((key, value) for key, value in total.items() if value)
        return Size(left, self.constant + other.constant)

    def times(self, factor: int | Fraction) -> Size:
        """Return a multiple."""
        terms = tuple((key, value * factor) for key, value in self.terms if factor)
        return Size(terms, self.constant * factor)

    def at(self, values: Mapping[str, int]) -> Fraction:
        """Return the number that a size is for these values of the named sizes."""
        return self.constant + sum(
            (coefficient * values[str(key)] for key, coefficient in self.terms), Fraction(0)
        )

    def __str__(self) -> str:
        """Return a size as it would be written: ``features + units``, ``units / 2``."""
        parts = [_term(key, value) for key, value in self.terms]
        if self.constant or not parts:
            parts.append(str(self.constant))
        return " + ".join(parts).replace("+ -", "- ")


ONE = Size.of(1)


def _term(key: str | Unknown, coefficient: Fraction) -> str:
    name = key if isinstance(key, str) else "?"
    if coefficient == 1:
        return name
    if coefficient.numerator == 1:
        return f"{name} / {coefficient.denominator}"
    return f"{coefficient} * {name}"


class Unequal(Exception):
    """Raised where two sizes can't be equal."""


class Sizes:
    """Equations between sizes, solved as they come."""

    def __init__(self) -> None:
        self._count = 0
        self._known: dict[Unknown, Size] = {}

    def new(self) -> Size:
        """Return a size that is not known yet."""
        self._count += 1
        return Size(((Unknown(self._count), Fraction(1)),))

    def resolve(self, size: Size) -> Size:
        """Return a size by what is known of it."""
        while any(unknown in self._known for unknown in size.unknowns):
            total = Size((), size.constant)
            for key, coefficient in size.terms:
                known = self._known.get(key) if isinstance(key, Unknown) else None
                part = Size(((key, Fraction(1)),)) if known is None else known
                total = total + part.times(coefficient)
            size = total
        return size

    def equal(self, one: Size, other: Size) -> None:
        """Let two sizes be equal.

        Raises:
            Unequal: If they are not.
        """
        difference = self.resolve(one) + self.resolve(other).times(-1)
        unknown = next(iter(sorted(difference.unknowns, key=lambda u: -u.number)), None)
        if unknown is None:
            if difference.terms or difference.constant:
                raise Unequal
            return
        coefficient = dict(difference.terms)[unknown]
        rest = difference + Size(((unknown, -coefficient),))
        value = rest.times(Fraction(-1) / coefficient)
        if value.constant <= 0 and all(c <= 0 for _, c in value.terms):
            raise Unequal  # no vector is that short
        self._known[unknown] = value

    def broadcast(self, one: Size, other: Size) -> Size:
        """Return the size of two vectors combined element by element; a single one is repeated.

        Raises:
            Unequal: If they don't fit.
        """
        one, other = self.resolve(one), self.resolve(other)
        if one == ONE:
            return other
        if other == ONE:
            return one
        self.equal(one, other)
        return self.resolve(one)

    def rename(self, old: str, new: str) -> None:
        """Let a named size be another one, in all that is known."""

        def renamed(size: Size) -> Size:
            total = Size((), size.constant)
            for key, coefficient in size.terms:
                total = total + Size(((new if key == old else key, coefficient),))
            return total

        self._known = {unknown: renamed(size) for unknown, size in self._known.items()}
