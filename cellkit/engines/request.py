"""The request of one run over time, and the report on which engine ran it."""

from __future__ import annotations

import dataclasses
import functools
import textwrap
from collections.abc import Callable
from typing import Any

import keras

from cellkit.cells.runner import CellRunner, Holder
from cellkit.cells.scope import SequenceScope
from cellkit.engines.shared.loop import Leaves, Loop
from cellkit.layers.outputs import OutputForm


@dataclasses.dataclass(frozen=True)
class Options:
    """All that an engine may know of the layer that calls it: the same for each of its calls.

    Args:
        engine: The engine that is asked for, or "auto".
        unroll: True for a plain Python loop, or the number of steps per turn of a compiled loop.
        remat: Whether training keeps only the states between chunks; an int is their length.
        truncate: Number of steps after which states carry no gradient further back, or None.
        cache: What engines learn of the cell and keep.
        add_loss: Takes the sum of the losses that the steps added.
        variables: Returns the variables of the cell.
    """

    engine: str
    unroll: bool | int
    remat: bool | int
    truncate: int | None
    cache: Holder
    add_loss: Callable[[Any], None]
    variables: Callable[[], list[keras.Variable]]

    @property
    def chunked(self) -> bool:
        """Whether gradients are computed, or cut off, chunk by chunk."""
        return bool(self.remat) or self.truncate is not None


@dataclasses.dataclass(frozen=True)
class Request:
    """One run of a cell over time.

    Args:
        options: What the layer asks for.
        runner: What runs the cell for the layer.
        inputs: Tensors of shape `(batch, time, ...)`, in the cell's structure.
        states: The leaves of the initial states, each `(batch, ...)`.
        mask: Boolean tensor of shape `(batch, time)`, True where a step counts, or None.
        training: Whether the cell runs in training mode.
        constants: What the cell is handed at every step, as keyword arguments.
        scope: The random masks of this call.
        form: The structure of the output, and the dtypes in which it is returned.
        collect: Whether to return the output of every step.
        zero_masked: Whether collected outputs are zero at masked steps.
        reverse: Whether to go from the last step to the first.
        edition: A number that is another one after every change of the layer and its cell. What is
            found out about a step is kept under it.
        parts: Takes the reports of the cells of a stack that ran one after the other.
    """

    options: Options
    runner: CellRunner
    inputs: Any
    states: Leaves
    mask: Any
    training: bool
    constants: dict[str, Any]
    scope: SequenceScope
    form: OutputForm
    collect: bool
    zero_masked: bool
    reverse: bool
    edition: int = 0
    parts: list[EngineReport] = dataclasses.field(default_factory=list)

    @property
    def cell(self) -> Any:
        """The cell."""
        return self.runner.cell

    def loop(self, step: Callable[[Leaves, Leaves], tuple[Leaves, Leaves]]) -> Loop:
        """Return the loop over `step` that this request describes."""
        return Loop(
            step=step,
            reverse=self.reverse,
            collect=self.collect,
            zero_masked=self.zero_masked,
            unroll=self.options.unroll,
            scope=self.scope,
            add_loss=self.options.add_loss,
            remat=self.options.remat,
            truncate=self.options.truncate,
            within=functools.partial(self.runner.within, training=self.training),
        )


@dataclasses.dataclass(frozen=True)
class EngineReport:
    """Which engine ran in the last call of a layer, and why no other one did.

    Args:
        asked: The layer's option `engine`.
        engine: Name of the engine that ran, or None before the first call.
        reasons: For every other engine why it did not run.
        parts: Where the cells of a stack ran one after the other, a report for each of them.
    """

    asked: str
    engine: str | None
    reasons: dict[str, str]
    parts: tuple[EngineReport, ...] = ()

    def __str__(self) -> str:
        """Return one line for the engine that ran and one for each other; then the parts'."""
        if self.engine is None:
            return f"engine={self.asked!r}: the layer has not run yet"
        lines = [f"engine={self.asked!r}: {self.engine!r} ran"]
        lines += [f"  not {k!r}: {v}" for k, v in self.reasons.items()]
        for index, part in enumerate(self.parts):
            lines += textwrap.indent(f"cell {index}: {part}", "  ").splitlines()
        return "\n".join(lines)


def in_order(request: Request) -> tuple[Any, Any]:
    """Return the inputs and the mask in the order of processing, for engines that know no other."""
    inputs, mask = request.inputs, request.mask
    if request.reverse:
        inputs = keras.tree.map_structure(lambda x: keras.ops.flip(x, axis=1), inputs)
        mask = None if mask is None else keras.ops.flip(mask, axis=1)
    return inputs, mask


def pack(structure: Any, leaves: Leaves) -> Any:
    """Put `leaves` into `structure`, which may be a single tensor."""
    if not keras.tree.is_nested(structure):
        return leaves[0]
    return keras.tree.pack_sequence_as(structure, leaves)
