"""Any engine on PyTorch, chunk by chunk: for `remat`, `truncate_gradient`, and long inference.

With `remat` the backward pass of a chunk runs the chunk once more from the states before it. It
must find everything as it was: the masks of the call, and the variables that the chunk writes,
which the states of random generators are among.

At inference without sequences, chunks keep the memory from growing with the number of steps, where
an engine works on all steps that it is given at once.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import keras
import torch

from cellkit import _keras_compat as compat
from cellkit.cells.effects import Undone
from cellkit.cells.recorder import Recorder, current_values
from cellkit.cells.scope import reopened
from cellkit.engines.shared import plain
from cellkit.engines.shared.loop import chunk_length
from cellkit.engines.torch.loop import select
from cellkit.engines.torch.transformations import seen_through
from cellkit.typing import Tensor

if TYPE_CHECKING:
    from cellkit.engines.engine import Engine
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves


# Steps of a chunk at inference: enough for the products of an engine to be large.
_STREAMED = 256


def wanted(request: Request, engine: Engine) -> bool:
    """Tell whether a request is to be run in chunks."""
    if torch.is_grad_enabled():
        if not request.options.chunked and (request.linked is None or engine.loops):
            return False
    elif request.collect or request.training:
        return False
    given = request.inputs
    first = given if torch.is_tensor(given) else keras.tree.flatten(given)[0]
    least = 0 if torch.is_grad_enabled() else _STREAMED
    return bool(first.shape[1] > least)


def run(request: Request, engine: Engine) -> tuple[Leaves, Any, Leaves]:
    """Run `engine` chunk by chunk; see `cellkit.engines`."""
    options, states = request.options, request.states
    time = keras.tree.flatten(request.inputs)[0].shape[1]
    streaming = not torch.is_grad_enabled()
    # A tracer or a transform decides itself what it keeps of a chunk.
    again = bool(options.remat) and not streaming and not seen_through()
    begins = list(range(0, time, _STREAMED if streaming else options.truncate or time))
    linked = None
    if request.linked is not None and not engine.loops and not streaming:
        # Blocks that differ from row to row: a chunk ends where one of any row does.
        linked = request.linked.flip(1) if request.reverse else request.linked
        begins = [t for t in range(time) if t in begins or not bool(linked[:, t].all())]
        request = dataclasses.replace(request, linked=None)
    size = chunk_length(options.remat, time) if again else time
    if again:
        _draw_masks(request)
    last: Any = None
    collected: list[Leaves] = []
    for start, end in zip(begins, [*begins[1:], time], strict=True):
        if start and linked is not None:
            states = [select(linked[:, start], s, s.detach()) for s in states]
        elif start:
            states = [s.detach() for s in states]
        for first in range(start, end, size):
            part = _part(request, first, min(first + size, end), time, states)
            held, outputs, states = _Chunk(part, engine).run() if again else engine.run(part)
            if part.mask is not None and last is not None:
                # Until a row has a step of its own in this chunk, or begins anew, it repeats what
                # was before.
                seen = part.mask if part.resets is None else part.mask | part.resets
                seen = (seen.flip(1) if request.reverse else seen).cumsum(1) > 0
                held = [select(seen[:, -1], y, b) for y, b in zip(held, last, strict=True)]
                if outputs is not None and not request.zero_masked:
                    before = [b[:, None].expand_as(y) for y, b in zip(outputs, last, strict=True)]
                    outputs = [select(seen, y, b) for y, b in zip(outputs, before, strict=True)]
            last = held
            collected.append(outputs)
    if not request.collect:
        return last, None, states
    return last, [torch.cat(ys, 1) for ys in zip(*collected, strict=True)], states


def _part(request: Request, first: int, end: int, time: int, states: Leaves) -> Request:
    """Return the steps from `first` to `end`, in the order processed."""
    steps = slice(time - end, time - first) if request.reverse else slice(first, end)

    def cut(x: Tensor) -> Any:
        return None if x is None else x[:, steps]

    return dataclasses.replace(
        request,
        inputs=keras.tree.map_structure(cut, request.inputs),
        states=states,
        mask=cut(request.mask),
        resets=cut(request.resets),
        linked=cut(request.linked),
    )


def _draw_masks(request: Request) -> None:
    """Draw the masks that are constant over time, which a first step without effect asks for."""
    with Undone(request.cell), torch.no_grad(), Recorder():
        plain.run(
            _part(request, 0, 1, keras.tree.flatten(request.inputs)[0].shape[1], request.states)
        )
    request.scope.redraw()
    request.scope.settle()


class _Chunk:
    """A chunk that can be run again."""

    def __init__(self, request: Request, engine: Engine) -> None:
        self.request, self.engine = request, engine
        self.variables = [v for v in request.options.variables() if v.value.requires_grad]
        stock = request.scope.stock
        self.drawn = [compat.cached_dropout_masks(cell) for cell in stock]
        self.starts: list[tuple[Any, Any]] = []
        self.structure = (request.inputs, request.states, request.constants, request.starts or [])
        self.counts: list[int] = []
        self.has_losses = False

    def run(self) -> tuple[Leaves, Any, Leaves]:
        """Run the chunk, its gradient being a second run."""
        leaves = keras.tree.flatten(self.structure)
        loss, *results = _Again.apply(self, *leaves, *current_values(self.variables))
        if self.has_losses:
            self.request.options.add_loss(loss)
        return self._unpack(results)

    def first(self) -> list[Any]:
        """Compute the chunk."""
        with Recorder() as recorder:
            result = self.engine.run(self.request)
        written = recorder.written.values()
        starts = [value.clone() for value in current_values(written)]
        self.starts = list(zip(written, starts, strict=True))
        for variable in written:
            variable.assign(recorder.get_current_value(variable))
        self.has_losses = bool(recorder.losses)
        return self._pack(result, recorder.losses)

    def again(self, tensors: list[Any]) -> list[Any]:
        """Compute the chunk once more, from `tensors`."""
        count = len(tensors) - len(self.variables)
        parts = keras.tree.pack_sequence_as(self.structure, tensors[:count])
        names = ("inputs", "states", "constants", "starts")
        request = dataclasses.replace(self.request, **dict(zip(names, parts, strict=True)))
        mapping = [*zip(self.variables, tensors[count:], strict=True), *self.starts]
        with reopened(request.scope, self.drawn), Recorder(mapping) as recorder:
            # The call of the layer is over by now.
            run = functools.partial(self.engine.run, request)
            result = request.runner.within(run, request.training)
            return self._pack(result, recorder.losses)

    def _pack(self, result: tuple[Leaves, Any, Leaves], losses: list[Any]) -> list[Any]:
        last, outputs, states = result
        self.counts = [len(last), len(outputs or [])]
        return [sum(losses, torch.zeros(())), *last, *(outputs or []), *states]

    def _unpack(self, tensors: list[Any]) -> tuple[Leaves, Any, Leaves]:
        a, b = self.counts
        return tensors[:a], tensors[a : a + b] if b else None, tensors[a + b :]


class _Again(torch.autograd.Function):
    """A chunk whose backward pass computes it once more."""

    @staticmethod
    def forward(ctx: Any, chunk: _Chunk, *tensors: Any) -> Any:
        ctx.chunk = chunk
        ctx.save_for_backward(*tensors)
        # A tensor that is handed on as it came must not become its own result.
        given = {id(x) for x in tensors}
        return tuple(y.clone() if id(y) in given else y for y in chunk.first())

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        needed, again = ctx.needs_input_grad[1:], torch.is_grad_enabled()
        tensors = list(ctx.saved_tensors)
        if not again:
            tensors = [x.detach().requires_grad_(n) for x, n in zip(tensors, needed, strict=True)]
        with torch.enable_grad():
            results = ctx.chunk.again(tensors)
        pairs = [(y, g) for y, g in zip(results, gradients, strict=True) if y.requires_grad]
        inputs = [x for x, n in zip(tensors, needed, strict=True) if n]
        found = iter(
            torch.autograd.grad(
                [y for y, _ in pairs],
                inputs,
                [g for _, g in pairs],
                create_graph=again,
                allow_unused=True,
            )
        )
        return (None, *(next(found) if n else None for n in needed))
