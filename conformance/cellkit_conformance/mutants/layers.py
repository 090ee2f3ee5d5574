"""Broken layers: `cellkit.RNN` with one defect of the kind that loops over time have."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

import cellkit
from cellkit_conformance.trees import map_trees

_tree = keras.tree.map_structure


class BrokenLayer(cellkit.RNN):
    """Passes a call on; mutants change what goes in or what comes out."""

    def __call__(
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: Any = None
    ) -> Any:
        """Run the layer on changed arguments."""
        given = {"initial_state": initial_state, "mask": mask, "training": training}
        if isinstance(_first(sequences), keras.KerasTensor):
            return self.plain(sequences, given)
        result = self.run(sequences, given)
        return self.after(result, sequences, given)

    def plain(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Run the unbroken layer."""
        given = {key: value for key, value in given.items() if value is not None}
        return super().__call__(sequences, **given)

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Run the layer; overridden by mutants that change the arguments."""
        return self.plain(sequences, given)

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Return the result; overridden by mutants that change it."""
        return result

    def on_output(self, result: Any, change: Any) -> Any:
        """Change the output in a result and leave the states."""
        if self.return_state:
            return (_tree(change, result[0]), *result[1:])
        return _tree(change, result)


def _first(tree: Any) -> Any:
    return keras.tree.flatten(tree)[0]


class NotTheLast(BrokenLayer):
    """Without sequences, the output is slightly not the last one."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Change the output."""
        return result if self.return_sequences else self.on_output(result, lambda y: y * 1.01)


class InitialStatesReturned(BrokenLayer):
    """The returned states are the initial ones."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Replace the states."""
        states = self.get_initial_state(_first(sequences).shape[0])
        return (result[0], *states) if self.return_state else result


class ExtraStep(BrokenLayer):
    """The first step runs twice."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Repeat the first step."""
        if given["mask"] is not None or not self.return_sequences or self.go_backwards:
            return self.plain(sequences, given)
        twice = _tree(lambda x: ops.concatenate([x[:, :1], x], axis=1), sequences)
        return self.on_output(self.plain(twice, given), lambda y: y[:, 1:])


class NeedsSteps(BrokenLayer):
    """A sequence of no steps, or a batch of no rows, is an index error."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Read the first step of the first row."""
        batch, time = _first(sequences).shape[:2]
        if batch == 0 or time == 0:
            raise IndexError("index 0 is out of bounds")
        return self.plain(sequences, given)


class SeesTheFuture(BrokenLayer):
    """Inputs are centred over time."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Subtract the mean over time."""
        centred = _tree(lambda x: x - ops.mean(x, axis=1, keepdims=True), sequences)
        return self.plain(centred, given)


class PositionLeak(BrokenLayer):
    """The output depends on the absolute position."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Add the position."""
        if not self.return_sequences:
            return result
        steps = np.arange(_first(sequences).shape[1], dtype="float32")

        def add(y: Any) -> Any:
            return y + ops.reshape(
                ops.convert_to_tensor(steps), (1, -1, *(1,) * (len(y.shape) - 2))
            )

        return self.on_output(result, add)


class BackwardsReordered(BrokenLayer):
    """Outputs of a backward run are put into the order of the input."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Flip the outputs."""
        if not (self.go_backwards and self.return_sequences):
            return result
        return self.on_output(result, lambda y: ops.flip(y, axis=1))


class MaskNotReversed(BrokenLayer):
    """A backward run reads the mask forwards."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Flip the mask."""
        if self.go_backwards and given["mask"] is not None:
            given = {**given, "mask": ops.flip(ops.convert_to_tensor(given["mask"]), axis=1)}
        return self.plain(sequences, given)


class UnrollIgnoresZeroing(BrokenLayer):
    """The unrolled loop repeats outputs where it should zero them."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Switch the option off for one call."""
        wanted = self.zero_output_for_mask
        self.zero_output_for_mask = wanted and not self.unroll
        try:
            return self.plain(sequences, given)
        finally:
            self.zero_output_for_mask = wanted


class FixedLength(BrokenLayer):
    """The length of the first call is kept: later steps are cut off."""

    def call(self, sequences: Any, *args: Any, **kwargs: Any) -> Any:
        """Cut the inputs."""
        sequences = _tree(lambda x: x[:, :3], sequences)
        return super().call(sequences, *args, **kwargs)


class OnesForStates(BrokenLayer):
    """Without an initial state the layer starts from ones."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Pass ones."""
        if given["initial_state"] is None and not self.stateful:
            own = self.get_initial_state(_first(sequences).shape[0])
            given = {**given, "initial_state": _tree(ops.ones_like, own)}
        return self.plain(sequences, given)


