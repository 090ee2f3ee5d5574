"""Output for people at a terminal: tables and markup, with colour where it can be seen."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.tree import Tree

__all__ = ["choose_colour", "console", "plain", "show", "table", "tree"]


def choose_colour(words: list[str]) -> list[str]:
    """Take ``--color`` and ``--no-color`` out of the words of a command, and obey them.

    They are handed on by the variables that most programs read, `FORCE_COLOR` and `NO_COLOR`.

    Args:
        words: The text typed.

    Returns:
        The other words.
    """
    for word, sets, clears in (
        ("--color", "FORCE_COLOR", "NO_COLOR"),
        ("--no-color", "NO_COLOR", "FORCE_COLOR"),
    ):
        if word in words:
            os.environ[sets] = "1"
            os.environ.pop(clears, None)
    return [word for word in words if word not in ("--color", "--no-color")]


def console() -> Console:
    """Return where to print: a terminal as wide as it is, or a pipe without line breaks."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(emoji=False)
    # In a pipe there is no width to fit to, and a broken line can't be searched.
    forced = bool(os.environ.get("FORCE_COLOR"))
    return Console(
        width=200, emoji=False, force_terminal=forced, color_system="standard" if forced else None
    )


def show(what: RenderableType) -> None:
    """Print something that rich can render, without the spaces that fill its lines."""
    printer = console()
    with printer.capture() as captured:
        printer.print(what, highlight=False)
    sys.stdout.write(re.sub(r"(?m) +$", "", captured.get()))


def table(*titles: str) -> Table:
    """Make a table with these titles over its columns, or without a head."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD if titles else None, show_header=bool(titles), pad_edge=False)
    for title in titles:
        made.add_column(title, overflow="fold")
    return made


def tree(title: str, lines: Iterable[Sequence[Any]]) -> Tree:
    """Make a tree of lines, each with its depth; what follows two spaces is a remark.

    Args:
        title: The heading above it.
        lines: Pairs of a depth and a text.
    """
    from rich.tree import Tree

    root = Tree(title)
    above = [root]
    for depth, line in lines:
        said, _, remark = line.partition("  ")
        shown = f"[cyan]{plain(said)}[/cyan]" + (f"  [dim]{plain(remark)}[/dim]" if remark else "")
        del above[depth + 1 :]
        above.append(above[-1].add(shown))
    return root


def plain(text: str) -> str:
    """Return text in which square brackets are plain text."""
    from rich.markup import escape

    return escape(text)
