"""Examples that Hypothesis draws of a space, where many are asked for.

It costs more than a few examples do, its import included, so few are drawn by `strategies.sample`.
"""

from __future__ import annotations

from itertools import cycle, islice

import numpy as np
from hypothesis import strategies as st

from cellkit_conformance.examples.strategies import EVERY, MIXED, Example, Mask, Space, every


@st.composite
def masks(draw: st.DrawFn, kind: str, batch: int, time: int) -> Mask | None:
    """Draw a mask of one kind.

    Args:
        draw: Given by Hypothesis.
        kind: One of `MASKS`.
        batch: B.
        time: T.

    Returns:
        Rows of bools, or None for the kind "none".
    """
    if kind == "none":
        return None
    if kind in MIXED:
        kinds = islice(cycle(MIXED[kind]), batch)
        return tuple(row for one in kinds for row in draw(masks(one, 1, time)) or ())
    rows = np.ones((batch, time), dtype=bool)
    if kind in EVERY:
        rows = every(kind, batch, time)
    elif kind == "all_masked":
        rows[:] = False
    elif kind == "alternating":
        first = draw(st.integers(0, 1))
        rows[:] = (np.arange(time)[None] + np.arange(batch)[:, None] + first) % 2 == 0
    elif kind == "one_row_masked":
        rows[draw(st.integers(0, batch - 1))] = False
    elif kind == "any":
        bits = draw(st.lists(st.booleans(), min_size=batch * time, max_size=batch * time))
        rows = np.array(bits, dtype=bool).reshape(batch, time)
    elif kind != "all_true":
        for row in rows:
            _pad(draw, row, kind)
    return tuple(tuple(bool(bit) for bit in row) for row in rows)


def _pad(draw: st.DrawFn, row: np.ndarray, kind: str) -> None:
    """Mask one row in place: its end, its beginning, or something with valid steps around it."""
    time = len(row)
    if kind == "interior":
        if time >= 3:
            start = draw(st.integers(1, time - 2))
            row[start : draw(st.integers(start + 1, time - 1))] = False
        return
    padding = draw(st.integers(min(1, time - 1), time - 1))
    if kind == "right":
        row[time - padding :] = False
    else:
        row[:padding] = False


@st.composite
def examples(draw: st.DrawFn, space: Space) -> Example:
    """Draw an example of a space.

    Args:
        draw: Given by Hypothesis.
        space: The dimensions of the examples.

    Returns:
        The example; Hypothesis shrinks towards the first entry of everything.
    """
    batch, time = draw(st.sampled_from(list(space.shapes)))
    kind = draw(st.sampled_from(list(space.masks)))
    return Example(
        batch=batch,
        time=time,
        values=draw(st.sampled_from(list(space.values))),
        seed=draw(st.integers(0, 2**16 - 1)),
        weights=draw(st.integers(0, space.weight_sets - 1)),
        initial_state=draw(st.sampled_from(list(space.initial_states))),
        mask=draw(masks(kind, batch, time)),
        kind=kind,
        options=draw(st.sampled_from(list(space.options))),
        split=draw(st.sampled_from(list(space.splits))),
    )
