"""`Engine` and `Need`: an engine says as data what it asks of a request.

From the needs come the reasons in a layer's report, the tables of docs/speed.md, and the tests that
run every engine with every option.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves

Reason = Callable[["Request"], "str | None"]

OPTIONS = {
    "return_sequences": "`return_sequences=True`",
    "go_backwards": "`go_backwards=True`",
    "stateful": "`stateful=True`",
    "mask": "a mask, or `lengths`",
    "zero_output_for_mask": "`zero_output_for_mask=True` with a mask",
    "initial_state": "`initial_state`",
    "constants": "`constants`",
    "resets": "`resets`, or `segments`",
    "unroll": "`unroll=True`",
    "unroll_by": "`unroll=8`, a factor",
    "remat": "`remat`",
    "truncate_gradient": "`truncate_gradient`",
    "dropout": "`dropout` of the cell, in training",
    "zoneout": "`zoneout` of the cell, in training",
}
"""The options of a layer, a call and a cell that an engine may not take, as the docs write them."""


@dataclasses.dataclass(frozen=True)
class Need:
    """A condition that a request must meet.

    Args:
        name: The condition, in the words of the docs.
        why_not: Returns why a request does not meet it, or None where it does.
        rules_out: The options, by their keys in `OPTIONS`, with which no request meets it.
        costly: True if the answer takes long to find: "auto" asks it last.
    """

    name: str
    why_not: Reason
    rules_out: tuple[str, ...] = ()
    costly: bool = False


@dataclasses.dataclass(frozen=True)
class Engine:
    """A way to compute the loop over time.

    Args:
        name: Its name, as the option `engine` takes it.
        summary: Its work, in a sentence of the docs.
        cells: The cells that it runs, in a sentence of the docs.
        run: Runs a request that meets all needs. Returns the leaves of the last output, those of
            all outputs `(batch, time, ...)` in the order processed (None unless
            `request.collect`), and those of the final states.
        needs: The conditions, in the order in which they are asked.
        worth: Conditions for "auto" to look at it at all: asked before the needs.
        pays: Conditions for "auto" to take it: asked after the needs.
        loops: True if it runs `backend.run`, which knows of blocks that differ from row to row.
        guards_padding: True if it sees to it itself that nothing of a masked step reaches
            anything; the others are given zeros there.
    """

    name: str
    summary: str
    cells: str
    run: Callable[[Request], tuple[Leaves, Any, Leaves]]
    needs: tuple[Need, ...] = ()
    worth: tuple[Need, ...] = ()
    pays: tuple[Need, ...] = ()
    guards_padding: bool = False
    loops: bool = False

    def why_not(self, request: Request) -> str | None:
        """Return why it does not apply to a request, or None if it does."""
        return first_reason(self.needs, request)

    def why_not_unasked(self, request: Request) -> str | None:
        """Return why "auto" does not take it for a request, or None if it does."""
        asked = sorted((*self.worth, *self.needs, *self.pays), key=lambda need: need.costly)
        return first_reason(tuple(asked), request)

    def takes(self, option: str) -> bool:
        """Tell whether a request with `option`, a key of `OPTIONS`, can meet the needs."""
        return not any(option in need.rules_out for need in self.needs)


def first_reason(needs: tuple[Need, ...], request: Request) -> str | None:
    """Return why a request does not meet the first need that it does not meet, or None."""
    for need in needs:
        reason = need.why_not(request)
        if reason is not None:
            return reason
    return None
