"""The loop as a plain Python loop: for eager backends and for `unroll=True`."""

from __future__ import annotations

from typing import Any, Protocol

import keras

from cellkit.engines.shared.loop import Leaves, Loop


class Arrays(Protocol):
    """The array functions that differ between backends."""

    def unstack(self, x: Any) -> list[Any]:
        """Split `(batch, time, ...)` into its time steps."""

    def stack(self, steps: list[Any]) -> Any:
        """Join time steps to `(batch, time, ...)`."""

    def select(self, keep: Any, new: Any, old: Any) -> Any:
        """Take rows (or steps) of `new` where `keep`, else of `old`."""

    def zeros_like(self, x: Any) -> Any:
        """Make zeros of the shape and dtype of `x`."""


def run(arrays: Arrays, loop: Loop, inputs: Leaves, states: Leaves, mask: Any) -> Any:
    """Run at least one time step; see `cellkit.engines.backend`."""
    columns = [arrays.unstack(x) for x in inputs]
    keep = None if mask is None else _Columns(arrays, mask)
    length = len(columns[0])
    last: Leaves | None = None
    emitted: list[Leaves] = []
    for t in range(length - 1, -1, -1) if loop.reverse else range(length):
        output, new_states = loop.step([c[t] for c in columns], states)
        if keep is None:
            last, states, out = output, new_states, output
        else:
            states = [keep.select(t, n, s) for n, s in zip(new_states, states, strict=True)]
            held = last or [arrays.zeros_like(o) for o in output]
            last = [keep.select(t, o, y) for o, y in zip(output, held, strict=True)]
            out = [keep.select(t, o, 0) for o in output] if loop.zero_masked else last
        if loop.collect:
            emitted.append(out)
    assert last is not None  # noqa: S101 - callers pass at least one step
    outputs = [arrays.stack(list(s)) for s in zip(*emitted, strict=True)] if loop.collect else None
    return last, outputs, states


class _Columns:
    """The columns of a mask, given the axes of what they select: once per rank, not at every step.

    Args:
        arrays: The array functions.
        mask: Boolean tensor of shape `(batch, time)`.
    """

    def __init__(self, arrays: Arrays, mask: Any) -> None:
        self.arrays = arrays
        self.mask = mask
        self.by_rank: dict[int, list[Any]] = {}

    def select(self, step: int, new: Any, old: Any) -> Any:
        """Take rows of `new` where the mask holds at `step`, else of `old`."""
        rank = len(new.shape)
        if rank not in self.by_rank:
            mask = self.mask
            for _ in range(rank - 1):
                mask = keras.ops.expand_dims(mask, -1)
            self.by_rank[rank] = self.arrays.unstack(mask)
        return self.arrays.select(self.by_rank[rank][step], new, old)
