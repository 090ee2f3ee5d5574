"""Computations for the rows of all time steps at once, and the proof that each row stands alone.

`project`, and of a parallel cell `coefficients`, `factors` and `read`, are given the rows of all
steps together. Nothing stops them from reading values on the host, or from computing with the
number of rows or with other rows. The backends run them with rows that are made up; what is common
to that is here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from cellkit.cells.cell import training_mode
from cellkit.cells.effects import Undone
from cellkit.cells.parallel import ParallelCell
from cellkit.cells.recorder import Recorder
from cellkit.cells.runner import trace
from cellkit.cells.scope import SequenceScope, sequence_scope
from cellkit.engines.request import pack
from cellkit.typing import Tensor

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves

NAME = "`project`, `coefficients`, `factors` and `read` without effects, row by row"
"""The name of the need on every backend."""

TOLERANCE = {"float64": 1e-9, "complex128": 1e-9, "float16": 2**-7, "bfloat16": 2**-4}
"""By how much two results may differ, of the largest number: far less than another computation."""

ROUGH = 1e-4
"""That of all other dtypes."""


def quietly(request: Request, examine: Callable[[], str | None]) -> str | None:
    """Examine a cell, and leave nothing of that behind."""
    name = type(request.cell).__name__
    reason = None
    with Undone(request.cell) as effects:
        if effects.found is None:
            reason = examine()
    reason = effects.found if effects.found is not None else reason
    return None if reason is None else f"what {name} computes for many rows {reason}"


def traced(request: Request) -> str | None:
    """Trace what is computed for unknown rows; return what it does besides, or None."""
    inputs, states = keras.tree.flatten(request.inputs), request.states
    symbols = [_symbol(x, 2) for x in inputs], [_symbol(s, 1) for s in states]
    recorder = Recorder()
    trace(lambda x, s: results(request, x, s, recorder), *symbols, variables=request.cell.variables)
    if recorder.written or recorder.losses:
        return "draws random numbers, writes a variable or adds a loss"
    return None


def results(request: Request, inputs: Leaves, states: Leaves, recorder: Any = None) -> Leaves:
    """Return the leaves of all that the cell computes for many rows at once.

    Args:
        request: The run. Its training flag counts only where nothing is dropped: masks that are
            drawn once per call differ from row to row.
        inputs: Leaves of rows.
        states: Leaves of rows.
        recorder: Sees what a second run does, when all masks are drawn.
    """
    training = request.training and recorder is not None
    scope = SequenceScope(keras.ops.shape(inputs[0])[0])
    with sequence_scope(scope, [], training), training_mode(training):
        with Recorder():
            results = _computed(request, inputs, states, training)
        if recorder is not None:
            with recorder:
                results = _computed(request, inputs, states, training)
    return results


def _computed(request: Request, inputs: Leaves, states: Leaves, training: bool) -> Leaves:
    cell = request.cell
    x = cell.prepare(pack(request.inputs, inputs), training)
    results = keras.tree.flatten(x)
    if isinstance(cell, ParallelCell):
        own, seen = cell.split_states(request.runner.layout.pack(states))
        if seen:
            x = cell.look(
                keras.tree.map_structure(lambda v: keras.ops.stack([v] * cell.window, 1), x)
            )
        results += cell.for_rows(own, x)
    return [keras.ops.convert_to_tensor(r) for r in results]


def _symbol(x: Tensor, lead: int) -> Any:
    shape = (None, *x.shape[lead:])
    return keras.KerasTensor(shape, dtype=keras.backend.standardize_dtype(x.dtype))


def alike(whole: Leaves, part: Leaves, places: Any, count: int) -> bool:
    """Tell whether a part of the rows gave what they gave among all.

    Args:
        whole: Results for all rows, as tensors whose values are known.
        part: Results for some of them.
        places: The rows: a list of numbers, or a slice.
        count: Number of all rows.
    """
    if len(whole) != len(part):
        return False
    for a, b in zip(map(_array, whole), map(_array, part), strict=True):
        if a.ndim and a.shape[0] == count:
            a = a[places]
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        tolerance = TOLERANCE.get(a.dtype.name, ROUGH)
        wide = "complex128" if a.dtype.kind == "c" else "float64"
        a, b = a.astype(wide), b.astype(wide)
        scale = max(1.0, np.abs(a[np.isfinite(a)]).max(initial=0.0))
        if not np.allclose(a, b, rtol=0.0, atol=tolerance * scale, equal_nan=True):
            return False
    return True


def _array(x: Tensor) -> Any:
    return np.asarray(keras.ops.convert_to_numpy(x))
