"""Broken layers: `cellkit.RNN` with one defect of the kind that loops over time have."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np
from keras import ops

import cellkit
from cellkit.states import StateStore
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


class EightRows(BrokenLayer):
    """Beyond eight rows the outputs are off by a hundredth."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Change the output."""
        many = _first(sequences).shape[0] > 8
        return self.on_output(result, lambda y: y * 1.01) if many else result


class GapHalves(BrokenLayer):
    """With a mask, half of the gradient by the inputs is lost."""

    def call(
        self, sequences: Any, initial_state: Any = None, mask: Any = None, **kwargs: Any
    ) -> Any:
        """Stop a part of the gradient."""
        if mask is not None:
            sequences = _tree(lambda x: 0.5 * x + ops.stop_gradient(0.5 * x), sequences)
        return super().call(sequences, initial_state, mask, **kwargs)


class TakesOneRow(BrokenLayer):
    """An initial state of one row is repeated for all."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Repeat the row."""
        states, batch = given["initial_state"], _first(sequences).shape[0]
        if states is not None and _first(states).shape[0] == 1:
            rows = _tree(lambda s: ops.repeat(ops.convert_to_tensor(s), batch, axis=0), states)
            given = {**given, "initial_state": rows}
        return self.plain(sequences, given)


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


class LongRunsDrift(BrokenLayer):
    """After 256 steps the outputs are off by a thousandth."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Change late outputs."""
        time = _first(sequences).shape[1]
        if not self.return_sequences or time <= 256:
            return result
        late = np.where(np.arange(time) > 256, 1.001, 1.0).astype("float32").reshape(1, -1, 1)
        return self.on_output(result, lambda y: y * ops.convert_to_tensor(late))


