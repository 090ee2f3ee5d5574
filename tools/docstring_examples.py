"""Shows the examples of docstrings as code: an extension of Griffe, which reads them for the site.

Examples are written as doctest finds them, prompts at the margin. Markdown takes a line that begins
with ``>`` for a quotation, so they are fenced before it sees them.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"(?:^>>> .*\n?)(?:^(?!\s*$).*\n?)*", flags=re.MULTILINE)


def fenced(text: str) -> str:
    """Return a docstring with a fence around each example, which ends at a blank line."""
    return _EXAMPLE.sub(lambda m: f"```pycon\n{m[0].rstrip()}\n```\n", text)


class FencedExamples(griffe.Extension):
    """Fences the examples of every object that is documented."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Fence the examples of one object."""
        if obj.docstring is not None and ">>> " in obj.docstring.value:
            obj.docstring.value = fenced(inspect_clean(obj.docstring.value))


def inspect_clean(text: str) -> str:
    """Return the text without the indentation that its lines share."""
    import inspect

    return inspect.cleandoc(text)
