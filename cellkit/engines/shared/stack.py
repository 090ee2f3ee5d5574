"""Stacks of cells, layer by layer: every cell over the whole sequence, with its own best engine.

Step by step, a cell of a stack sees at step t what the cell below returned at step t. Nothing comes
back from above, so the cell below may as well run over all steps first. A masked step leaves all
states as they are, whatever the cell below returned there: the layers above are given zeros.

That holds for cells that have nothing in common: the order in which they would use what they share,
a random generator say, is another one.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import keras

from cellkit import _keras_compat as compat
from cellkit import engines
from cellkit.cells.memo import Memo
from cellkit.cells.stock_masks import lend_masks
from cellkit.engines.engine import Engine, Need
from cellkit.engines.request import in_order
from cellkit.engines.shared import needs
from cellkit.layers.outputs import OutputForm
from cellkit.layers.stacked import StackedCells

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves


def _no_stack(request: Request) -> str | None:
    if isinstance(request.cell, StackedCells):
        return None
    return f"{type(request.cell).__name__} is no `cellkit.StackedCells`"


def _constants(request: Request) -> str | None:
    return "constants are handed to the cells step by step" if request.constants else None


def _together(request: Request) -> str | None:
    reason: str | None = request.options.cache.current(
        "apart", request.edition, lambda: _not_apart(request.cell)
    )
    return reason


def _not_apart(stack: StackedCells) -> str | None:
    """Return why the cells of a stack may see each other at work, or None if they do not."""
    seen: set[int] = set()
    for cell in stack.cells:
        if not isinstance(cell, keras.layers.Layer):
            return (
                f"{type(cell).__name__} is not a Keras layer: what it shares with others is unknown"
            )
        parts = list(compat.parts(cell))
        layers = [p for p in parts if isinstance(p, keras.layers.Layer)]
        own = {id(x) for x in parts} | {id(v) for p in layers for v in p.variables}
        if own & seen:
            return "cells of the stack share layers, weights or random generators"
        seen |= own
    return None


def run(request: Request) -> tuple[Leaves, Any, Leaves]:
    """Run the cells one after the other; see `cellkit.engines`."""
    options, scope, runners = request.options, request.scope, request.cell.runners()
    # Outputs of a cell come in the order processed, so the cells above go forwards.
    request = in_order(request)
    inputs, rest = request.inputs, list(request.states)
    finals: Leaves = []
    reports = []
    for index, runner in enumerate(runners):
        top = index + 1 == len(runners)
        count = len(runner.layout.specs)
        states, rest = rest[:count], rest[count:]
        at = len(finals)
        cache = options.cache.memoize(("part", index), Memo)
        form = request.form if top else cache.memoize("form", OutputForm)
        part = dataclasses.replace(
            request,
            # The stack as a whole is cut into chunks, where it is.
            options=dataclasses.replace(
                options, engine="auto", remat=False, truncate=None, cache=cache
            ),
            runner=runner,
            inputs=inputs,
            states=states,
            starts=request.starts and request.starts[at : at + count],
            form=form,
            collect=request.collect or not top,
            zero_masked=request.zero_masked if top else True,
            parts=[],
            notes=[],
        )
        name, reasons = engines.choose(part)
        with scope.narrowed(lend_masks(runner.cell)):
            last, outputs, states = engines.ENGINES[name].run(part)
        # A cell further up must not draw anew what this one has drawn.
        scope.settle()
        reports.append(
            engines.EngineReport("auto", name, reasons, tuple(part.parts), "; ".join(part.notes))
        )
        finals += states
        if not top:
            inputs = form.pack(outputs)
    request.parts[:] = reports
    return last, outputs, finals


ENGINE = Engine(
    name="stack",
    summary="The cells of a stack one after the other, each over all steps, each with the engine "
    "that suits it best.",
    cells="`cellkit.StackedCells`, and lists of cells, that share no layer, weight or random "
    "generator",
    run=run,
    needs=(
        needs.SAME_DTYPE,
        needs.SOMETHING,
        Need("`cellkit.StackedCells`", _no_stack),
        needs.untouched({"call": StackedCells, "runners": StackedCells}),
        Need("no `constants`", _constants, rules_out=("constants",)),
        Need("cells that share nothing", _together),
    ),
)
