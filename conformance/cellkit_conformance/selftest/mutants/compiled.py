"""CMP: broken layers that run in one way and not in another."""

from __future__ import annotations

from typing import Any

import keras
from keras import tree

from cellkit_conformance.selftest.mutants.base import BrokenLayer, breaks, first, is_traced
from cellkit_conformance.selftest.mutants.sequence import FixedLength


@breaks("CMP-08")
class WrongSymbolicShape(BrokenLayer):
    """A symbolic call announces another width."""

    def plain(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Widen symbolic outputs."""
        result = super().plain(sequences, given)
        if not isinstance(first(result), keras.KerasTensor):
            return result
        return self.on_output(result, lambda y: keras.KerasTensor((*y.shape[:-1], y.shape[-1] + 1)))


@breaks("CMP-01")
class OnlyEager(BrokenLayer):
    """Compiled outputs are off by a hundredth."""

    def call(self, sequences: Any, *args: Any, **kwargs: Any) -> Any:
        """Look at how it is run."""
        result = super().call(sequences, *args, **kwargs)
        if not is_traced(first(sequences)):
            return result
        return self.on_output(result, lambda y: y * 1.01)


@breaks("CMP-02")
class NewEveryCall(FixedLength):
    """Every call compiles anew, and later steps of a longer sequence are cut off."""

    def call(self, sequences: Any, *args: Any, **kwargs: Any) -> Any:
        """Change what the compiled loop depends on."""
        self.cell.tick = getattr(self.cell, "tick", 0) + 1
        return super().call(sequences, *args, **kwargs)


@breaks("CMP-03")
class ProbesTheStep(BrokenLayer):
    """The first step runs twice, the first time for its shapes."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Run the first step and throw it away."""
        if self.return_sequences and not self.stateful and given["mask"] is None:
            self.plain(tree.map_structure(lambda x: x[:, :1], sequences), {**given})
        return self.plain(sequences, given)
