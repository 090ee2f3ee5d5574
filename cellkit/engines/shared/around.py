"""The rules around a step of every loop: resets, masks, held outputs, and the order.

A loop gives a step its inputs and states, and hands on what `Around` makes of the results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from cellkit.cells.operations import numbered
from cellkit.typing import Tensor

Leaves = list[Any]
Select = Callable[[Any, Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Around:
    """The rules of `cellkit.engines.shared.loop` for resets and for masked steps.

    Args:
        select: Takes ``(keep, new, old)`` and returns the rows of `new` where a step counts, those
            of `old` elsewhere.
        zero_masked: True if what a masked step shows is zero.
        as_state: For each output the state that it is, if all are; else empty. Such an output is
            not carried beside the states: see `at_the_end`.
        starts: The states from which a sequence begins at a reset, where there are resets.
    """

    select: Select
    zero_masked: bool
    as_state: tuple[int, ...] = ()
    starts: Leaves | None = None

    def before(
        self, on: Tensor, linked: Tensor, states: Leaves, last: Leaves
    ) -> tuple[Leaves, Leaves]:
        """Return the states that a step is given, and the last output before it.

        Args:
            on: True for rows whose sequence goes on from the step before, `(batch,)`; None: all.
            linked: True for rows whose states pass a gradient, `(batch,)`; None: all.
            states: The states after the step before.
            last: The last output after it.
        """
        if linked is not None:
            free = [keras.ops.stop_gradient(s) for s in states]
            states = [self.select(linked, s, f) for s, f in zip(states, free, strict=True)]
        if on is not None and self.starts is not None:
            states = [self.select(on, s, new) for s, new in zip(states, self.starts, strict=True)]
            last = [self.select(on, y, 0) for y in last]
        return states, last

    def back(
        self, on: Tensor, d_states: Leaves, d_last: Leaves, d_starts: Leaves
    ) -> tuple[Leaves, Leaves, Leaves]:
        """Return the gradients of the arguments of `before`, and those of the starts so far.

        Args:
            on: As `before` was given it.
            d_states: Gradients of the states that `before` returned.
            d_last: Gradients of the last output that it returned.
            d_starts: Gradients of the starts from the steps that come later.
        """
        zeros = [keras.ops.zeros_like(d) for d in d_states]
        each = zip(d_starts, d_states, zeros, strict=True)
        d_starts = [sum_ + self.select(on, zero, d) for sum_, d, zero in each]
        d_states = [self.select(on, d, 0) for d in d_states]
        return d_states, [self.select(on, d, 0) for d in d_last], d_starts

    def after(
        self, keep: Tensor, output: Leaves, news: Leaves, states: Leaves, last: Leaves
    ) -> tuple[Leaves, Leaves, Leaves]:
        """Return the states after a step, the last output then, and what the step shows.

        Args:
            keep: True for rows that the step counts for, `(batch,)`, or None for all.
            output: The output of the step.
            news: The new states that it returned.
            states: The states before it.
            last: The last output before it; not looked at without `keep`.
        """
        if keep is not None:
            select = self.select
            news = [select(keep, n, s) for n, s in zip(news, states, strict=True)]
        if self.as_state:
            return news, [], [news[i] for i in self.as_state]
        if keep is None:
            return news, output, output
        held = [select(keep, o, y) for o, y in zip(output, last, strict=True)]
        shown = [select(keep, o, 0) for o in output] if self.zero_masked else held
        return news, held, shown

    def at_the_end(
        self,
        keep: Tensor,
        ever: Callable[[Any], Any],
        so_far: Callable[[Any], Any],
        states: Leaves,
        shown: Leaves,
    ) -> tuple[Leaves, Leaves]:
        """Return the last output, and what all steps show, of outputs that are states.

        Args:
            keep: True for steps that count, `(time, batch)`, or None for all.
            ever: Makes of `keep` whether any step of a row counts, `(batch,)`.
            so_far: Makes of `keep` whether a step of the row has counted so far, `(time, batch)`.
            states: The final states.
            shown: The outputs that the steps showed, `(time, batch, ...)`; empty if unwanted.
        """
        last = [states[i] for i in self.as_state]
        if keep is None:
            return last, shown
        # Before the first step that counts there is a state, but no output.
        some = ever(keep)
        last = [self.select(some, y, 0) for y in last]
        if not shown:
            return last, []
        seen = keep if self.zero_masked else so_far(keep)
        return last, [self.select(seen, y, 0) for y in shown]


def order(length: int, reverse: bool) -> range:
    """Return the steps in the order processed."""
    return range(length - 1, -1, -1) if reverse else range(length)


def in_order(reverse: bool, flip: Callable[[Any], Any], leaves: Leaves) -> Leaves:
    """Return tensors with their steps in the order processed.

    Args:
        reverse: True to go from the last step to the first.
        flip: Turns the time axis round.
        leaves: Tensors with a time axis, or None.
    """
    return [flip(x) if reverse and x is not None else x for x in leaves]


def truncation(resets: Tensor, size: int, reverse: bool) -> Any:
    """Return through which steps a gradient passes, where blocks of steps let none into the next.

    Args:
        resets: Boolean tensor `(batch, time)`, True where a new sequence begins, and with it a
            block.
        size: Number of steps of a block.
        reverse: True to go from the last step to the first.

    Returns:
        Boolean tensor `(batch, time)`, False at the first step of every block but the first of a
        sequence.
    """
    flip = keras.ops.flip
    steps = numbered(keras.ops.shape(resets)[1])[None]
    resets = flip(resets, axis=1) if reverse else resets
    age = steps - latest(keras.ops.where(resets, steps, 0))
    # The first step of a sequence passes its gradient on.
    linked = keras.ops.logical_or(keras.ops.not_equal(age % size, 0), keras.ops.equal(age, 0))
    return flip(linked, axis=1) if reverse else linked


def latest(steps: Any) -> Any:
    """Return the largest entry of each row of `(batch, time)` up to every step."""
    found = keras.ops.associative_scan(keras.ops.maximum, steps, axis=1)
    return keras.ops.reshape(found, keras.ops.shape(steps))  # TensorFlow forgets the rank
