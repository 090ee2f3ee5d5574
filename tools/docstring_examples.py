"""Shows the examples of docstrings as code: an extension of Griffe, which reads them for the site.

Examples are written as doctest finds them, prompts at the margin. Markdown takes a line that begins
with ``>`` for a quotation, so they are fenced before it sees them.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"(?:^>>> .*\n?)(?:^(?!\s*$).*\n?)*", flags=re.MULTILINE)


_CALL = re.compile(r"^Call arguments:\n(?P<entries>(?:[ \t]+.*\n?|\n)*)", flags=re.MULTILINE)


def listed(text: str) -> str:
    """Return a docstring with the arguments of a call as a list; Griffe knows no such section."""
    found = _CALL.search(text)
    if found is None:
        return text
    entries = re.split(r"\n(?=    \S)", found["entries"].rstrip())
    lines = []
    for entry in entries:
        name, _, said = " ".join(entry.split()).partition(": ")
        lines.append(f"- `{name}`: {said}")
    return (
        f"{text[: found.start()]}**Call arguments**\n\n"
        + "\n".join(lines)
        + (f"\n\n{text[found.end() :]}")
    )


def fenced(text: str) -> str:
    """Return a docstring with a fence around each example, which ends at a blank line."""
    return _EXAMPLE.sub(lambda m: f"```pycon\n{m[0].rstrip()}\n```\n", text)


class FencedExamples(griffe.Extension):
    """Fences the examples of every object that is documented."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Fence the examples of one object."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(listed(inspect.cleandoc(obj.docstring.value)))
