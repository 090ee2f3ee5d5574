"""The loop on OpenVINO: a Python loop, whose operations OpenVINO collects into one graph."""

from __future__ import annotations

import sys
from typing import Any

import keras

from cellkit.engines.shared import unrolled as python
from cellkit.engines.shared.loop import Leaves, Loop
from cellkit.errors import problem
from cellkit.typing import Tensor


def unstack(x: Tensor) -> list[Any]:
    """Split `(batch, time, ...)` into its time steps."""
    return [x[:, t] for t in range(x.shape[1])]


def stack(steps: list[Any]) -> Any:
    """Join time steps to `(batch, time, ...)`."""
    return keras.ops.stack(steps, axis=1)


def select(keep: Tensor, new: Tensor, old: Tensor) -> Any:
    """Take `new` where `keep`, else `old`; `keep` has the leading axes of `new`."""
    for _ in range(len(new.shape) - len(keep.shape)):
        keep = keras.ops.expand_dims(keep, -1)
    return keras.ops.where(keep, new, keras.ops.cast(old, new.dtype))


zeros_like = keras.ops.zeros_like


def run(loop: Loop, inputs: Leaves, states: Leaves, mask: Tensor) -> tuple[Leaves, Any, Leaves]:
    """Run the loop; see `cellkit.engines.backend`."""
    length = inputs[0].shape[1]
    if not length:
        raise problem(
            "OpenVINO runs no sequence of a length that is zero or left open.",
            received=f"sequences of {length} steps",
            expected="a known number of steps, of which the graph holds each",
            fix="give `keras.Input` a length, such as keras.Input((50, 3)); or export the model to "
            "ONNX on another backend, which OpenVINO reads with its length left open",
        )
    return python.run(sys.modules[__name__], loop, inputs, states, mask)


def recurrence(a: Tensor, b: Tensor, h: Tensor, cuts: bool = False) -> Any:
    """Return all ``h_t = a_t * h_{t-1} + b_t``; see `cellkit.engines.backend.Backend`."""
    ops, states = keras.ops, []
    for factor, term in zip(unstack(ops.broadcast_to(a, b.shape)), unstack(b), strict=True):
        passed = factor * h
        h = (ops.where(factor == 0, ops.zeros_like(passed), passed) if cuts else passed) + term
        states.append(h)
    return stack(states)
