"""One step of a stream on JAX: compiled, and the old states give their memory to the new ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import keras

from cellkit.engines.jax import stateless
from cellkit.typing import Tensor, Tree

if TYPE_CHECKING:
    from cellkit.engines.request import Request
    from cellkit.engines.shared.loop import Leaves
    from cellkit.engines.shared.one_step import OneStep


class CompiledStep:
    """A step as one compiled function.

    Variables are arguments of the function, so that a step sees what was assigned since.

    Args:
        request: A request for one step.
        step: The step.
    """

    def __init__(self, request: Request, step: OneStep) -> None:
        self.step, self.options = step, request.options
        self.variables: list[keras.Variable] = request.options.variables()
        self.explored: set[Any] = set()
        self.jitted = jax.jit(self._traced, donate_argnums=1)

    def __call__(
        self, inputs: Leaves, states: Leaves, resets: Tensor, constants: dict[str, Any]
    ) -> tuple[Leaves, Leaves]:
        """Run the step; `states` can't be used afterwards."""
        if (resets is None) not in self.explored:
            self._explore(inputs, states, resets, constants)
            self.explored.add(resets is None)
        values = stateless.values_of(self.variables)
        (outputs, states), updates, losses = self.jitted(values, states, inputs, resets, constants)
        for index, value in updates.items():
            self.variables[int(index)].assign(value)
        if losses:
            self.options.add_loss(sum(losses))
        return outputs, states

    def _explore(self, inputs: Leaves, states: Leaves, resets: Tensor, constants: Tree) -> None:
        """Find the variables that the step reads or writes; nothing is run."""
        unknown: dict[int, keras.Variable] = {}

        def explored(*arguments: Any) -> Any:
            outcome = self._run(*arguments)
            unknown.update(outcome.unknown)
            return outcome.result

        values = stateless.values_of(self.variables)
        jax.eval_shape(explored, values, states, inputs, resets, constants)
        self.variables = [*self.variables, *unknown.values()]

    def _traced(self, *arguments: Any) -> Any:
        return self._run(*arguments)[:3]

    def _run(
        self, values: Leaves, states: Leaves, inputs: Leaves, resets: Tensor, constants: Tree
    ) -> stateless.Outcome:
        step = self.step
        return stateless.run(
            lambda: step(inputs, states, resets, constants), self.variables, values
        )
