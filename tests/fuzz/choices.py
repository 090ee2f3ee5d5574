"""Choices: the one source from which a random cell is drawn, so that each can be drawn again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class Choices:
    """Draws from lists, and remembers each draw.

    Args:
        source: Returns an int in ``[0, n)`` when called with `n`.
    """

    def __init__(self, source: Callable[[int], int]) -> None:
        self._source = source
        self.made: list[int] = []

    @classmethod
    def numbered(cls, seed: int, number: int) -> Choices:
        """Return the choices of the cell `number` of the run with this seed."""
        return cls(random.Random(f"{seed}/{number}").randrange)

    @classmethod
    def replayed(cls, made: Sequence[int]) -> Choices:
        """Return the choices of a list; beyond its end the first alternative is taken."""
        rest = iter(made)
        return cls(lambda n: min(next(rest, 0), n - 1))

    def below(self, n: int) -> int:
        """Draw an int of at least 0 and below `n`."""
        choice = self._source(n)
        self.made.append(choice)
        return choice

    def one(self, items: Sequence[T]) -> T:
        """Draw one of `items`. The first one is the simplest."""
        return items[self.below(len(items))]

    def chance(self, percent: int) -> bool:
        """Draw True in `percent` of 100 cases. False is the simpler one."""
        return self.below(100) >= 100 - percent

    def weighted(self, items: dict[Any, int]) -> Any:
        """Draw a key; its value says how often it comes."""
        return self.one([key for key, weight in items.items() for _ in range(weight)])


def shorter(made: Sequence[int]) -> Any:
    """Yield simpler lists of choices: parts left out, then smaller numbers."""
    size = len(made)
    while size:
        for start in range(0, len(made), size):
            yield [*made[:start], *made[start + size :]]
        size //= 2
    for i, choice in enumerate(made):
        for smaller in sorted({0, choice // 2, choice - 1}):
            if 0 <= smaller < choice:
                yield [*made[:i], smaller, *made[i + 1 :]]


def shrunk(made: Sequence[int], fails: Callable[[list[int]], bool], tries: int = 400) -> list[int]:
    """Return the simplest choices found that still fail.

    Args:
        made: Choices that fail.
        fails: Tells whether a list of choices still fails.
        tries: Number of lists to try.
    """
    best = list(made)
    while tries > 0:
        for candidate in shorter(best):
            tries -= 1
            if tries < 0:
                return best
            if fails(candidate):
                best = candidate
                break
        else:
            return best
    return best
