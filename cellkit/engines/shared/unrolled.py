"""The loop as a plain Python loop: for eager backends and for `unroll=True`."""

from __future__ import annotations

from typing import Any, Protocol

import keras

from cellkit.engines.shared.around import Around, order
from cellkit.engines.shared.loop import Leaves, Loop
from cellkit.typing import Tensor


class Arrays(Protocol):
    """The array functions that differ between backends."""

    def unstack(self, x: Tensor) -> list[Any]:
        """Split `(batch, time, ...)` into its time steps."""

    def stack(self, steps: list[Any]) -> Any:
        """Join time steps to `(batch, time, ...)`."""

    def select(self, keep: Tensor, new: Tensor, old: Tensor) -> Any:
        """Take rows (or steps) of `new` where `keep`, else of `old`."""

    def zeros_like(self, x: Tensor) -> Any:
        """Make zeros of the shape and dtype of `x`."""


def run(arrays: Arrays, loop: Loop, inputs: Leaves, states: Leaves, mask: Tensor) -> Any:
    """Run at least one time step; see `cellkit.engines.backend`."""
    columns = [arrays.unstack(x) for x in inputs]
    flags = [None if x is None else _Columns(arrays, x) for x in (mask, loop.on, loop.linked)]
    around = Around(_select, loop.zero_masked, starts=loop.starts)
    last: Leaves = []
    emitted: list[Leaves] = []
    for t in order(len(columns[0]), loop.reverse):
        keep, on, linked = [None if x is None else (x, t) for x in flags]
        states, last = around.before(on, linked, states, last if keep else [])
        output, news = loop.step([c[t] for c in columns], states)
        if keep:
            last = last or [arrays.zeros_like(o) for o in output]
        states, last, out = around.after(keep, output, news, states, last)
        if loop.collect:
            emitted.append(out)
    outputs = [arrays.stack(list(s)) for s in zip(*emitted, strict=True)] if loop.collect else None
    return last, outputs, states


def _select(at: tuple[_Columns, int], new: Tensor, old: Tensor) -> Any:
    columns, step = at
    return columns.select(step, new, old)


class _Columns:
    """The columns of a mask, given the axes of what they select: once per rank, not at every step.

    Args:
        arrays: The array functions.
        mask: Boolean tensor of shape `(batch, time)`.
    """

    def __init__(self, arrays: Arrays, mask: Tensor) -> None:
        self.arrays = arrays
        self.mask = mask
        self.by_rank: dict[int, list[Any]] = {}

    def select(self, step: int, new: Tensor, old: Tensor) -> Any:
        """Take rows of `new` where the mask holds at `step`, else of `old`."""
        rank = len(new.shape)
        if rank not in self.by_rank:
            mask = self.mask
            for _ in range(rank - 1):
                mask = keras.ops.expand_dims(mask, -1)
            self.by_rank[rank] = self.arrays.unstack(mask)
        return self.arrays.select(self.by_rank[rank][step], new, old)
