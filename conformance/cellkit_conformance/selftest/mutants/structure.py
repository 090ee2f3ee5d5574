"""STR: broken cells whose structure is not what they say, or not what a layer needs."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from keras import ops

from cellkit_conformance.selftest.mutants.base import breaks
from cellkit_conformance.subject.canaries import PlainCanary


@breaks("STR-01")
class SizeAfterBuild(PlainCanary):
    """The output size is right only after build."""

    late = 0

    @property
    def output_size(self) -> int:
        """One too few before build."""
        return self.units + self.late

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        self.late = 1
        super().build(input_shape)


@breaks("STR-05")
class WrongOutputSize(PlainCanary):
    """The output size is that of the states."""

    @property
    def output_size(self) -> int:
        """One too few."""
        return self.units


@breaks("STR-02")
class SameCases(PlainCanary):
    """Two cases that say the same in two ways."""


SameCases.spec = dataclasses.replace(
    PlainCanary.spec, cases={"a": {"units": 4}, "b": {"units": 4, "activation": "tanh"}}
)


@breaks("STR-03")
class HalfStates(PlainCanary):
    """The states come back in half precision."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        output, new = super().call(inputs, states, training)
        return output, [ops.cast(s, "float16") for s in new]


@breaks("STR-04")
class RemembersBatch(PlainCanary):
    """The initial state has the batch size of the first call."""

    batch = None

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        """Give zeros of the first batch size."""
        if self.batch is None:
            object.__setattr__(self, "batch", batch_size)
        return [ops.zeros((self.batch, self.units)), ops.zeros((self.batch, self.units))]


@breaks("STR-06")
class LazyWeight(PlainCanary):
    """A weight is created by the first call."""

    def build(self, input_shape: Any) -> None:
        """Create most weights."""
        super().build(input_shape)
        self.late = keras.layers.Dense(self.units + 1)

    def emit(self, h: Any) -> Any:
        """Compute y."""
        return super().emit(h) + self.late(h)


@breaks("STR-07")
class SharedWeight(PlainCanary):
    """All instances of the class use one bias."""

    shared: dict[Any, Any] = {}

    def build(self, input_shape: Any) -> None:
        """Create the weights, once per class."""
        super().build(input_shape)
        bias = self.shared.setdefault(self.units, self.q)
        self._trainable_variables.append(bias) if bias is not self.q else None


@breaks("STR-09")
class ListsOnly(PlainCanary):
    """States are looked at by type."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        if isinstance(states, tuple):
            states = states[::-1]
        return super().call(inputs, states, training)


@breaks("STR-08")
class CountedNames(PlainCanary):
    """The name of a weight counts the cells of the process."""

    made = 0

    def build(self, input_shape: Any) -> None:
        """Create the weights, and one more."""
        super().build(input_shape)
        CountedNames.made += 1
        shape = (self.units + 1,)
        self.q = self.add_weight(shape=shape, name=f"offset{CountedNames.made}")


@breaks("STR-10")
class MiscountedWeights(PlainCanary):
    """The number of parameters forgets the biases."""

    def count_params(self) -> int:
        """Count too few."""
        return super().count_params() - self.units


@breaks("STR-12")
class EqualKernels(PlainCanary):
    """One initializer with one seed makes two kernels."""

    def build(self, input_shape: Any) -> None:
        """Create the weights, the second kernel as the first."""
        super().build(input_shape)
        self.Wn.assign(self.Wg.value)


@breaks("STR-12")
class EqualBlocks(keras.layers.LSTMCell):
    """All gates start with the weights of the first."""

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        super().build(input_shape)
        self.kernel.assign(ops.tile(self.kernel.value[:, : self.units], (1, 4)))


EqualBlocks.spec = None


@breaks("STR-13")
class GreekName(PlainCanary):
    """A weight is called by its letter."""

    def build(self, input_shape: Any) -> None:
        """Create the weights, and one more."""
        super().build(input_shape)
        self.q = self.add_weight(shape=(self.units + 1,), name="\u03b2")


@breaks("STR-14")
class NotRegistered(PlainCanary):
    """Keras does not know the class by its name."""
