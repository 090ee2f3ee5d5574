"""`cellkit explain`: say what a requirement means."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cellkit_conformance import edition


def explain(
    identifier: Annotated[
        str | None, typer.Argument(help="An id such as MSK-03, or a group.", show_default=False)
    ] = None,
) -> int:
    """Say what a requirement means, or list them all."""
    console = Console(emoji=False)
    for name in edition.select([identifier] if identifier else []):
        requirement = edition.requirements()[name]
        traits = f" [dim]{{{', '.join(requirement.traits)}}}[/]" if requirement.traits else ""
        console.print(
            f"[bold]{name}[/] [dim]{requirement.level}[/]{traits} {escape(requirement.sentence)}",
            highlight=False,
        )
        if identifier:
            console.print(f"  [dim]look for:[/] {escape(requirement.hint)}", highlight=False)
    return 0
