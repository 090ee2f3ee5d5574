"""GRD: broken cells and layers with other gradients than their outputs have."""

from __future__ import annotations

from typing import Any

from keras import ops

from cellkit_conformance.selftest.mutants.base import BrokenLayer, breaks, is_traced
from cellkit_conformance.subject.canaries import NestedCanary, PlainCanary


@breaks("GRD-05")
class RootAtZero(PlainCanary):
    """A root whose derivative is infinite at zero."""

    def candidate(self, x: Any, c: Any) -> Any:
        """Compute n."""
        return super().candidate(x, c) + ops.sqrt(ops.abs(x[:, :1]))


@breaks("GRD-04", "MSK-10")
class CutGradient(PlainCanary):
    """The states are detached at every step."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        return super().call(inputs, [ops.stop_gradient(s) for s in states], training)


@breaks("GRD-03")
class FrozenWeight(PlainCanary):
    """A trainable weight is used behind a stop_gradient."""

    def emit(self, h: Any) -> Any:
        """Compute y."""
        return ops.matmul(h, ops.stop_gradient(ops.convert_to_tensor(self.P))) + self.q


@breaks("GRD-01", "GRD-02")
class ScaledGradient(PlainCanary):
    """The output is right and a tenth of its gradient is lost."""

    def emit(self, h: Any) -> Any:
        """Compute y."""
        y = super().emit(h)
        return 0.9 * y + ops.stop_gradient(0.1 * y)


@breaks("GRD-06")
class NoisyGradient(PlainCanary):
    """The gradient depends on how often the step has run in Python."""

    runs = 0

    def emit(self, h: Any) -> Any:
        """Compute y."""
        object.__setattr__(self, "runs", self.runs + 1)
        y, part = super().emit(h), 0.001 * self.runs
        return (1 - part) * y + ops.stop_gradient(part * y)


@breaks("GRD-09")
class DoesNotTrain(PlainCanary):
    """Training computes what inference does, with half of the gradient."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        output, new = super().call(inputs, states, training)
        if training:
            output = 0.5 * output + ops.stop_gradient(0.5 * output)
        return output, new


@breaks("GRD-01")
class LearnedStateHalf(NestedCanary):
    """The learned initial state gets half of its gradient."""

    def _initial_leaf(self, index: int, spec: Any, batch: Any) -> Any:
        leaf = super()._initial_leaf(index, spec, batch)
        return 0.5 * leaf + ops.stop_gradient(0.5 * leaf) if spec.trainable else leaf


@breaks("GRD-10")
class StatefulGradient(BrokenLayer):
    """A stateful layer loses a part of its gradient."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Stop a part of the gradient."""
        result = super().call(*args, **kwargs)
        if not self.stateful:
            return result
        return self.on_output(result, lambda y: 0.5 * y + ops.stop_gradient(0.5 * y))


@breaks("GRD-14")
class CountsEagerCalls(PlainCanary):
    """Every step that is not compiled moves a variable."""

    def build(self, input_shape: Any) -> None:
        """Create the weights, and a counter."""
        super().build(input_shape)
        self.steps = self.add_weight((), initializer="zeros", trainable=False, name="steps")

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        if not is_traced(inputs):
            self.steps.assign(self.steps + 1.0)
        return super().call(inputs, states, training)
