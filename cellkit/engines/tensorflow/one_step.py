"""One step of a stream on TensorFlow: a `tf.function`, traced once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from cellkit.cells.recorder import Recorder
from cellkit.typing import Tensor, Tree

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves
    from cellkit.engines.shared.one_step import OneStep


class GraphStep:
    """A step as a graph.

    Args:
        request: A request for one step.
        step: The step.
    """

    def __init__(self, request: Request, step: OneStep) -> None:
        self.step, self.options = step, request.options
        self.functions: dict[Any, Any] = {}

    def __call__(
        self, inputs: Leaves, states: Leaves, resets: Tensor, constants: dict[str, Any]
    ) -> tuple[Leaves, Leaves]:
        """Run the step."""
        function = self.functions.get(resets is None)
        if function is None:
            function = tf.function(self._traced, autograph=False)
            function = function.get_concrete_function(inputs, states, resets, constants)
            self.functions[resets is None] = function
        outputs, new, losses = function(inputs, states, resets, constants)
        if losses:
            self.options.add_loss(sum(losses))
        return outputs, new

    def _traced(self, inputs: Leaves, states: Leaves, resets: Tensor, constants: Tree) -> Any:
        with Recorder() as recorder:
            outputs, new = self.step(inputs, states, resets, constants)
        for variable in recorder.written.values():
            variable.assign(recorder.get_current_value(variable))
        return outputs, new, recorder.losses
