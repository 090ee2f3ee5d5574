"""PUR: broken cells and layers that change what is not theirs."""

from __future__ import annotations

import time
from typing import Any

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


@breaks("PUR-04")
class NotForThreads(BrokenLayer):
    """The inputs of the call are kept on the layer while it runs."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Put the inputs aside, and take them up again."""
        object.__setattr__(self, "now", sequences)
        time.sleep(0.02)
        return self.plain(self.now, given)
