"""Initial states of a call: those that are passed, those stored, or the cell's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cellkit.cells.operations import to_tensor
from cellkit.cells.runner import CellRunner
from cellkit.cells.structure import describe_shapes
from cellkit.cells.validate import as_state
from cellkit.errors import problem

if TYPE_CHECKING:
    from cellkit.layers.rnn import RNN


def initial_states(layer: RNN, given: Any, batch: Any) -> Any:
    """Return the states before the first step: those given, the stored ones, or the cell's own."""
    layout = layer.runner.layout
    if given is not None:
        leaves = [
            to_tensor(x, layer.compute_dtype, spec.dtype)
            for x, spec in zip(layout.match(given, "initial states"), layout.specs, strict=True)
        ]
    else:
        leaves = layer.runner.initial(batch)
        if layer.state_store is not None:
            leaves = layer.state_store.read(leaves)
    return layout.pack(leaves)


def fitted_states(runner: CellRunner, given: Any, batch: int | None) -> Any:
    """Return states that a user passed in the cell's structure, dtypes and shapes.

    Args:
        runner: The runner of the cell.
        given: The states.
        batch: Number of rows, None if unknown.
    """
    layout = runner.layout
    leaves = [
        as_state(x, runner.compute_dtype, spec.dtype)
        for x, spec in zip(layout.match(given, "initial states"), layout.specs, strict=True)
    ]
    for x, spec in zip(leaves, layout.specs, strict=True):
        want = (batch, *spec.shape)
        fits = len(x.shape) == len(want) and all(
            a is None or b is None or a == b for a, b in zip(x.shape, want, strict=True)
        )
        if not fits:
            raise problem(
                "An initial state does not have the shape of the cell's state.",
                received=f"initial states of shape {describe_shapes(layout.pack(leaves))}",
                expected=describe_shapes(layout.structure).replace(
                    "batch", "batch" if batch is None else str(batch)
                ),
                fix="pass one row per row of the inputs; to start all rows from one state, "
                "repeat it with `keras.ops.repeat(state, batch, axis=0)`",
            )
    return layout.pack(leaves)


def check_stored_batch(layer: RNN, batch: int | None) -> None:
    """Raise a `ValueError` if a stateful layer was built for another number of rows."""
    if layer.state_store is None or batch is None:
        return
    stored = layer.state_store.values[0].shape[0]
    if batch != stored:
        raise problem(
            "A stateful layer was called with another batch size than it was built for.",
            received=f"inputs with a batch size of {batch}",
            expected=f"the batch size of the stored states, {stored}",
            fix="feed batches of that size, or make a new layer for another one",
        )
