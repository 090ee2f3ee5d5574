"""The plain loop over the cell's own step: it runs every cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from cellkit.cells.wrapper import projected_constants
from cellkit.engines.backend import backend
from cellkit.engines.engine import Engine
from cellkit.typing import Tree

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves


def run(request: Request) -> tuple[Leaves, Any, Leaves]:
    """Run the loop; see `cellkit.engines`."""
    structure, single = request.inputs, not keras.tree.is_nested(request.inputs)
    runner, form = request.runner, request.form
    training = request.training

    def with_constants(constants: Tree) -> Any:
        def step(inputs: Leaves, states: Leaves) -> tuple[Leaves, Leaves]:
            x = inputs[0] if single else keras.tree.pack_sequence_as(structure, inputs)
            output, states = runner.step(x, states, training, constants)
            return form.flatten(output), states

        return step

    constants = {n: projected_constants(runner.cell, c) for n, c in request.constants.items()}
    loop = request.loop(with_constants(constants))
    loop.constants, loop.with_constants = constants, with_constants
    leaves = keras.tree.flatten(request.inputs)
    return backend.run(loop, leaves, request.states, request.mask)


ENGINE = Engine(
    name="loop",
    summary="The plain loop.",
    cells="Every cell",
    run=run,
    loops=True,
    guards_padding=backend.loop_guards_padding,
)
