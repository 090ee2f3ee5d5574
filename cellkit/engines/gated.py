"""What all backends ask of a cell before they run it as gates around one recurrent product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from cellkit.cell import Cell, GatedCell, training_mode

if TYPE_CHECKING:
    from cellkit.engines import Request

# What a cell must not have written anew, for an engine to know what a step does.
_METHODS = {
    "call": Cell,
    "prepare": Cell,
    "advance": Cell,
    "drop": Cell,
    "project": GatedCell,
    "step": GatedCell,
}


def why_not(request: Request) -> str | None:
    """Return why the cell is not gates around one recurrent product, or None if it is."""
    cell, name = request.cell, type(request.cell).__name__
    if not isinstance(cell, GatedCell):
        return f"{name} is no `cellkit.GatedCell`"
    for method, owner in _METHODS.items():
        if getattr(getattr(cell, method), "__func__", None) is not getattr(owner, method):
            return f"{name} has a `{method}` of its own"
    if cell.zoneout:
        return f"{name} has zoneout, which draws anew at every step"
    known = (cell.kernel, cell.recurrent_kernel, cell.bias)
    if any(all(v is not k for k in known) for v in cell.weights if v.trainable):
        return f"{name} has other weights than kernel, recurrent kernel and bias"
    if any(tuple(s.shape) != (cell.units,) for s in request.runner.layout.specs):
        return f"{name} has states that are not as wide as its gates"
    if len({s.dtype for s in request.runner.layout.specs} | {cell.compute_dtype}) > 1:
        return f"{name} has states of other dtypes than its gates"
    return None


def recurrent_mask(request: Request, like: Any) -> Any:
    """Return what the recurrent dropout of this call multiplies the state with, or None."""
    cell = request.cell
    if not (request.training and cell.recurrent_dropout):
        return None
    with training_mode(request.training):
        return cell.drop(keras.ops.ones_like(like))
