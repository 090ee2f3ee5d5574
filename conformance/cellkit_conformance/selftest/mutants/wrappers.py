"""WRP: broken layers that differ inside of another layer or model."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

import cellkit
from cellkit_conformance.selftest.mutants.base import BrokenLayer, breaks, first, is_traced


@breaks("WRP-03", "WRP-04")
class StackScales(BrokenLayer):
    """The output of a stack is off by a hundredth."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Change the output."""
        if not isinstance(self.cell, cellkit.StackedCells):
            return result
        return self.on_output(result, lambda y: y * 1.01)


@breaks("WRP-05")
class ChangedByModels(BrokenLayer):
    """A layer that was part of a model computes something else."""

    in_model = False

    def plain(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Remember symbolic calls."""
        symbolic = isinstance(first(sequences), keras.KerasTensor)
        result = super().plain(sequences, given)
        if symbolic:
            self.in_model = True
        return result

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Change the output."""
        return self.on_output(result, lambda y: y * 1.01) if self.in_model else result


@breaks("WRP-06", "RNG-01")
class RemembersLast(BrokenLayer):
    """A layer that is not stateful goes on from its last call."""

    last = None

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Start from the last states."""
        batch = first(sequences).shape[0]
        if self.last is not None and given["initial_state"] is None and not self.stateful:
            if self.last[0].shape[0] == batch:
                given = {**given, "initial_state": list(self.last)}
        return self.plain(sequences, given)

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Remember the states."""
        if self.return_state and not is_traced(first(sequences)):
            object.__setattr__(self, "last", [ops.stop_gradient(s) for s in result[1:]])
        return result
