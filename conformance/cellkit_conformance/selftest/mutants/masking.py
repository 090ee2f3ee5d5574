"""MSK: broken layers that misread a mask, and a cell that denies its trait."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from cellkit_conformance.selftest.mutants.base import BrokenLayer, breaks, first
from cellkit_conformance.subject.canaries import PlainCanary


@breaks("MSK-17")
class DeniesMasking(PlainCanary):
    """Masks are not claimed, and accepted."""


DeniesMasking.spec = dataclasses.replace(PlainCanary.spec, traits=frozenset())


@breaks("MSK-14", "SEQ-11")
class MaskNotReversed(BrokenLayer):
    """A backward run reads the mask forwards."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Flip the mask."""
        if self.go_backwards and given["mask"] is not None:
            given = {**given, "mask": ops.flip(ops.convert_to_tensor(given["mask"]), axis=1)}
        return self.plain(sequences, given)


@breaks("MSK-10")
class GapHalves(BrokenLayer):
    """With a mask, half of the gradient by the inputs is lost."""

    def call(
        self, sequences: Any, initial_state: Any = None, mask: Any = None, **kwargs: Any
    ) -> Any:
        """Stop a part of the gradient."""
        if mask is not None:
            sequences = tree.map_structure(
                lambda x: 0.5 * x + ops.stop_gradient(0.5 * x), sequences
            )
        return super().call(sequences, initial_state, mask, **kwargs)


@breaks("MSK-01")
class MaskScales(BrokenLayer):
    """With a mask the output differs a little, also where the mask is True."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Change the output."""
        return result if given["mask"] is None else self.on_output(result, lambda y: y * 1.001)


@breaks("MSK-02", "MSK-03", "MSK-04", "MSK-05", "MSK-07", "MSK-08")
class MaskIgnored(BrokenLayer):
    """Masks do nothing."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Drop the mask."""
        return self.plain(sequences, {**given, "mask": None})


@breaks("MSK-02", "MSK-03", "MSK-08")
class MaskShifted(BrokenLayer):
    """The mask is late by one step."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Shift the mask."""
        if given["mask"] is not None:
            mask = ops.convert_to_tensor(given["mask"])
            given = {**given, "mask": ops.concatenate([mask[:, :1], mask[:, :-1]], axis=1)}
        return self.plain(sequences, given)


@breaks("MSK-08")
class PaddingRead(BrokenLayer):
    """Masked inputs are multiplied by zero, which keeps NaN."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Add zero times the inputs."""
        nothing = sum(ops.sum(0.0 * x) for x in keras.tree.flatten(sequences))
        return self.on_output(result, lambda y: y + nothing)


@breaks("MSK-07", "MSK-02")
class MaskedRowsRun(BrokenLayer):
    """A row that is masked throughout counts as not masked at all."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Unmask such rows."""
        if given["mask"] is not None:
            mask = np.array(ops.convert_to_numpy(given["mask"])).astype(bool)
            if mask.ndim == 2:
                mask[~mask.any(axis=1)] = True
            given = {**given, "mask": ops.convert_to_tensor(mask)}
        return self.plain(sequences, given)


@breaks("MSK-05", "MSK-06")
class HoldsState(BrokenLayer):
    """A masked first output is not zero but small."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Replace zeros."""
        return self.on_output(result, lambda y: ops.where(y == 0, 1e-3, y))


@breaks("MSK-04")
class ZeroesOutputs(BrokenLayer):
    """Masked outputs are zero although nobody asked for it."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Zero masked outputs."""
        if given["mask"] is None or not self.return_sequences or self.go_backwards:
            return result
        mask = ops.cast(ops.convert_to_tensor(given["mask"]), "float32")

        def zero(y: Any) -> Any:
            return y * ops.reshape(mask, (*mask.shape, *(1,) * (len(y.shape) - 2)))

        return self.on_output(result, zero)


@breaks("MSK-11")
class BytesInverted(BrokenLayer):
    """A mask of uint8 is read the wrong way round."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Invert masks of bytes."""
        mask = given["mask"]
        if mask is not None and keras.backend.standardize_dtype(mask.dtype) == "uint8":
            given = {**given, "mask": 1 - ops.convert_to_tensor(mask)}
        return self.plain(sequences, given)


@breaks("MSK-12", "MSK-13")
class AnyMaskShape(BrokenLayer):
    """Masks of every shape are made to fit."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Cut, repeat and reduce until it fits."""
        if given["mask"] is not None:
            batch, time = first(sequences).shape[:2]
            mask = np.asarray(ops.convert_to_numpy(given["mask"]))
            mask = mask.reshape(mask.shape[0], -1)
            given = {**given, "mask": np.resize(mask, (batch, time)).astype(bool)}
        return self.plain(sequences, given)


@breaks("MSK-15")
class MaskNotHandedOn(BrokenLayer):
    """The next layer never sees the mask."""

    def compute_mask(self, sequences: Any, mask: Any = None) -> Any:
        """Hand on nothing."""
        return None


@breaks("MSK-16")
class ImplicitMaskLost(BrokenLayer):
    """The mask of the layer before is not looked up."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Make tensors that carry no mask."""
        return self.plain(
            tree.map_structure(lambda x: ops.convert_to_tensor(x) * 1, sequences), given
        )


@breaks("MSK-18", "MSK-14", "WRP-01")
class BackwardsIgnoresMask(BrokenLayer):
    """A backward run does not see the mask."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Drop the mask."""
        return self.plain(sequences, {**given, "mask": None} if self.go_backwards else given)
