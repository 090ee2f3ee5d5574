"""Requests to the engines: what they may know of a layer, and of one of its calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from cellkit import _keras_compat as compat
from cellkit import engines
from cellkit.cells.scope import SequenceScope
from cellkit.cells.stock_masks import lend_masks
from cellkit.cells.watch import Watch
from cellkit.engines.backend import backend
from cellkit.layers.outputs import OutputForm
from cellkit.typing import Tensor, Tree

if TYPE_CHECKING:
    from cellkit.layers.rnn import RNN


def request_of(
    layer: RNN,
    inputs: Tree,
    states: list[Any],
    training: bool,
    scope: SequenceScope,
    *,
    mask: Tensor = None,
    starts: list[Any] | None = None,
) -> engines.Request:
    """Return the request of a layer for one run over time.

    Args:
        layer: The layer.
        inputs: Tensors of shape `(batch, time, ...)`, in the cell's structure.
        states: The leaves of the initial states.
        training: True if the cell runs in training mode.
        scope: What belongs to the call: random masks, constants, resets.
        mask: Boolean tensor of shape `(batch, time)`, or None.
        starts: The leaves of the cell's own initial states, where there are resets.
    """
    # The edition first: what follows must not be older.
    edition = edition_of(layer)
    return engines.Request(
        options=engines.Options(
            engine=engines.check_name(layer.engine),
            unroll=layer.unroll,
            remat=layer.remat,
            truncate=layer.truncate_gradient,
            cache=layer._memo,
            add_loss=layer.add_loss,
            variables=lambda: _variables(layer.cell),
        ),
        runner=layer.runner,
        inputs=inputs,
        states=states,
        mask=mask,
        training=training,
        constants=scope.constants,
        scope=scope,
        form=output_form(layer),
        collect=layer.return_sequences and not scope.one_step,
        zero_masked=layer.zero_output_for_mask,
        reverse=layer.go_backwards and not scope.one_step,
        resets=scope.resets,
        starts=starts,
        edition=edition,
    )


def edition_of(layer: RNN) -> int:
    """Return a number that is another one after every change of a layer and its cell."""
    if backend.traces_python():
        return 0  # what is kept is not looked at there: the compiler notices changes itself
    watch: Watch = layer._memo.memoize("watch", lambda: Watch(layer, layer.cell))
    return watch.key()


def output_form(layer: RNN) -> OutputForm:
    """Return the form of a layer's outputs, which learns from the first one."""
    form: OutputForm = layer._memo.memoize("output_form", lambda: new_form(layer))
    return form


def new_form(layer: RNN) -> OutputForm:
    """Return a form of outputs that has learnt nothing yet."""
    cell, dtypes = layer.cell, None
    if hasattr(cell, "output_spec") and cell.output_size is not None:
        dtypes = [s.dtype for s in keras.tree.flatten(cell.output_spec())]
    return OutputForm(layer.compute_dtype, dtypes)


def stock_cells(layer: RNN) -> list[Any]:
    """Return the cells of a layer that keep masks on themselves."""
    # Kept: the walk through a cell's parts would stop `torch.compile` at every call.
    stock: list[Any] = layer._memo.current(
        "stock", edition_of(layer), lambda: lend_masks(layer.cell)
    )
    return stock


def _variables(cell: Any) -> list[keras.Variable]:
    variables: dict[int, Any] = {}
    for part in compat.parts(cell):
        if isinstance(part, keras.layers.Layer):
            variables.update({id(v): v for v in part.variables})
    return list(variables.values())
