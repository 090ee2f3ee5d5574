"""Errors of equations: the line, a caret under the place, what is expected, how to fix it."""

from __future__ import annotations

from cellkit.equations.syntax import Place
from cellkit.errors import problem

_WIDTH = 90


def wrong(
    source: str,
    place: Place,
    what: str,
    *,
    expected: str,
    fix: str,
    other: Place | None = None,
) -> ValueError:
    """Make the error of a text that is wrong at a certain place.

    Args:
        source: The text.
        place: The place of the mistake.
        what: One sentence that names what is wrong.
        expected: The right input, in words.
        fix: The change that mends it.
        other: A second place, with which the first one disagrees.

    Returns:
        The exception, to be raised by the caller.
    """
    received = _shown(source, place)
    if other is not None and other != place:
        received += "\n  and " + _shown(source, other)
    return problem(what, received=received, expected=expected, fix=fix)


def _shown(source: str, place: Place) -> str:
    """Return a line with a caret under the place; of a long line the part around it."""
    lines = source.split("\n")
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    start = max(0, place.column - _WIDTH // 2) if len(line) > _WIDTH else 0
    shown = line[start : start + _WIDTH]
    width = max(1, min(place.length, len(shown) - (place.column - start)))
    caret = " " * (place.column - start) + "^" * width
    lead = "..." if start else ""
    trail = "..." if start + _WIDTH < len(line) else ""
    return f"line {place.line}\n    {lead}{shown}{trail}\n    {' ' * len(lead)}{caret}"
