"""PUR: broken cells and layers that change what is not theirs."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np

from cellkit_conformance.selftest.mutants.base import BrokenLayer, breaks, first
from cellkit_conformance.subject.canaries import PlainCanary


@breaks("PUR-01")
class MutatesStates(PlainCanary):
    """The list of states is changed in place."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        output, new = super().call(inputs, states, training)
        if isinstance(states, list):
            states[0] = new[0]
        return output, new


@breaks("PUR-02")
class CachesById(BrokenLayer):
    """An array that was seen before gives the result that it gave then."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Look the array up."""
        one = first(sequences)
        if not isinstance(one, np.ndarray):
            return self.plain(sequences, given)
        if not hasattr(self, "seen"):
            object.__setattr__(self, "seen", {})
        if id(one) not in self.seen:
            self.seen[id(one)] = self.plain(sequences, given)
        return self.seen[id(one)]


@breaks("PUR-03")
class SharedCounter(BrokenLayer):
    """Every layer that is made moves the outputs of all."""

    made = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        SharedCounter.made += 1

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Add the number of layers."""
        return self.on_output(result, lambda y: y + 0.01 * SharedCounter.made)


@breaks("PUR-03")
class LastOneDecides(PlainCanary):
    """All cells compute with the activation of the one that was made last."""

    known: dict[str, Any] = {}

    def __init__(self, units: int = 4, activation: str = "tanh", **kwargs: Any) -> None:
        super().__init__(units, activation, **kwargs)
        self.known["activation"] = self.activation

    def candidate(self, x: Any, c: Any) -> Any:
        """Compute n."""
        self.activation, own = self.known["activation"], self.activation
        try:
            return super().candidate(x, c)
        finally:
            self.activation = own


@breaks("PUR-03")
class SizesOfTheLast(PlainCanary):
    """The sizes are kept on the class: the cell that was made last says them for all."""

    wide: list[int] = []

    def __init__(self, units: int = 4, *args: Any, **kwargs: Any) -> None:
        super().__init__(units, *args, **kwargs)
        self.wide[:] = [units]

    @property
    def state_size(self) -> list[int]:
        """Two vectors."""
        return [*self.wide, *self.wide]


@breaks("PUR-04")
class NotForThreads(BrokenLayer):
    """The inputs of the call are kept on the layer while it runs."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Put the inputs aside, and take them up again."""
        object.__setattr__(self, "now", sequences)
        time.sleep(0.02)
        return self.plain(self.now, given)


@breaks("PUR-04")
class KeepsTheStep(PlainCanary):
    """Intermediate values stand on the cell from one line to the next."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        object.__setattr__(self, "way", super().call(inputs, states, training))
        output, new = self.way
        return output, new


@breaks("PUR-07")
class Collects(PlainCanary):
    """A list of the class has an entry more after every step."""

    seen: list[int] = []

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        self.seen.append(len(self.seen))
        return super().call(inputs, states, training)


@breaks("PUR-07")
class KeepsItsGraph(PlainCanary):
    """The last state stays on the cell, and what it was computed from with it."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        output, new = super().call(inputs, states, training)
        object.__setattr__(self, "last", new[0])
        return output, new


@breaks("PUR-08")
class SetsTheSeed(PlainCanary):
    """Building sets the seed of the process."""

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        keras.utils.set_random_seed(1)
        super().build(input_shape)
