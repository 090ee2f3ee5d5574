"""The request of one run over time, and the report on which engine ran it."""

from __future__ import annotations

import dataclasses
import functools
import textwrap
from collections.abc import Callable
from typing import Any

import keras

from cellkit.cells.memo import Memo
from cellkit.cells.runner import CellRunner
from cellkit.cells.scope import SequenceScope
from cellkit.engines.shared import around
from cellkit.engines.shared.loop import Leaves, Loop
from cellkit.layers.outputs import OutputForm
from cellkit.typing import Tensor, Tree


@dataclasses.dataclass(frozen=True)
class Options:
    """All that an engine may know of the layer that calls it: the same for each of its calls.

    Args:
        engine: The engine that is asked for, or "auto".
        unroll: True for a plain Python loop, or the number of steps per turn of a compiled loop.
        remat: True if training keeps only the states between chunks; an int is their length.
        truncate: Number of steps after which states carry no gradient further back, or None.
        cache: Facts about the cell that engines learn and keep.
        add_loss: Takes the sum of the losses that the steps added.
        variables: Returns the variables of the cell.
    """

    engine: str
    unroll: bool | int
    remat: bool | int
    truncate: int | None
    cache: Memo
    add_loss: Callable[[Any], None]
    variables: Callable[[], list[keras.Variable]]

    @property
    def chunked(self) -> bool:
        """True if gradients are computed, or cut off, chunk by chunk."""
        return bool(self.remat) or self.truncate is not None


@dataclasses.dataclass(frozen=True)
class Request:
    """One run of a cell over time.

    Args:
        options: The options of the layer.
        runner: The runner of the cell for the layer.
        inputs: Tensors of shape `(batch, time, ...)`, in the cell's structure.
        states: The leaves of the initial states, each `(batch, ...)`.
        mask: Boolean tensor of shape `(batch, time)`, True where a step counts, or None.
        training: True if the cell runs in training mode.
        constants: The keyword arguments that the cell is handed at every step.
        scope: The random masks of this call.
        form: The structure of the output, and the dtypes in which it is returned.
        collect: True to return the output of every step.
        zero_masked: True if collected outputs are zero at masked steps.
        reverse: True to go from the last step to the first.
        resets: Boolean tensor of shape `(batch, time)`, True where a new sequence begins, or None.
        starts: The leaves of the cell's own initial states, where there are resets.
        linked: Boolean tensor of shape `(batch, time)`, False where the states carry no gradient
            further back, or None; with resets it stands for `truncate`.
        edition: A number that is another one after every change of the layer and its cell. What is
            found out about a step is kept under it.
        parts: Takes the reports of the cells of a stack that ran one after the other.
        notes: Takes a sentence for the report on how the engine ran, where it had a choice.
    """

    options: Options
    runner: CellRunner
    inputs: Tree
    states: Leaves
    mask: Tensor
    training: bool
    constants: dict[str, Any]
    scope: SequenceScope
    form: OutputForm
    collect: bool
    zero_masked: bool
    reverse: bool
    resets: Tensor = None
    starts: Leaves | None = None
    linked: Tensor = None
    edition: int = 0
    parts: list[EngineReport] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def cell(self) -> Any:
        """The cell."""
        return self.runner.cell

    def of_call(
        self,
        inputs: Tree,
        states: Leaves,
        mask: Tensor,
        scope: SequenceScope,
        resets: Tensor,
        starts: Leaves | None,
    ) -> Request:
        """Return the request of one call: this one, with the tensors and the scope of the call."""
        # What `dataclasses.replace` does, in a third of the time.
        request = object.__new__(Request)
        request.__dict__.update(self.__dict__)
        request.__dict__.update(
            inputs=inputs,
            states=states,
            mask=mask,
            scope=scope,
            resets=resets,
            starts=starts,
            parts=[],
            notes=[],
        )
        return request

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
            on=None if self.resets is None else keras.ops.logical_not(self.resets),
            linked=self.linked,
            starts=self.starts,
            within=functools.partial(self.runner.within, training=self.training),
        )


@dataclasses.dataclass(frozen=True)
class EngineReport:
    """The engine that ran in the last call of a layer, and the reasons against the others.

    Args:
        asked: The layer's option `engine`.
        engine: Name of the engine that ran, or None before the first call.
        reasons: For every other engine why it did not run.
        parts: A report for each cell of a stack, if they ran one after the other.
        note: The way the engine ran, if it had a choice; else empty.
    """

    asked: str
    engine: str | None
    reasons: dict[str, str]
    parts: tuple[EngineReport, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        """Return one line for the engine that ran and one for each other; then the parts'."""
        if self.engine is None:
            return f"engine={self.asked!r}: the layer has not run yet"
        note = f", {self.note}" if self.note else ""
        lines = [f"engine={self.asked!r}: {self.engine!r} ran{note}"]
        lines += [f"  not {k!r}: {v}" for k, v in self.reasons.items()]
        for index, part in enumerate(self.parts):
            lines += textwrap.indent(f"cell {index}: {part}", "  ").splitlines()
        return "\n".join(lines)


def in_order(request: Request) -> Request:
    """Return a request with its steps in the order processed, for engines that know no other."""
    if not request.reverse:
        return request
    flags = [request.mask, request.resets, request.linked]
    leaves = [*keras.tree.flatten(request.inputs), *flags]
    leaves = around.in_order(True, lambda x: keras.ops.flip(x, axis=1), leaves)
    *inputs, mask, resets, linked = leaves
    return dataclasses.replace(
        request,
        inputs=pack(request.inputs, inputs),
        mask=mask,
        resets=resets,
        linked=linked,
        reverse=False,
    )


def pack(structure: Any, leaves: Leaves) -> Any:
    """Put `leaves` into `structure`, which may be a single tensor."""
    if not keras.tree.is_nested(structure):
        return leaves[0]
    return keras.tree.pack_sequence_as(structure, leaves)
