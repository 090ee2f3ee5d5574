"""Making a failing example smaller: fewer rows, fewer steps, no initial state, plain numbers.

Edge examples run before anything is drawn, so most failures are found by one of them, and nobody
has shrunk it then. What is published shall fit on a screen all the same.
"""

from __future__ import annotations

import dataclasses
import re
import time
import traceback
from collections.abc import Callable, Iterator

from cellkit_conformance.examples.strategies import PLAIN, Example
from cellkit_conformance.outcome import one_line, text_of

SECONDS = 8.0
"""How long to try; a new shape costs a compilation on JAX."""


def shrink(attempt: Callable[[Example], None], example: Example, error: Exception) -> None:
    """Find a smaller example that fails alike, and let it fail.

    Args:
        attempt: Runs one example.
        example: The failing example.
        error: The exception that it raised.

    Raises:
        Exception: The one that the smallest example raises.
    """
    end, smallest = time.monotonic() + SECONDS, example
    found = True
    while found and time.monotonic() < end:
        found = False
        for candidate in smaller(smallest):
            if time.monotonic() >= end:
                break
            if _fails_alike(attempt, candidate, error):
                smallest, found = candidate, True
                break
    attempt(smallest)  # once more, because what is recorded is of the last one that ran
    raise error  # it failed before, and does not now


def smaller(example: Example) -> Iterator[Example]:
    """List examples that are one step smaller, the greatest steps first.

    Args:
        example: Any.
    """
    for batch in (1, 2):
        if batch < example.batch:
            yield _cut(example, batch, example.time)
    if not example.split:
        for steps in (1, 2, 3):
            if steps < example.time:
                yield _cut(example, example.batch, steps)
    if example.initial_state:
        yield dataclasses.replace(example, initial_state=False)
    if example.mask is not None and all(all(row) for row in example.mask):
        yield dataclasses.replace(example, mask=None, kind="none")
    if example.values != PLAIN:
        yield dataclasses.replace(example, values=PLAIN)


def _cut(example: Example, batch: int, steps: int) -> Example:
    mask = example.mask
    if mask is not None:
        mask = tuple(row[:steps] for row in mask[:batch])
    return dataclasses.replace(example, batch=batch, time=steps, mask=mask)


def _fails_alike(attempt: Callable[[Example], None], example: Example, error: Exception) -> bool:
    try:
        attempt(example)
    except Exception as other:  # noqa: BLE001 (compared with what was raised first)
        return type(other) is type(error) and _kind(other) == _kind(error)
    return False


def _kind(error: Exception) -> str:
    """Give what an error says, without numbers and positions.

    A value that is not finite is another failure than one that is: what is made smaller must not
    slip from the one into the other.
    """
    text = re.sub(r"\bbeyond the limit|infinitely far", "", one_line(text_of(error)))
    frames = traceback.extract_tb(error.__traceback__)
    place = "" if isinstance(error, AssertionError) or not frames else f" {frames[-1][:2]}"
    return re.sub(r"[-+\d.(),\[\]\s]|(?<=\d)e", "", text) + place
