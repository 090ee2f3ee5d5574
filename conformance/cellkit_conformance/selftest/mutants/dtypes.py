"""DTY: broken cells that compute in another dtype than they were given."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from keras import ops

from cellkit_conformance.selftest.mutants.base import breaks, forget
from cellkit_conformance.subject.canaries import PlainCanary


@breaks("DTY-01")
class NarrowWeights(PlainCanary):
    """A weight is stored in the compute dtype."""

    def build(self, input_shape: Any) -> None:
        """Create the weights, one of them anew."""
        super().build(input_shape)
        shape, dtype = (self.units, self.units + 1), self.compute_dtype
        forget(self, self.P)
        self.P = self.add_weight(shape=shape, name="P", dtype=dtype)


@breaks("DTY-02")
class SingleWeights(PlainCanary):
    """A weight is float32 under every policy."""

    def build(self, input_shape: Any) -> None:
        """Create the weights, one of them anew."""
        super().build(input_shape)
        forget(self, self.P)
        shape = (self.units, self.units + 1)
        self.P = self.add_weight(shape=shape, name="P", dtype="float32")


@breaks("DTY-03")
class PromotedOutput(PlainCanary):
    """The output is float32 under every policy."""

    def emit(self, h: Any) -> Any:
        """Compute y."""
        return ops.cast(super().emit(h), "float32")


@breaks("DTY-04")
class ClaimsAccumulator(PlainCanary):
    """A float32 state is claimed, and there is none."""


ClaimsAccumulator.spec = dataclasses.replace(
    PlainCanary.spec, traits=frozenset({"masking", "fp32_state"})
)


@breaks("DTY-06")
class GlobalPolicy(PlainCanary):
    """The policy of the process decides, whatever the cell's own is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.factor = 1.5 if keras.config.dtype_policy().compute_dtype == "bfloat16" else 1.0

    def emit(self, h: Any) -> Any:
        """Compute y."""
        return super().emit(h) * self.factor


@breaks("DTY-07")
class Quantizes(PlainCanary):
    """Quantisation is accepted and does nothing."""

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


@breaks("DTY-09")
class TrainingPromotes(PlainCanary):
    """In training a state comes back as float32 under every policy."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        output, new = super().call(inputs, states, training)
        return output, [ops.cast(s, "float32") for s in new] if training else new