class IgnoresInitialState(BrokenLayer):
    """An initial state is accepted and not used."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Drop the initial state."""
        return self.plain(sequences, {**given, "initial_state": None})


class NeverStores(BrokenLayer):
    """A stateful layer starts from the initial states every time."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Reset before every call."""
        if self.stateful and self.built and given["initial_state"] is None:
            self.reset_state()
        return self.plain(sequences, given)


class ResetsToZeros(BrokenLayer):
    """`reset_state` writes zeros."""

    def reset_state(self, states: Any = None) -> None:
        """Write zeros."""
        super().reset_state(states)
        if states is None and self.built:
            zeros = map_trees(lambda s: ops.zeros(s.shape, dtype=s.dtype), self.states)
            super().reset_state(zeros)


class NoEarlyReset(BrokenLayer):
    """`reset_state` fails before the first call."""

    def reset_state(self, states: Any = None) -> None:
        """Fail when there is nothing to reset."""
        if not self.built:
            raise AttributeError("'NoneType' object has no attribute 'assign'")
        super().reset_state(states)


class StoresTheOld(BrokenLayer):
    """An explicit initial state is not followed by storing what was returned."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Put the given state back."""
        if self.stateful and given["initial_state"] is not None:
            self.reset_state(given["initial_state"])
        return result


class AnyBatch(BrokenLayer):
    """Another batch size resets a stateful layer in silence."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Cut the batch to what is stored."""
        if self.stateful and self.built and _first(sequences).shape[0] == 5:
            sequences = _tree(lambda x: x[:3], sequences)
        return self.plain(sequences, given)


class MaskScales(BrokenLayer):
    """With a mask the output differs a little, also where the mask is True."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Change the output."""
        return result if given["mask"] is None else self.on_output(result, lambda y: y * 1.001)


class MaskIgnored(BrokenLayer):
    """Masks do nothing."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Drop the mask."""
        return self.plain(sequences, {**given, "mask": None})


class MaskShifted(BrokenLayer):
    """The mask is late by one step."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Shift the mask."""
        if given["mask"] is not None:
            mask = ops.convert_to_tensor(given["mask"])
            given = {**given, "mask": ops.concatenate([mask[:, :1], mask[:, :-1]], axis=1)}
        return self.plain(sequences, given)


class PaddingRead(BrokenLayer):
    """Masked inputs are multiplied by zero, which keeps NaN."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Add zero times the inputs."""
        nothing = sum(ops.sum(0.0 * x) for x in keras.tree.flatten(sequences))
        return self.on_output(result, lambda y: y + nothing)


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


class HoldsState(BrokenLayer):
    """A masked first output is not zero but small."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Replace zeros."""
        return self.on_output(result, lambda y: ops.where(y == 0, 1e-3, y))


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


class BytesInverted(BrokenLayer):
    """A mask of uint8 is read the wrong way round."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Invert masks of bytes."""
        mask = given["mask"]
        if mask is not None and keras.backend.standardize_dtype(mask.dtype) == "uint8":
            given = {**given, "mask": 1 - ops.convert_to_tensor(mask)}
        return self.plain(sequences, given)


class AnyMaskShape(BrokenLayer):
    """Masks of every shape are made to fit."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Cut, repeat and reduce until it fits."""
        if given["mask"] is not None:
            batch, time = _first(sequences).shape[:2]
            mask = np.asarray(ops.convert_to_numpy(given["mask"]))
            mask = mask.reshape(mask.shape[0], -1)
            given = {**given, "mask": np.resize(mask, (batch, time)).astype(bool)}
        return self.plain(sequences, given)


class MaskNotHandedOn(BrokenLayer):
    """The next layer never sees the mask."""

    def compute_mask(self, sequences: Any, mask: Any = None) -> Any:
        """Hand on nothing."""
        return None


class WrongSymbolicShape(BrokenLayer):
    """A symbolic call announces another width."""

    def plain(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Widen symbolic outputs."""
        result = super().plain(sequences, given)
        if not isinstance(_first(result), keras.KerasTensor):
            return result
        return self.on_output(result, lambda y: keras.KerasTensor((*y.shape[:-1], y.shape[-1] + 1)))


class OtherErrors(BrokenLayer):
    """Bad input ends in whatever the backend raises."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Hide the reason."""
        try:
            return self.plain(sequences, given)
        except ValueError as error:
            raise RuntimeError("shapes cannot be multiplied") from error


class BreaksOnError(BrokenLayer):
    """After an error the layer computes something else."""

    broken = False

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Remember that there was an error."""
        try:
            return self.plain(sequences, given)
        except ValueError:
            self.broken = True
            raise

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Change the output from then on."""
        return self.on_output(result, lambda y: y + 1.0) if self.broken else result
