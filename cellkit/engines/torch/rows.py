"""A trial of what is computed for all steps at once: each step must compute the same alone.

`project`, and of a linear cell `coefficients` and `read`, are given the rows of all steps together.
Nothing stops them from reading values on the host, from computing with the number of rows or with
other rows, or from counting. So they are run with rows that are made up, all together and in parts,
and what that changes in Python is put back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import torch

from cellkit.cells.cell import training_mode
from cellkit.cells.effects import Undone
from cellkit.cells.parallel import ParallelCell
from cellkit.cells.recorder import Recorder
from cellkit.cells.scope import SequenceScope, sequence_scope
from cellkit.engines.engine import Need
from cellkit.engines.request import pack
from cellkit.engines.shared import step as steps
from cellkit.engines.shared.rows import NAME
from cellkit.engines.torch.derive.guard import Guard, Refused
from cellkit.engines.torch.transformations import transformed
from cellkit.typing import Tensor

if TYPE_CHECKING:
    from cellkit.engines.request import Request

_TOLERANCE = {torch.float64: 1e-9, torch.complex128: 1e-9, torch.float16: 2**-7}
_ROUGH = 1e-4
_TRIES = 3


def _not_apart(request: Request) -> str | None:
    leaves = keras.tree.flatten(request.inputs)
    key = tuple((x.dtype, x.device, tuple(x.shape[2:])) for x in leaves)
    if transformed() is None:
        reason: str | None = steps.remember(request, "rows", key, lambda: _quietly(request))
        return reason
    # Operations run here would become part of a trace, and their values could not be seen.
    known = steps.remembered(request, "rows", key)
    if known is None:
        return "PyTorch traces or transforms a call of a cell that was not examined before"
    return known[0]


APART = Need(NAME, _not_apart, costly=True)


def _quietly(request: Request) -> str | None:
    """Examine the cell, and leave nothing of that behind."""
    name = type(request.cell).__name__
    seen = request.options.cache.memoize("effects of many rows", list)
    if len(seen) < _TRIES:
        reason = None
        with Undone(request.cell) as effects, torch.inference_mode(False):
            if effects.found is None:
                reason = _examine(request)
        if effects.found is None or reason is not None:
            return None if reason is None else f"what {name} computes for many rows {reason}"
        seen.append(effects.found)
    return f"what {name} computes for many rows {seen[-1]}"


def _examine(request: Request) -> str | None:
    """Return what is wrong with rows that are computed together, or None."""
    taken = {n for x in keras.tree.flatten(request.inputs) for n in x.shape}
    taken |= {n for v in request.cell.variables for n in v.shape}
    count = next(n for n in range(11, 11 + len(taken) + 1) if n not in taken)
    generator = torch.Generator(device="cpu").manual_seed(5)
    inputs = [_made_up(x, count, generator) for x in keras.tree.flatten(request.inputs)]
    states = [_made_up(s[:, None], count, generator) for s in request.states]
    try:
        if request.training and _Rows(request, True)(inputs, states, twice=True).writes:
            return "draws random numbers, or writes a variable"
        run = _Rows(request, False)
        try:
            whole = run(inputs, states, guard=Guard(count))
        except Refused as refused:
            if "host" in str(refused):
                return str(refused)
            # It computes with the number of rows, as to give tensors a shape: does it matter?
            whole = run(inputs, states, guard=Guard(-1))
        if whole.writes:
            return "draws random numbers, or writes a variable"
        for places in ([4, 0, 7], [5], [*range(count)] * 25):
            part = run([x[places] for x in inputs], [s[places] for s in states])
            if not _alike(whole.results, part.results, places, count):
                return "depends on the other rows, or on their number"
    except Refused as refused:
        return str(refused)
    except Exception as error:  # if it is the cell's own, the loop will raise it
        return f"raises {type(error).__name__} for made-up rows: {error}"
    return None


class _Outcome:
    """The results of a run, and whether it wrote variables, drew numbers or added losses."""

    def __init__(self, results: list[Any], writes: bool) -> None:
        self.results, self.writes = results, writes


class _Rows:
    """The computation of a cell for many rows, as a function of leaves."""

    def __init__(self, request: Request, training: bool) -> None:
        self.request, self.training = request, training

    def __call__(
        self, inputs: list[Any], states: list[Any], guard: Any = None, twice: bool = False
    ) -> _Outcome:
        """Run it.

        Args:
            inputs: Leaves of rows.
            states: Leaves of rows.
            guard: The guard that refuses host reads.
            twice: True if a first run draws the masks that are drawn once per call.
        """
        scope, training = SequenceScope(len(inputs[0])), self.training
        with torch.no_grad(), sequence_scope(scope, [], training), training_mode(training):
            if twice:
                with Recorder():
                    self._results(inputs, states)
            with Recorder() as recorder:
                results = self._guarded(guard, lambda: self._results(inputs, states))
        return _Outcome(results, bool(recorder.written or recorder.losses))

    def _guarded(self, guard: Any, run: Callable[[], list[Any]]) -> list[Any]:
        if guard is None:
            return run()
        with guard:
            results = run()
        if guard.reason is not None:
            raise Refused(guard.reason)
        return results

    def _results(self, inputs: list[Any], states: list[Any]) -> list[Any]:
        cell, request = self.request.cell, self.request
        x = cell.prepare(pack(request.inputs, inputs), self.training)
        results = keras.tree.flatten(x)
        if isinstance(cell, ParallelCell):
            own, seen = cell.split_states(request.runner.layout.pack(states))
            if seen:
                x = cell.look(
                    keras.tree.map_structure(lambda v: torch.stack([v] * cell.window, 1), x)
                )
            results += cell.for_rows(own, x)
        return results


def _made_up(x: Tensor, count: int, generator: Any) -> Any:
    shape = (count, *x.shape[2:])
    if x.is_floating_point() or x.is_complex():
        made = torch.randn(shape, generator=generator, dtype=x.dtype, device="cpu")
    else:
        made = torch.randint(0, 2, shape, generator=generator).to(x.dtype)
    return made.to(x.device)


def _alike(whole: list[Any], part: list[Any], places: list[int], count: int) -> bool:
    """Tell whether a part of the rows gave what they gave among all."""
    if len(whole) != len(part):
        return False
    for a, b in zip(whole, part, strict=True):
        if not (torch.is_tensor(a) and torch.is_tensor(b)):
            if torch.is_tensor(a) or torch.is_tensor(b) or a != b:
                return False
            continue
        a = a[places] if a.ndim and a.shape[0] == count else a
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        tolerance = _TOLERANCE.get(a.dtype, 2**-4 if a.dtype is torch.bfloat16 else _ROUGH)
        scale = max(1.0, float(a.abs().nan_to_num().max())) if a.numel() else 1.0
        if not torch.allclose(a, b, rtol=0.0, atol=tolerance * scale, equal_nan=True):
            return False
    return True
