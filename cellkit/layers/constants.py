"""Constants of a call: what a cell is handed at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellkit.cells.runner import needs_constants
from cellkit.errors import problem
from cellkit.typing import Tree

if TYPE_CHECKING:
    from cellkit.layers.rnn import RNN


def needs_them(layer: RNN) -> bool:
    """Tell whether the cell of a layer, or one inside of it, can't do without constants."""
    needed: bool = layer._memo.memoize("needs constants", lambda: needs_constants(layer.cell))
    return needed


def check_constants(layer: RNN, constants: Tree) -> None:
    """Raise a `ValueError` if constants are missing, or passed to a cell that takes none."""
    if constants is None:
        if needs_them(layer):
            raise problem(
                f"{type(layer.cell).__name__} needs constants.",
                received="a call without constants",
                expected="`constants`, which the cell's `call` takes and has no default for",
                fix="pass `constants=[...]`, or give the parameter of the cell a default",
            )
    elif not layer.runner.takes_constants:
        raise problem(
            f"{type(layer.cell).__name__} takes no constants.",
            received="constants=...",
            expected="a cell whose `call` has a parameter `constants`",
            fix="add `constants=None` to the cell's `call`, or feed the values as inputs",
        )
