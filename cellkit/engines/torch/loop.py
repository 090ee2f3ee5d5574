"""The loop on PyTorch: eager, step by step."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from cellkit.engines.shared import unrolled as python
from cellkit.engines.shared.loop import Leaves, Loop
from cellkit.engines.torch.transformations import seen_through
from cellkit.typing import Tensor


def unstack(x: Tensor) -> list[Any]:
    """Split `(batch, time, ...)` into views of its time steps."""
    return list(x.unbind(1))


def stack(steps: list[Any]) -> Any:
    """Join time steps to `(batch, time, ...)`."""
    return torch.stack(steps, dim=1)


def select(keep: Tensor, new: Tensor, old: Tensor) -> Any:
    """Take `new` where `keep`, else `old`; `keep` has the leading axes of `new`."""
    keep = keep.reshape(keep.shape + (1,) * (new.ndim - keep.ndim))
    if not isinstance(old, torch.Tensor):
        old = torch.tensor(old, dtype=new.dtype, device=new.device)
    return torch.where(keep, new, old)


zeros_like = torch.zeros_like


def run(loop: Loop, inputs: Leaves, states: Leaves, mask: Tensor) -> tuple[Leaves, Any, Leaves]:
    """Run the loop; see `cellkit.engines.backend`."""
    arrays = sys.modules[__name__]
    batch, length = inputs[0].shape[:2]
    if length:
        return python.run(arrays, loop, inputs, states, mask)
    with torch.no_grad():
        output = trace_empty(loop, inputs, states)
    last = [torch.zeros((batch, *y.shape[1:]), dtype=y.dtype, device=y.device) for y in output]
    outputs = [y[:, None][:, :0] for y in last] if loop.collect else None
    # Copies: a caller that changes what it gets must not change what it gave.
    return last, outputs, [s.clone() for s in states]


def recomputed(loop: Loop) -> Loop:
    """Return a loop whose steps are computed again in the backward pass."""
    if not torch.is_grad_enabled() or seen_through():
        return loop

    def step(inputs: Leaves, states: Leaves) -> tuple[Leaves, Leaves]:
        def run(*tensors: Any) -> tuple[Leaves, Leaves]:
            x, s = list(tensors[: len(inputs)]), list(tensors[len(inputs) :])
            # The second time, the call of the layer is over.
            result: tuple[Leaves, Leaves] = loop.within(lambda: loop.step(x, s))
            return result

        result: tuple[Leaves, Leaves] = checkpoint(
            run, *inputs, *states, use_reentrant=False, preserve_rng_state=False
        )
        return result

    return dataclasses.replace(loop, step=step)


def trace_empty(loop: Loop, inputs: Leaves, states: Leaves) -> Leaves:
    """Learn the shapes of the output where there is no step to run, without side effects."""
    import keras

    def as_spec(x: Tensor, shape: Any) -> Any:
        return keras.KerasTensor(tuple(shape), dtype=keras.backend.standardize_dtype(x.dtype))

    class _Step(keras.Operation):
        def call(self, x: Tensor, s: Any) -> Any:
            return loop.step(x, s)[0]

    specs = _Step().compute_output_spec(
        [as_spec(x, (x.shape[0], *x.shape[2:])) for x in inputs],
        [as_spec(s, s.shape) for s in states],
    )
    return [
        torch.empty(s.shape, dtype=getattr(torch, s.dtype), device=inputs[0].device) for s in specs
    ]
