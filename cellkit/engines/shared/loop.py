"""The loop over time, once per backend.

All loops compute the same function. With leaves of shape `(batch, time, ...)`::

    y = zeros like the output; s = initial state
    for t in order:
        s, y = where(on[t], s, start), where(on[t], y, 0)
        out, new = step(x[t], s)
        s = where(keep[t], new, s)
        y = where(keep[t], out, y)
        emit y, or where(keep[t], out, 0) with `zero_masked`

What a step does besides returning tensors (random draws, updates of variables, `add_loss`)
happens once per time step: loops that trace their body thread it through the carry.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from cellkit.cells.scope import SequenceScope
from cellkit.typing import Tensor, Tree

ROWS = 32
"""The rows of a batch to reckon with where their number is unknown."""

Leaves = list[Any]
Step = Callable[[Leaves, Leaves], tuple[Leaves, Leaves]]


@dataclasses.dataclass
class Loop:
    """One run over time.

    Args:
        step: Maps the leaves of one step's inputs and of the states to the leaves of the output
            and of the new states, which have the shapes and dtypes of the old ones.
        reverse: True to go from the last step to the first.
        collect: True to return the output of every step.
        zero_masked: True if collected outputs are zero at masked steps.
        unroll: True for a plain Python loop, or the number of steps per turn of a compiled loop.
        scope: Masks that are drawn once per sequence.
        add_loss: Takes the sum of the losses that the steps added.
        remat: True to keep only the states between chunks for the backward pass; an int is the
            number of steps of a chunk. Torch's loop is given whole chunks instead.
        truncate: Number of steps after which the states carry no gradient further back, or None.
        on: Boolean tensor of shape `(batch, time)`, False where a new sequence begins, or None.
        linked: Boolean tensor of shape `(batch, time)`, False where states carry no gradient
            further back, or None.
        starts: The states `(batch, ...)` from which a new sequence begins, where there is `on`.
        clean: True if the padding was set to zero before the inputs were made, so that a loop that
            sees to that itself leaves them as they are.
        within: Runs a function as in the call of the layer, also when that call is over.
        constants: Further arguments of `step` at every step, any structure.
        with_constants: Returns the step for other constants.
    """

    step: Step
    reverse: bool
    collect: bool
    zero_masked: bool
    unroll: bool | int
    scope: SequenceScope
    add_loss: Callable[[Any], None]
    remat: bool | int = False
    truncate: int | None = None
    on: Tensor = None
    linked: Tensor = None
    starts: Leaves | None = None
    clean: bool = False
    within: Callable[[Callable[[], Any]], Any] = lambda function: function()
    constants: Tree = None
    with_constants: Callable[[Any], Step] | None = None


def as_states(outputs: Leaves, states: Leaves) -> list[int]:
    """Return for each output which of the states it is, if all are one; else an empty list."""
    places = [next((i for i, s in enumerate(states) if s is y), None) for y in outputs]
    return [] if None in places else [i for i in places if i is not None]


def chunk_length(remat: bool | int, time: int) -> int:
    """Return the number of steps of a chunk, for sequences of `time` steps."""
    return max(1, math.isqrt(time)) if remat is True else int(remat)
