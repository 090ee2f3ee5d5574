"""STA: broken layers that lose, mix or keep states."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops, tree

from cellkit.layers.states import StateStore
from cellkit_conformance.selftest.mutants.base import BrokenLayer, breaks, first
from cellkit_conformance.subject.canaries import NestedCanary
from cellkit_conformance.trees import map_trees


@breaks("STA-13")
class LearnedStateCut(NestedCanary):
    """The learned initial state is copied out of its variable."""

    def _initial_leaf(self, index: int, spec: Any, batch: Any) -> Any:
        return ops.stop_gradient(super()._initial_leaf(index, spec, batch))


@breaks("STA-01")
class OnesForStates(BrokenLayer):
    """Without an initial state the layer starts from ones."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Pass ones."""
        if given["initial_state"] is None and not self.stateful:
            own = self.get_initial_state(first(sequences).shape[0])
            given = {**given, "initial_state": tree.map_structure(ops.ones_like, own)}
        return self.plain(sequences, given)


@breaks("STA-02", "STA-06")
class IgnoresInitialState(BrokenLayer):
    """An initial state is accepted and not used."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Drop the initial state."""
        return self.plain(sequences, {**given, "initial_state": None})


@breaks("STA-03", "STA-15")
class NeverStores(BrokenLayer):
    """A stateful layer starts from the initial states every time."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Reset before every call."""
        if self.stateful and self.built and given["initial_state"] is None:
            self.reset_state()
        return self.plain(sequences, given)


@breaks("STA-04", cell=NestedCanary)
class ResetsToZeros(BrokenLayer):
    """`reset_state` writes zeros."""

    def reset_state(self, states: Any = None) -> None:
        """Write zeros."""
        super().reset_state(states)
        if states is None and self.built:
            zeros = map_trees(lambda s: ops.zeros(s.shape, dtype=s.dtype), self.states)
            super().reset_state(zeros)


@breaks("STA-05", raises=True)
class NoEarlyReset(BrokenLayer):
    """`reset_state` fails before the first call."""

    def reset_state(self, states: Any = None) -> None:
        """Fail when there is nothing to reset."""
        if not self.built:
            raise AttributeError("'NoneType' object has no attribute 'assign'")
        super().reset_state(states)


@breaks("STA-06")
class StoresTheOld(BrokenLayer):
    """An explicit initial state is not followed by storing what was returned."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Put the given state back."""
        if self.stateful and given["initial_state"] is not None:
            self.reset_state(given["initial_state"])
        return result


@breaks("STA-08")
class AnyBatch(BrokenLayer):
    """Another batch size resets a stateful layer in silence."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Cut the batch to what is stored."""
        if self.stateful and self.built and first(sequences).shape[0] == 5:
            sequences = tree.map_structure(lambda x: x[:3], sequences)
        return self.plain(sequences, given)


@breaks("STA-07")
class TrainingForgets(BrokenLayer):
    """Training stores zeros."""

    def call(
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Write zeros after a step of training."""
        result = super().call(sequences, initial_state, mask, training, **kwargs)
        if self.state_store is not None and training:
            for variable in self.state_store.values:
                variable.assign(ops.zeros_like(variable.value))
        return result


@breaks("STA-09")
@keras.saving.register_keras_serializable(package="cellkit_conformance")
class ForgetsWhenSaved(BrokenLayer):
    """The stored states are not loaded."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.stateful:
            self.state_store = LossyStore(name="stored_states")


class LossyStore(StateStore):
    """Loads nothing."""

    def load_own_variables(self, store: Any) -> None:
        """Do nothing."""


@breaks("STA-10", cell=NestedCanary)
class FloatStates(BrokenLayer):
    """Every state comes back as float32."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Cast the states."""
        states = tree.map_structure(lambda s: ops.cast(s, "float32"), result[1:])
        return (result[0], *states) if self.return_state else result


@breaks("STA-11", cell=NestedCanary)
class CountsInHalf(BrokenLayer):
    """Integers go through float16."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Cast the states twice."""

        def narrow(s: Any) -> Any:
            if keras.backend.standardize_dtype(s.dtype) != "int32":
                return s
            return ops.cast(ops.cast(s, "float16"), "int32")

        return (result[0], *tree.map_structure(narrow, result[1:])) if self.return_state else result


@breaks("STA-12", cell=NestedCanary)
class FlipsMatrices(BrokenLayer):
    """A matrix state comes back upside down."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Flip states of rank 3."""
        states = tree.map_structure(
            lambda s: ops.flip(s, axis=1) if len(s.shape) > 2 else s, result[1:]
        )
        return (result[0], *states) if self.return_state else result


@breaks("STA-14", "SEQ-02", "WRP-02")
class StatesReordered(BrokenLayer):
    """States come back in the opposite order."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Reverse the states."""
        return (result[0], *result[:0:-1]) if self.return_state else result
