"""SEQ: broken layers that return other steps, or see what they must not."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops, tree

from cellkit_conformance.selftest.mutants.base import BrokenLayer, breaks, first
from cellkit_conformance.subject.canaries import PlainCanary


@breaks("SEQ-05")
class BatchLeak(PlainCanary):
    """A mean over the batch gets into every row."""

    def emit(self, h: Any) -> Any:
        """Compute y."""
        return super().emit(h - ops.mean(h, axis=0, keepdims=True))


@breaks("SEQ-05")
class FreshAllAtOnce(PlainCanary):
    """A sequence has begun where no row of the batch has a state yet."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        output, new = super().call(inputs, states, training)
        fresh = ops.all(ops.equal(states[0], 0))
        return output + ops.cast(fresh, output.dtype), new


@breaks("SEQ-05")
class OneSpoilsAll(PlainCanary):
    """A row that is not a number silences the batch."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        spoilt = ops.any(ops.isnan(inputs))
        return super().call(ops.where(spoilt, ops.zeros_like(inputs), inputs), states, training)


@breaks("SEQ-07")
class NeedsTwoFeatures(PlainCanary):
    """One feature is taken for none."""

    def candidate(self, x: Any, c: Any) -> Any:
        """Compute n."""
        return super().candidate(0.0 * x if x.shape[-1] == 1 else x, c)


@breaks("SEQ-01")
class NotTheLast(BrokenLayer):
    """Without sequences, the output is slightly not the last one."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Change the output."""
        return result if self.return_sequences else self.on_output(result, lambda y: y * 1.01)


@breaks("SEQ-02", "NUM-02", "SEQ-09")
class InitialStatesReturned(BrokenLayer):
    """The returned states are the initial ones."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Replace the states."""
        states = self.get_initial_state(first(sequences).shape[0])
        return (result[0], *states) if self.return_state else result


@breaks("SEQ-03", "NUM-02")
class ExtraStep(BrokenLayer):
    """The first step runs twice."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Repeat the first step."""
        if given["mask"] is not None or not self.return_sequences or self.go_backwards:
            return self.plain(sequences, given)
        twice = tree.map_structure(lambda x: ops.concatenate([x[:, :1], x], axis=1), sequences)
        return self.on_output(self.plain(twice, given), lambda y: y[:, 1:])


@breaks("SEQ-04", "SEQ-06", raises=True)
class NeedsSteps(BrokenLayer):
    """A sequence of no steps, or a batch of no rows, is an index error."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Read the first step of the first row."""
        batch, time = first(sequences).shape[:2]
        if batch == 0 or time == 0:
            raise IndexError("index 0 is out of bounds")
        return self.plain(sequences, given)


@breaks("SEQ-08")
class SeesTheFuture(BrokenLayer):
    """Inputs are centred over time."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Subtract the mean over time."""
        centred = tree.map_structure(lambda x: x - ops.mean(x, axis=1, keepdims=True), sequences)
        return self.plain(centred, given)


@breaks("SEQ-09", "MSK-03")
class PositionLeak(BrokenLayer):
    """The output depends on the absolute position."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Add the position."""
        if not self.return_sequences:
            return result
        steps = np.arange(first(sequences).shape[1], dtype="float32")

        def add(y: Any) -> Any:
            return y + ops.reshape(
                ops.convert_to_tensor(steps), (1, -1, *(1,) * (len(y.shape) - 2))
            )

        return self.on_output(result, add)


@breaks("SEQ-10", "SEQ-11")
class BackwardsReordered(BrokenLayer):
    """Outputs of a backward run are put into the order of the input."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Flip the outputs."""
        if not (self.go_backwards and self.return_sequences):
            return result
        return self.on_output(result, lambda y: ops.flip(y, axis=1))


@breaks("SEQ-11", "MSK-06")
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


@breaks("SEQ-05")
class EightRows(BrokenLayer):
    """Beyond eight rows the outputs are off by a hundredth."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Change the output."""
        many = first(sequences).shape[0] > 8
        return self.on_output(result, lambda y: y * 1.01) if many else result


@breaks("SEQ-12")
class FixedLength(BrokenLayer):
    """The length of the first call is kept: later steps are cut off."""

    def call(self, sequences: Any, *args: Any, **kwargs: Any) -> Any:
        """Cut the inputs."""
        sequences = tree.map_structure(lambda x: x[:, :3], sequences)
        return super().call(sequences, *args, **kwargs)


@breaks("SEQ-16")
class TakesAnyEngine(BrokenLayer):
    """A scan that does not apply is replaced by the loop in silence."""

    def __init__(self, *args: Any, engine: str = "auto", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@breaks("SEQ-13")
class FlattensAxes(BrokenLayer):
    """A further axis of the inputs is cut off in silence."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Cut the last axis."""
        return self.plain(
            tree.map_structure(lambda x: x[..., 0] if len(x.shape) == 4 else x, sequences),
            given,
        )


@breaks("SEQ-14")
class ReadsBuffers(BrokenLayer):
    """Of a NumPy array the buffer is read, in the order in which it lies in memory."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Read the buffer."""

        def read(x: Any) -> Any:
            if not isinstance(x, np.ndarray):
                return x
            return np.frombuffer(x.tobytes(order="A"), x.dtype).reshape(x.shape)

        return self.plain(tree.map_structure(read, sequences), given)


@breaks("SEQ-15")
class BoolsInverted(BrokenLayer):
    """Inputs of bools are read the wrong way round."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Invert bools."""

        def invert(x: Any) -> Any:
            is_bool = keras.backend.standardize_dtype(x.dtype) == "bool"
            return ops.logical_not(x) if is_bool else x

        return self.plain(tree.map_structure(invert, sequences), given)
