"""Stacks of cells, layer by layer: every cell over the whole sequence, with its own best engine.

Step by step, a cell of a stack sees at step t what the cell below returned at step t. Nothing comes
back from above, so the cell below may as well run over all steps first. A masked step leaves all
states as they are, whatever the cell below returned there: the layers above are given zeros.

That holds for cells that have nothing in common: the order in which they would use what they share,
a random generator say, is another one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras

from cellkit import _keras_compat as compat
from cellkit import engines
from cellkit.cells.runner import Holder
from cellkit.cells.stock_masks import lend_masks
from cellkit.engines.request import in_order
from cellkit.layers.outputs import OutputForm
from cellkit.layers.stacked import StackedCells

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves


def why_not(request: Request) -> str | None:
    """Return why this engine does not apply, or None; see `cellkit.engines`."""
    cell, name = request.cell, type(request.cell).__name__
    if not isinstance(cell, StackedCells):
        return f"{name} is no `cellkit.StackedCells`"
    for method in ("call", "runners"):
        if getattr(getattr(cell, method), "__func__", None) is not getattr(StackedCells, method):
            return f"{name} has a `{method}` of its own"
    if request.scope.constants:
        return "constants are handed to the cells step by step"
    reason: str | None = request.layer._holder.current(
        "apart", request.edition, lambda: _not_apart(cell)
    )
    return reason


def _not_apart(stack: StackedCells) -> str | None:
    """Return why the cells of a stack may see each other at work, or None if they do not."""
    seen: set[int] = set()
    for cell in stack.cells:
        if not isinstance(cell, keras.layers.Layer):
            return f"{type(cell).__name__} is no Keras layer: what it shares with others is unknown"
        parts = list(compat.parts(cell))
        layers = [p for p in parts if isinstance(p, keras.layers.Layer)]
        own = {id(x) for x in parts} | {id(v) for p in layers for v in p.variables}
        if own & seen:
            return "cells of the stack share layers, weights or random generators"
        seen |= own
    return None


@dataclasses.dataclass
class _Part:
    """What an engine must know of the layer, for one cell of the stack."""

    unroll: bool | int
    add_loss: Callable[[Any], None]
    _holder: Holder
    engine: str = "auto"
    # Of the stack as a whole.
    remat: bool = False
    truncate_gradient: None = None


def run(request: Request) -> tuple[Leaves, Any, Leaves]:
    """Run the cells one after the other; see `cellkit.engines`."""
    layer, scope, runners = request.layer, request.scope, request.cell.runners()
    # What a cell returns comes in the order processed, so the cells above go forwards.
    inputs, mask = in_order(request)
    rest, finals = list(request.states), []
    reports = []
    for index, runner in enumerate(runners):
        top = index + 1 == len(runners)
        count = len(runner.layout.specs)
        states, rest = rest[:count], rest[count:]
        holder = layer._holder.make(("part", index), Holder)
        form = request.form if top else holder.make("form", OutputForm)
        part = dataclasses.replace(
            request,
            layer=_Part(layer.unroll, layer.add_loss, holder),
            runner=runner,
            inputs=inputs,
            states=states,
            mask=mask,
            form=form,
            collect=request.collect or not top,
            zero_masked=request.zero_masked if top else True,
            reverse=False,
            parts=[],
        )
        name, reasons = engines.choose(part)
        with scope.narrowed(lend_masks(runner.cell)):
            last, outputs, states = engines.run_with(name, part)
        # A cell further up must not draw anew what this one has drawn.
        scope.settle()
        reports.append(engines.EngineReport("auto", name, reasons, tuple(part.parts)))
        finals += states
        if not top:
            inputs = form.pack(outputs)
    request.parts[:] = reports
    return last, outputs, finals
