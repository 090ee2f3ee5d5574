"""The loop as a plain Python loop: for eager backends and for `unroll=True`."""

from __future__ import annotations

from typing import Any, Protocol

from cellkit.loops import Leaves, Loop


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
    """Run at least one time step; see `cellkit.loops.run`."""
    columns = [arrays.unstack(x) for x in inputs]
    keeps = None if mask is None else arrays.unstack(mask)
    length = len(columns[0])
    last: Leaves | None = None
    emitted: list[Leaves] = []
    for t in range(length - 1, -1, -1) if loop.reverse else range(length):
        output, new_states = loop.step([c[t] for c in columns], states)
        if keeps is None:
            last, states, out = output, new_states, output
        else:
            keep = keeps[t]
            states = [arrays.select(keep, n, s) for n, s in zip(new_states, states, strict=True)]
            held = last or [arrays.zeros_like(o) for o in output]
            last = [arrays.select(keep, o, y) for o, y in zip(output, held, strict=True)]
            out = [arrays.select(keep, o, 0) for o in output] if loop.zero_masked else last
        if loop.collect:
            emitted.append(out)
    assert last is not None  # noqa: S101 - callers pass at least one step
    outputs = [arrays.stack(list(s)) for s in zip(*emitted, strict=True)] if loop.collect else None
    return last, outputs, states