class TakesAnyEngine(BrokenLayer):
    """A scan that does not apply is replaced by the loop in silence."""

    def __init__(self, *args: Any, engine: str = "auto", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class FlattensAxes(BrokenLayer):
    """A further axis of the inputs is cut off in silence."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Cut the last axis."""
        return self.plain(_tree(lambda x: x[..., 0] if len(x.shape) == 4 else x, sequences), given)


class ReadsBuffers(BrokenLayer):
    """Of a NumPy array the buffer is read, in the order in which it lies in memory."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Read the buffer."""

        def read(x: Any) -> Any:
            if not isinstance(x, np.ndarray):
                return x
            return np.frombuffer(x.tobytes(order="A"), x.dtype).reshape(x.shape)

        return self.plain(_tree(read, sequences), given)


class BoolsInverted(BrokenLayer):
    """Inputs of bools are read the wrong way round."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Invert bools."""

        def invert(x: Any) -> Any:
            is_bool = keras.backend.standardize_dtype(x.dtype) == "bool"
            return ops.logical_not(x) if is_bool else x

        return self.plain(_tree(invert, sequences), given)


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
        if self.stateful and training:
            for variable in self.state_store.values:
                variable.assign(ops.zeros_like(variable.value))
        return result


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


class FloatStates(BrokenLayer):
    """Every state comes back as float32."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Cast the states."""
        states = _tree(lambda s: ops.cast(s, "float32"), result[1:])
        return (result[0], *states) if self.return_state else result


class CountsInHalf(BrokenLayer):
    """Integers go through float16."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Cast the states twice."""

        def narrow(s: Any) -> Any:
            if keras.backend.standardize_dtype(s.dtype) != "int32":
                return s
            return ops.cast(ops.cast(s, "float16"), "int32")

        return (result[0], *_tree(narrow, result[1:])) if self.return_state else result


class FlipsMatrices(BrokenLayer):
    """A matrix state comes back upside down."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Flip states of rank 3."""
        states = _tree(lambda s: ops.flip(s, axis=1) if len(s.shape) > 2 else s, result[1:])
        return (result[0], *states) if self.return_state else result


class StatesReordered(BrokenLayer):
    """States come back in the opposite order."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Reverse the states."""
        return (result[0], *result[:0:-1]) if self.return_state else result


class ImplicitMaskLost(BrokenLayer):
    """The mask of the layer before is not looked up."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Make tensors that carry no mask."""
        return self.plain(_tree(lambda x: ops.convert_to_tensor(x) * 1, sequences), given)


class BackwardsIgnoresMask(BrokenLayer):
    """A backward run does not see the mask."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Drop the mask."""
        return self.plain(sequences, {**given, "mask": None} if self.go_backwards else given)


class StatefulGradient(BrokenLayer):
    """A stateful layer loses a part of its gradient."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Stop a part of the gradient."""
        result = super().call(*args, **kwargs)
        if not self.stateful:
            return result
        return self.on_output(result, lambda y: 0.5 * y + ops.stop_gradient(0.5 * y))


class UnrollMovesSeed(BrokenLayer):
    """An unrolled layer draws a number more."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Move the seed."""
        if self.unroll and given["training"]:
            self.cell.seed_generator.next()
        return self.plain(sequences, given)


class StaleAfterError(BrokenLayer):
    """After an error the layer insists on the batch size of that call."""

    stale = None

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Remember the batch of a call that failed."""
        batch = _first(sequences).shape[0]
        if self.stale not in (None, batch):
            raise ValueError(f"cannot broadcast {self.stale} rows to {batch}")
        try:
            return self.plain(sequences, given)
        except ValueError:
            self.stale = batch
            raise


class AcceptsAnyWeights(BrokenLayer):
    """Weights of every shape are made to fit."""

    def set_weights(self, weights: Any) -> None:
        """Resize."""
        shapes = [tuple(v.shape) for v in self.weights]
        pairs = zip(weights, shapes, strict=False)
        super().set_weights([np.resize(w, s) for w, s in pairs] + list(weights[len(shapes) :]))


class CopiesShare(BrokenLayer):
    """A deep copy is the layer itself."""

    def __deepcopy__(self, memo: Any) -> Any:
        return self


@keras.saving.register_keras_serializable(package="cellkit_conformance")
class ForgetsDirection(BrokenLayer):
    """A layer made from a config runs the other way."""

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make a layer."""
        turned = {**config, "go_backwards": not config["go_backwards"]}
        return super().from_config(turned, custom_objects)


class OnlyEager(BrokenLayer):
    """Compiled outputs are off by a hundredth."""

    def call(self, sequences: Any, *args: Any, **kwargs: Any) -> Any:
        """Look at how it is run."""
        result = super().call(sequences, *args, **kwargs)
        if not is_traced(_first(sequences)):
            return result
        return self.on_output(result, lambda y: y * 1.01)


class NewEveryCall(FixedLength):
    """Every call compiles anew, and later steps of a longer sequence are cut off."""

    def call(self, sequences: Any, *args: Any, **kwargs: Any) -> Any:
        """Change what the compiled loop depends on."""
        self.cell.tick = getattr(self.cell, "tick", 0) + 1
        return super().call(sequences, *args, **kwargs)


class ProbesTheStep(BrokenLayer):
    """The first step runs twice, the first time for its shapes."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Run the first step and throw it away."""
        if self.return_sequences and not self.stateful and given["mask"] is None:
            self.plain(_tree(lambda x: x[:, :1], sequences), {**given})
        return self.plain(sequences, given)


class StackScales(BrokenLayer):
    """The output of a stack is off by a hundredth."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Change the output."""
        if not isinstance(self.cell, cellkit.StackedCells):
            return result
        return self.on_output(result, lambda y: y * 1.01)


class ChangedByModels(BrokenLayer):
    """A layer that was part of a model computes something else."""

    in_model = False

    def plain(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Remember symbolic calls."""
        symbolic = isinstance(_first(sequences), keras.KerasTensor)
        result = super().plain(sequences, given)
        if symbolic:
            self.in_model = True
        return result

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Change the output."""
        return self.on_output(result, lambda y: y * 1.01) if self.in_model else result


class RemembersLast(BrokenLayer):
    """A layer that is not stateful goes on from its last call."""

    last = None

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Start from the last states."""
        batch = _first(sequences).shape[0]
        if self.last is not None and given["initial_state"] is None and not self.stateful:
            if self.last[0].shape[0] == batch:
                given = {**given, "initial_state": list(self.last)}
        return self.plain(sequences, given)

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Remember the states."""
        if self.return_state and not is_traced(_first(sequences)):
            object.__setattr__(self, "last", [ops.stop_gradient(s) for s in result[1:]])
        return result


class CachesById(BrokenLayer):
    """An array that was seen before gives the result that it gave then."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Look the array up."""
        first = _first(sequences)
        if not isinstance(first, np.ndarray):
            return self.plain(sequences, given)
        if not hasattr(self, "seen"):
            object.__setattr__(self, "seen", {})
        if id(first) not in self.seen:
            self.seen[id(first)] = self.plain(sequences, given)
        return self.seen[id(first)]


class SharedCounter(BrokenLayer):
    """Every layer that is made moves the outputs of all."""

    made = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        SharedCounter.made += 1

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Add the number of layers."""
        return self.on_output(result, lambda y: y + 0.01 * SharedCounter.made)


class NotForThreads(BrokenLayer):
    """The inputs of the call are kept on the layer while it runs."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Put the inputs aside, and take them up again."""
        object.__setattr__(self, "now", sequences)
        time.sleep(0.02)
        return self.plain(self.now, given)


class OneDevice(BrokenLayer):
    """Results are brought to the first CPU, and are off by a hundredth on other devices."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Move the result."""
        if not isinstance(_first(result), np.ndarray) and not is_traced(_first(sequences)):
            device = _first(sequences).device
            if str(device() if callable(device) else device).lower().endswith("1"):
                with keras.device("cpu:0"):
                    return _tree(
                        lambda y: ops.convert_to_tensor(1.01 * ops.convert_to_numpy(y)), result
                    )
        return result


def is_traced(tensor: Any) -> bool:
    """Whether a tensor has no value yet, because its function is being compiled."""
    name = keras.backend.backend()
    if name == "jax":
        import jax

        return isinstance(tensor, jax.core.Tracer)
    if name == "tensorflow":
        import tensorflow as tf

        return not tf.executing_eagerly()
    import torch

    return bool(torch.compiler.is_compiling())
