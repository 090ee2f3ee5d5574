"""Needs that several engines have in common; see `cellkit.engines.engine.Need`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import keras

from cellkit import _keras_compat as compat
from cellkit.cells.cell import Cell
from cellkit.cells.wrapper import has_common_call
from cellkit.engines.backend import backend
from cellkit.engines.engine import Need

if TYPE_CHECKING:
    from cellkit.engines.request import Request


def _another_dtype(request: Request) -> str | None:
    if request.runner.direct:
        return None
    return f"{_name(request)} has a dtype of its own, or an activity regularizer"


def _nothing(request: Request) -> str | None:
    if any(0 in x.shape[:2] for x in keras.tree.flatten(request.inputs)):
        return "there is nothing to compute: no row, or no time step"
    return None


def _chunked(request: Request) -> str | None:
    if request.options.chunked:
        return f"remat and truncate_gradient are those of the loop on {backend.name}"
    return None


def _transformed(request: Request) -> str | None:
    return backend.transformed([*keras.tree.flatten(request.inputs), *request.states])


def _other_cell(request: Request) -> str | None:
    if isinstance(request.cell, Cell):
        return None
    return f"{_name(request)} is no `cellkit.Cell`, whose `project` stands apart from its `step`"


def _single_step(request: Request) -> str | None:
    if all(x.shape[1] == 1 for x in keras.tree.flatten(request.inputs)):
        return "for a single step the plain loop has the least to set up"
    return None


def _fully_unrolled(request: Request) -> str | None:
    return "unroll=True asks for the plain loop" if request.options.unroll is True else None


def _unrolled(request: Request) -> str | None:
    return "`unroll` asks for a loop" if request.options.unroll else None


def _compiled(request: Request) -> str | None:
    return "it is no faster than the loop where a compiler runs the loop"


def _one_output(request: Request) -> str | None:
    if request.training or request.collect:
        return None
    return "at inference the loop keeps nothing of a step whose output is not wanted"


def _inference(request: Request) -> str | None:
    return None if request.training else "it is no faster than the loop where there is no gradient"


def _other_blocks(request: Request) -> str | None:
    if request.resets is None or request.options.truncate is None or not backend.transformed():
        return None
    return "the blocks of truncate_gradient differ from row to row, and their values are not known"


def _zoneout(request: Request) -> str | None:
    return "zoneout mixes new states with old ones at every step" if request.cell.zoneout else None


def _updates(request: Request) -> str | None:
    cell = request.cell
    layers = [p for p in compat.parts(cell) if isinstance(p, keras.layers.Layer)]
    if any(p is not cell and p.non_trainable_variables for p in layers):
        return f"layers inside {type(cell).__name__} have variables that a step may update"
    return None


def _counts(request: Request) -> str | None:
    dtypes = [keras.backend.standardize_dtype(s.dtype) for s in request.states]
    if any(not keras.backend.is_float_dtype(d) and "complex" not in d for d in dtypes):
        return "a state is neither floating nor complex"
    return None


def _name(request: Request) -> str:
    return type(request.cell).__name__


NO_ZONEOUT = Need("no `zoneout`", _zoneout, rules_out=("zoneout",))
NO_UPDATES = Need("no layer inside the cell with variables that are updated", _updates)
NOT_COUNTED = Need("states that are floating or complex", _counts)
SAME_DTYPE = Need("the dtypes of the layer, and no activity regularizer", _another_dtype)
SOMETHING = Need("at least one row and one time step", _nothing)
WHOLE = Need(
    "no `remat` and no `truncate_gradient`", _chunked, rules_out=("remat", "truncate_gradient")
)
NO_TRANSFORMATION = Need("no transformation of PyTorch at work", _transformed)
A_CELL = Need("a `cellkit.Cell`", _other_cell)
SAME_BLOCKS = Need("no `truncate_gradient` with resets under a transformation", _other_blocks)
NOT_FULLY_UNROLLED = Need("no `unroll=True`", _fully_unrolled, rules_out=("unroll",))
NOT_UNROLLED = Need("no `unroll`", _unrolled, rules_out=("unroll", "unroll_by"))

SEVERAL_STEPS = Need("more than one time step", _single_step)
NOT_COMPILED = Need("a loop that no compiler runs", _compiled)
IN_TRAINING = Need("training", _inference)
TRAINING_OR_SEQUENCES = Need("training, or returned sequences", _one_output)


def untouched(owners: Mapping[str, type], constants: bool = False) -> Need:
    """Return the need of a cell that overrides none of these methods.

    Args:
        owners: For each method the class whose method it must be.
        constants: True if the engine hands constants to the steps of wrappers.
    """

    def why_not(request: Request) -> str | None:
        for method, owner in owners.items():
            if method == "call" and owner is Cell and has_common_call(request.cell):
                if not constants and request.constants and request.runner.takes_constants:
                    return f"constants are handed to {_name(request)} at every step"
                continue
            found = getattr(getattr(request.cell, method), "__func__", None)
            if found is not getattr(owner, method):
                return f"{_name(request)} has a `{method}` of its own"
        return None

    names = ", ".join(f"`{method}`" for method in owners)
    # A cell that takes constants has a `call` that does.
    rules_out = ("constants",) if "call" in owners and not constants else ()
    return Need(f"no {names} of the cell's own", why_not, rules_out)
