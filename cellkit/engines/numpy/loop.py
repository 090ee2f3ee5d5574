"""The loop on NumPy: a plain Python loop, which a debugger can follow step by step."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from cellkit.cells.recorder import Recorder
from cellkit.engines.shared import unrolled as python
from cellkit.engines.shared.loop import Leaves, Loop
from cellkit.typing import Tensor


def unstack(x: Tensor) -> list[Any]:
    """Split `(batch, time, ...)` into views of its time steps."""
    return [x[:, t] for t in range(x.shape[1])]


def stack(steps: list[Any]) -> Any:
    """Join time steps to `(batch, time, ...)`."""
    return np.stack(steps, axis=1)


def select(keep: Tensor, new: Tensor, old: Tensor) -> Any:
    """Take `new` where `keep`, else `old`; `keep` has the leading axes of `new`."""
    keep = keep.reshape(keep.shape + (1,) * (new.ndim - keep.ndim))
    return np.where(keep, new, np.asarray(old, dtype=new.dtype))


zeros_like = np.zeros_like


def run(loop: Loop, inputs: Leaves, states: Leaves, mask: Tensor) -> tuple[Leaves, Any, Leaves]:
    """Run the loop; see `cellkit.engines.backend`."""
    length = inputs[0].shape[1]
    # NumPy warns of an overflow in `exp`, which a sigmoid takes for a zero, as everywhere else.
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        if length:
            return python.run(sys.modules[__name__], loop, inputs, states, mask)
        last = [np.zeros_like(y) for y in _outputs(loop, inputs, states)]
    outputs = [y[:, None][:, :0] for y in last] if loop.collect else None
    return last, outputs, [s.copy() for s in states]


def _outputs(loop: Loop, inputs: Leaves, states: Leaves) -> Leaves:
    """Learn the shapes of the output where there is no step to run, without side effects."""
    first = [np.zeros((x.shape[0], *x.shape[2:]), x.dtype) for x in inputs]
    with Recorder():
        output: Leaves = loop.step(first, states)[0]
    return output
