"""Names in error texts: in a row, and the known ones nearest to a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Return the known names that `name` was most likely meant to be, best first.

    Case, underscores and a trailing "Cell" or "Layer" are ignored, so ``"LSTMCell"`` finds
    ``"lstm"``.

    Args:
        name: The text typed.
        known: The names that exist.
        limit: The most names to return.

    Returns:
        At most `limit` names; empty when nothing is near.

    Example:
    >>> nearest("LayerNormLSTMCell", ["lstm", "layer_norm_lstm", "gru"])[0]
    'layer_norm_lstm'
    """
    by_letters: dict[str, str] = {}
    for candidate in known:
        by_letters.setdefault(_letters(candidate), candidate)
    return [
        by_letters[letters]
        for letters in difflib.get_close_matches(_letters(name), by_letters, limit)
    ]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'a' or 'b'? "`` (with the space), or ``""`` when nothing is near."""
    names = [repr(candidate) for candidate in nearest(name, known)]
    return f"did you mean {' or '.join(names)}? " if names else ""


def _letters(name: str) -> str:
    letters = name.lower().replace("_", "").replace("-", "").replace(" ", "")
    for ending in ("cell", "layer"):
        if letters != ending:
            letters = letters.removesuffix(ending)
    return letters


def listed(names: Iterable[str]) -> str:
    """Write names in a row, each in quotes."""
    return ", ".join(repr(name) for name in names)


def is_text(value: object) -> bool:
    """Tell whether `value` is a text."""
    return isinstance(value, str)
