"""One step of a stream, as a function of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cellkit.cells.scope import SequenceScope, sequence_scope
from cellkit.engines.backend import backend
from cellkit.engines.request import pack
from cellkit.typing import Tensor

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves

OneStep = Callable[["Leaves", "Leaves", Any, dict[str, Any]], tuple["Leaves", "Leaves"]]
"""Takes inputs, states, resets `(batch,)` or None, and the keyword arguments of the cell's step;
returns the leaves of the output and the new states."""


def plain_step(request: Request, stock: list[Any], within: bool) -> OneStep:
    """Return the cell's own step, as the plain loop runs it.

    Args:
        request: A request for one step: `(batch, 1, ...)`.
        stock: Cells that keep masks on themselves.
        within: True if the step needs the dtypes that a call of the layer sets up.
    """
    runner, form, structure = request.runner, request.form, request.inputs
    batch = request.scope.batch

    def step(
        inputs: Leaves, states: Leaves, resets: Tensor, constants: dict[str, Any]
    ) -> tuple[Leaves, Leaves]:
        with sequence_scope(SequenceScope(batch, constants, one_step=True), stock):
            states = restarted(request, states, resets)
            output, new = runner.step(pack(structure, inputs), states, False, constants)
            return form.flatten(output), new

    if not within:
        return step

    def step_within(*arguments: Any) -> tuple[Leaves, Leaves]:
        found: tuple[Leaves, Leaves] = runner.within(lambda: step(*arguments), False)
        return found

    return step_within


def restarted(request: Request, states: Leaves, resets: Tensor) -> Leaves:
    """Return states in which the rows that are reset have the cell's own initial ones."""
    if resets is None:
        return states
    starts = request.runner.initial(request.scope.batch)
    return [backend.select(resets, s, old) for s, old in zip(starts, states, strict=True)]
