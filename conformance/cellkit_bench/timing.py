"""Times and their spread: contestants run in turns, so that a busy machine slows all of them."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

QUICK = 0.02
"""Seconds of a call below which a turn begins with one call that is not timed."""

LEAST = 3
"""Turns of every contestant, however slow it is."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """Median and spread of some numbers."""

    median: float
    lower: float
    upper: float
    minimum: float
    count: int

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        return dataclasses.asdict(self)


def summarize(numbers: Sequence[float]) -> Summary:
    """Return the median, the quartiles, the minimum and the count of `numbers`."""
    if not numbers:
        raise ValueError("There is nothing to summarize: no numbers were given.")
    if len(numbers) == 1:
        return Summary(numbers[0], numbers[0], numbers[0], numbers[0], 1)
    lower, median, upper = statistics.quantiles(numbers, n=4, method="inclusive")
    return Summary(median, lower, upper, min(numbers), len(numbers))


def ratio(rounds: Sequence[float], others: Sequence[float]) -> Summary:
    """Compare two contestants round by round.

    What slows the machine down for a while slows both in the same round, so their ratio varies
    less than their times.

    Args:
        rounds: The median of each round of the one.
        others: Those of the other, from the same rounds.
    """
    return summarize([a / b for a, b in zip(rounds, others, strict=True)])


def alternate(
    calls: Mapping[str, Callable[[], Any]],
    seconds: float,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[list[float]]]:
    """Time calls in turns.

    Every round begins with another contestant. A turn of a quick contestant begins with one call
    that is not timed, because the caches hold what the contestant before it left there.

    Args:
        calls: The contestants, which must have been called once before.
        seconds: Approximate seconds for all of it; every contestant has one call per round.
        rounds: Turns of each contestant, if `seconds` are enough for them; `LEAST`
            otherwise, or as many as they are enough for.
        clock: Returns the time in seconds.

    Returns:
        The times of each contestant, by round.
    """
    names = list(calls)
    estimate = {name: _once(calls[name], clock) for name in names}
    rounds = min(rounds, max(LEAST, int(seconds / max(sum(estimate.values()), 1e-7))))
    turn = seconds / (rounds * len(names))
    times: dict[str, list[list[float]]] = {name: [] for name in names}
    for index in range(rounds):
        start = index % len(names)
        for name in names[start:] + names[:start]:
            call = calls[name]
            if estimate[name] < QUICK:
                call()
            repeat = max(1, min(50, int(turn / max(estimate[name], 1e-7))))
            taken = [_once(call, clock) for _ in range(repeat)]
            estimate[name] = min(estimate[name], *taken)
            times[name].append(taken)
    return times


def _once(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start
