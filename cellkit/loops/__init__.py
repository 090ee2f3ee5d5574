"""The loop over time, once per backend.

All loops compute the same function. With leaves of shape `(batch, time, ...)`::

    y = zeros like the output; s = initial state
    for t in order:
        out, new = step(x[t], s)
        s = where(keep[t], new, s)
        y = where(keep[t], out, y)
        emit y, or where(keep[t], out, 0) with `zero_masked`

What a step does besides returning tensors (random draws, updates of variables, `add_loss`)
happens once per time step: loops that trace their body thread it through the carry.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable
from typing import Any

import keras

from cellkit._sequence import SequenceScope

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
        reverse: Whether to go from the last step to the first.
        collect: Whether to return the output of every step.
        zero_masked: Whether collected outputs are zero at masked steps.
        unroll: True for a plain Python loop, or the number of steps per turn of a compiled loop.
        scope: Masks that are drawn once per sequence.
        add_loss: Takes the sum of the losses that the steps added.
        remat: Whether to keep only the states between chunks for the backward pass; an int is the
            number of steps of a chunk. Torch's loop is given whole chunks instead.
        truncate: Number of steps after which the states carry no gradient further back, or None.
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


def run(loop: Loop, inputs: Leaves, states: Leaves, mask: Any) -> tuple[Leaves, Any, Leaves]:
    """Run `loop` on the current backend.

    Args:
        loop: What to run.
        inputs: Leaves of shape `(batch, time, ...)`.
        states: Leaves of shape `(batch, ...)`.
        mask: Boolean tensor of shape `(batch, time)`, True where the step counts, or None. The
            inputs of masked steps must be finite, but on JAX: a NaN reaches the gradients through
            `0 * NaN` even though the step's result is discarded.

    Returns:
        The leaves of the last output, those of all outputs `(batch, time, ...)` in the order
        processed (None unless `loop.collect`), and those of the final states.
    """
    result: tuple[Leaves, Any, Leaves] = _backend.run(loop, inputs, states, mask)
    return result


def as_states(outputs: Leaves, states: Leaves) -> list[int]:
    """Return for each output which of the states it is, if all are one; else an empty list."""
    places = [next((i for i, s in enumerate(states) if s is y), None) for y in outputs]
    return [] if None in places else [i for i in places if i is not None]


def chunk_length(remat: bool | int, time: int) -> int:
    """Return the number of steps of a chunk, for sequences of `time` steps."""
    return max(1, math.isqrt(time)) if remat is True else int(remat)


def select(keep: Any, new: Any, old: Any) -> Any:
    """Take `new` where `keep`, else `old`; `keep` has the leading axes of `new`."""
    return _backend.select(keep, new, old)


def compiled(
    body: Callable[..., Any], arguments: Any, layer: Any, key: Any, scope: SequenceScope
) -> Any:
    """Return ``body(*arguments)``, on JAX compiled once also for eager calls.

    Args:
        body: A function of tensors.
        arguments: Its arguments, any structure of tensors and None.
        layer: The layer that calls, with the compiled functions in its `_holder`.
        key: What besides shapes and dtypes tells one compiled function from another.
        scope: Masks that are drawn once per sequence.
    """
    if keras.backend.backend() != "jax":
        return body(*arguments)
    return _backend.compiled(body, arguments, layer, key, scope)


# Keras has one backend per process. Imported last: the loops take their types from above. And not
# in `run`, where `torch.compile` would stop.
_backend = importlib.import_module(f"cellkit.loops.{keras.backend.backend()}")
