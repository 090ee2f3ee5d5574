"""Broken cells: each a canary with one defect of the kind that authors make."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

import cellkit
from cellkit.spec import rename
from cellkit_conformance.canaries import NestedCanary, PlainCanary, plain_reference


class WrongSign(PlainCanary):
    """The update subtracts the candidate."""

    def mix(self, g: Any, c: Any, n: Any) -> Any:
        """Compute c'."""
        return g * c - (1 - g) * n


class SwappedGates(PlainCanary):
    """Gate and candidate exchange their input weights."""

    def gate(self, x: Any, h: Any) -> Any:
        """Compute g."""
        z = ops.matmul(x, self.Wn) + ops.matmul(h, self.Ug)
        return ops.sigmoid(z if self.bg is None else z + self.bg)

    def candidate(self, x: Any, c: Any) -> Any:
        """Compute n."""
        z = ops.matmul(x, self.Wg) + ops.matmul(c, self.Un)
        return self.activation(z if self.bn is None else z + self.bn)


class StateNotUpdated(PlainCanary):
    """Every step starts from the initial states."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        output, _ = super().call(inputs, states, training)
        return output, [states[0], states[1]]


class OldStateOut(PlainCanary):
    """The output is made of h(t-1) instead of h(t)."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        _, new = super().call(inputs, states, training)
        return self.emit(states[0]), new


class DroppedBias(PlainCanary):
    """The bias of the output exists and is never added."""

    def emit(self, h: Any) -> Any:
        """Compute y."""
        return ops.matmul(h, self.P)


class WrongConstant(PlainCanary):
    """The 'linear' case computes something else than its option says."""

    def candidate(self, x: Any, c: Any) -> Any:
        """Compute n."""
        n = super().candidate(x, c)
        return n if self.units == 4 else 0.9 * n


class BatchLeak(PlainCanary):
    """A mean over the batch gets into every row."""

    def emit(self, h: Any) -> Any:
        """Compute y."""
        return super().emit(h - ops.mean(h, axis=0, keepdims=True))


class DeadInput(PlainCanary):
    """The last feature is cut off."""

    def gate(self, x: Any, h: Any) -> Any:
        """Compute g."""
        return super().gate(x * ops.convert_to_tensor([1.0, 1.0, 0.0]), h)

    def candidate(self, x: Any, c: Any) -> Any:
        """Compute n."""
        return super().candidate(x * ops.convert_to_tensor([1.0, 1.0, 0.0]), c)


class Overflow(PlainCanary):
    """The sigmoid is exp(z) / (1 + exp(z)), which overflows."""

    def gate(self, x: Any, h: Any) -> Any:
        """Compute g."""
        z = ops.exp(ops.matmul(x, self.Wg) + ops.matmul(h, self.Ug) + self.bg)
        return z / (1 + z)


class DivisionByInput(PlainCanary):
    """Inputs are normalised by their length, also when it is zero."""

    def candidate(self, x: Any, c: Any) -> Any:
        """Compute n."""
        length = ops.sqrt(ops.sum(x * x, axis=-1, keepdims=True))
        return super().candidate(x, c) + 0.0 * (x / length)[:, :1]


class RootAtZero(PlainCanary):
    """A root whose derivative is infinite at zero."""

    def candidate(self, x: Any, c: Any) -> Any:
        """Compute n."""
        return super().candidate(x, c) + ops.sqrt(ops.abs(x[:, :1]))


class CutGradient(PlainCanary):
    """The states are detached at every step."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        return super().call(inputs, [ops.stop_gradient(s) for s in states], training)


class FrozenWeight(PlainCanary):
    """A trainable weight is used behind a stop_gradient."""

    def emit(self, h: Any) -> Any:
        """Compute y."""
        return ops.matmul(h, ops.stop_gradient(ops.convert_to_tensor(self.P))) + self.q


class SizeAfterBuild(PlainCanary):
    """The output size is right only after build."""

    late = 0

    @property
    def output_size(self) -> int:
        """One too few before build."""
        return self.units + self.late

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        self.late = 1
        super().build(input_shape)


class WrongOutputSize(PlainCanary):
    """The output size is that of the states."""

    @property
    def output_size(self) -> int:
        """One too few."""
        return self.units


class SameCases(PlainCanary):
    """Two cases that say the same in two ways."""


SameCases.spec = dataclasses.replace(
    PlainCanary.spec, cases={"a": {"units": 4}, "b": {"units": 4, "activation": "tanh"}}
)


class HalfStates(PlainCanary):
    """The states come back in half precision."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        output, new = super().call(inputs, states, training)
        return output, [ops.cast(s, "float16") for s in new]


class RemembersBatch(PlainCanary):
    """The initial state has the batch size of the first call."""

    batch = None

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        """Give zeros of the first batch size."""
        if self.batch is None:
            object.__setattr__(self, "batch", batch_size)
        return [ops.zeros((self.batch, self.units)), ops.zeros((self.batch, self.units))]


class LazyWeight(PlainCanary):
    """A weight is created by the first call."""

    def build(self, input_shape: Any) -> None:
        """Create most weights."""
        super().build(input_shape)
        self.late = keras.layers.Dense(self.units + 1)

    def emit(self, h: Any) -> Any:
        """Compute y."""
        return super().emit(h) + self.late(h)


class SharedWeight(PlainCanary):
    """All instances of the class use one bias."""

    shared: dict[Any, Any] = {}

    def build(self, input_shape: Any) -> None:
        """Create the weights, once per class."""
        super().build(input_shape)
        bias = self.shared.setdefault(self.units, self.q)
        self._trainable_variables.append(bias) if bias is not self.q else None


class ListsOnly(PlainCanary):
    """States are looked at by type."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        if isinstance(states, tuple):
            states = states[::-1]
        return super().call(inputs, states, training)


class MutatesStates(PlainCanary):
    """The list of states is changed in place."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        output, new = super().call(inputs, states, training)
        if isinstance(states, list):
            states[0] = new[0]
        return output, new


def _blind_reference(w: dict, x: Any, states: Any, config: dict) -> Any:
    """Use the sum of two weights only, so that their order cannot be seen."""
    both = w["Wg"] + w["Wn"]
    return plain_reference({**w, "Wg": both, "Wn": both}, x, states, config)


class BlindReference(PlainCanary):
    """The reference does not see which of two weights is which."""


BlindReference.spec = dataclasses.replace(PlainCanary.spec, reference=_blind_reference)


class DeniesMasking(PlainCanary):
    """Masks are not claimed, and accepted."""


DeniesMasking.spec = dataclasses.replace(PlainCanary.spec, traits=frozenset())


class NoiseInInference(PlainCanary):
    """Noise is added whatever the training flag says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seeds = keras.random.SeedGenerator(1)

    def noisy(self, training: bool) -> bool:
        """Whether to add noise."""
        return True

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        output, new = super().call(inputs, states, training)
        if self.noisy(training):
            output = output + keras.random.normal(ops.shape(output), seed=self.seeds)
        return output, new


class HiddenNoise(NoiseInInference):
    """Noise in training, and no trait that says so."""

    def noisy(self, training: bool) -> bool:
        """Whether to add noise."""
        return bool(training)


class LostArgument(PlainCanary):
    """The config forgets the activation."""

    def get_config(self) -> dict[str, Any]:
        """Return most of the constructor arguments."""
        config = super().get_config()
        del config["activation"]
        return config


LostArgument.spec = dataclasses.replace(
    PlainCanary.spec, cases={"linear": {"units": 3, "activation": "linear"}, "tanh": {"units": 4}}
)


class IgnoredDropout(NestedCanary):
    """Dropout is claimed, accepted and never applied."""

    def _drop(self, x: Any, rate: float, key: Any) -> Any:
        return x


class ResampledDropout(NestedCanary):
    """A new dropout mask is drawn at every step."""

    def _drop(self, x: Any, rate: float, key: Any) -> Any:
        return keras.random.dropout(x, rate, seed=self.seed_generator)


def _forget(cell: Any, variable: Any) -> None:
    """Take a weight back; `remove` would compare weights entry by entry."""
    weights = cell._trainable_variables
    del weights[next(i for i, v in enumerate(weights) if v is variable)]


class CountedNames(PlainCanary):
    """The name of a weight counts the cells of the process."""

    made = 0

    def build(self, input_shape: Any) -> None:
        """Create the weights, and one more."""
        super().build(input_shape)
        CountedNames.made += 1
        shape = (self.units + 1,)
        self.q = self.add_weight(shape=shape, name=f"offset{CountedNames.made}")


class MiscountedWeights(PlainCanary):
    """The number of parameters forgets the biases."""

    def count_params(self) -> int:
        """Count too few."""
        return super().count_params() - self.units


class NotTheFrameworks(keras.layers.SimpleRNNCell):
    """Claims to be Keras' own layer, and rounds the output down."""

    def call(self, sequence: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        output, new = super().call(sequence, states, training)
        return 0.99 * output, new


NotTheFrameworks.spec = dataclasses.replace(
    PlainCanary.spec,
    reference=None,
    cases={"default": {"units": 4}, "relu": {"units": 3, "activation": "relu"}},
    traits=frozenset({"masking", "equiv:SimpleRNN"}),
    symbols=rename({"kernel": "W", "recurrent_kernel": "U", "bias": "b"}),
)


class NeedsTwoFeatures(PlainCanary):
    """One feature is taken for none."""

    def candidate(self, x: Any, c: Any) -> Any:
        """Compute n."""
        return super().candidate(0.0 * x if x.shape[-1] == 1 else x, c)


class LearnedStateCut(NestedCanary):
    """The learned initial state is copied out of its variable."""

    def _initial_leaf(self, index: int, spec: Any, batch: Any) -> Any:
        return ops.stop_gradient(super()._initial_leaf(index, spec, batch))


class ScaledGradient(PlainCanary):
    """The output is right and a tenth of its gradient is lost."""

    def emit(self, h: Any) -> Any:
        """Compute y."""
        y = super().emit(h)
        return 0.9 * y + ops.stop_gradient(0.1 * y)


class NoisyGradient(PlainCanary):
    """The gradient depends on how often the step has run in Python."""

    runs = 0

    def emit(self, h: Any) -> Any:
        """Compute y."""
        object.__setattr__(self, "runs", self.runs + 1)
        y, part = super().emit(h), 0.001 * self.runs
        return (1 - part) * y + ops.stop_gradient(part * y)


class DoesNotTrain(PlainCanary):
    """Training computes what inference does, with half of the gradient."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        output, new = super().call(inputs, states, training)
        if training:
            output = 0.5 * output + ops.stop_gradient(0.5 * output)
        return output, new


class UnscaledDropout(NestedCanary):
    """What dropout keeps is not scaled."""

    def _drop(self, x: Any, rate: float, key: Any) -> Any:
        return super()._drop(x, rate, key) * (1 - rate)


class RateIsKept(NestedCanary):
    """The rate of dropout is taken for the share that is kept."""

    def _drop(self, x: Any, rate: float, key: Any) -> Any:
        return super()._drop(x, 1 - rate, key)


class HiddenSeed(NestedCanary):
    """Dropout draws from NumPy, whose state nobody saves."""

    def _drop(self, x: Any, rate: float, key: Any) -> Any:
        kept = np.random.default_rng().random(x.shape[1:]) >= rate
        return x * ops.convert_to_tensor(kept.astype("float32") / (1 - rate))


class ZoneoutOnce(NestedCanary):
    """Zoneout keeps the same entries at every step."""

    def _zone(self, old: Any, new: Any, rate: float, training: bool) -> Any:
        if not training or not keras.backend.is_float_dtype(
            keras.backend.standardize_dtype(old.dtype)
        ):
            return super()._zone(old, new, rate, training)
        noise = keras.random.uniform(ops.shape(old), seed=5)
        return ops.where(noise < rate, old, new)


class ZoneoutUnscaled(NestedCanary):
    """Zoneout is forgotten at inference."""

    def _zone(self, old: Any, new: Any, rate: float, training: bool) -> Any:
        return super()._zone(old, new, rate, training) if training else new


class FixedSeed(NestedCanary):
    """Without a seed every cell has the same one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seed_generator = keras.random.SeedGenerator(3 if self.seed is None else self.seed)


class DeniesZoneout(NestedCanary):
    """Zoneout is not claimed, accepted and applied."""


DeniesZoneout.spec = dataclasses.replace(
    NestedCanary.spec, traits=frozenset({"masking", "dropout"})
)


class Nowhere(PlainCanary):
    """The class has another name than the one under which its module has it."""


Nowhere.__name__ = "Elsewhere"


class OtherWeightOrder(PlainCanary):
    """The weights are stored in another order."""

    def build(self, input_shape: Any) -> None:
        """Create the weights, a bias before all others."""
        first = self.add_weight(shape=(self.units + 1,), initializer="zeros", name="first")
        super().build(input_shape)
        _forget(self, self.q)
        self.q = first


class HiddenWeight(PlainCanary):
    """A random weight stands where Keras does not look."""

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        super().build(input_shape)
        hidden = np.random.default_rng().standard_normal(self.units + 1).astype("float32")
        object.__setattr__(self, "hidden", hidden)

    def emit(self, h: Any) -> Any:
        """Compute y."""
        return super().emit(h) + ops.convert_to_tensor(self.hidden)


class UntrackedVariable(PlainCanary):
    """A variable is kept in a dict that was there before Keras looked."""

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        super().build(input_shape)
        object.__setattr__(self, "kept", {"scale": keras.Variable(np.ones(1, "float32"))})


class NamesTheDefault(PlainCanary):
    """The config says tanh, whatever the activation is."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        return {**super().get_config(), "activation": "tanh"}


class NeedsEveryArgument(PlainCanary):
    """A config of an older version does not load."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Make a cell."""
        return cls(config.pop("units"), config.pop("activation"), **config)


class NarrowWeights(PlainCanary):
    """A weight is stored in the compute dtype."""

    def build(self, input_shape: Any) -> None:
        """Create the weights, one of them anew."""
        super().build(input_shape)
        shape, dtype = (self.units, self.units + 1), self.compute_dtype
        _forget(self, self.P)
        self.P = self.add_weight(shape=shape, name="P", dtype=dtype)


class SingleWeights(PlainCanary):
    """A weight is float32 under every policy."""

    def build(self, input_shape: Any) -> None:
        """Create the weights, one of them anew."""
        super().build(input_shape)
        _forget(self, self.P)
        shape = (self.units, self.units + 1)
        self.P = self.add_weight(shape=shape, name="P", dtype="float32")


class PromotedOutput(PlainCanary):
    """The output is float32 under every policy."""

    def emit(self, h: Any) -> Any:
        """Compute y."""
        return ops.cast(super().emit(h), "float32")


class ClaimsAccumulator(PlainCanary):
    """A float32 state is claimed, and there is none."""


ClaimsAccumulator.spec = dataclasses.replace(
    PlainCanary.spec, traits=frozenset({"masking", "fp32_state"})
)


class GlobalPolicy(PlainCanary):
    """The policy of the process decides, whatever the cell's own is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.factor = 1.5 if keras.config.dtype_policy().compute_dtype == "bfloat16" else 1.0

    def emit(self, h: Any) -> Any:
        """Compute y."""
        return super().emit(h) * self.factor


class Quantizes(PlainCanary):
    """Quantisation is accepted and does nothing."""

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


class ForgetsBias(PlainCanary):
    """The config says that there are biases, whatever was given."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments, one of them wrong."""
        return {**super().get_config(), "use_bias": True}


class Clipped(PlainCanary):
    """A state cannot exceed 30."""

    def mix(self, g: Any, c: Any, n: Any) -> Any:
        """Compute c'."""
        return ops.clip(super().mix(g, c, n), -30.0, 30.0)


class LearnedStateHalf(NestedCanary):
    """The learned initial state gets half of its gradient."""

    def _initial_leaf(self, index: int, spec: Any, batch: Any) -> Any:
        leaf = super()._initial_leaf(index, spec, batch)
        return 0.5 * leaf + ops.stop_gradient(0.5 * leaf) if spec.trainable else leaf


class Elman(cellkit.Cell):
    """No mutant but what the mutants of recurrent dropout are made of: h' = tanh(x W + h U + b)."""

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        super().build(input_shape)
        self.W = self.add_kernel((input_shape[-1], self.units), name="W")
        self.U = self.add_recurrent_kernel((self.units, self.units), name="U")
        self.b = self.add_bias((self.units,), name="b")

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one step."""
        z = ops.matmul(projected, self.W) + ops.matmul(self.drop(states[0]), self.U) + self.b
        return ops.tanh(z), [ops.tanh(z)]

    def _recurrent(self, x: Any, rate: float, key: Any) -> Any:
        """Drop entries of the state; overridden by mutants."""
        return super()._drop(x, rate, key)

    def _drop(self, x: Any, rate: float, key: Any) -> Any:
        drop = super()._drop if key[0] == "inputs" else self._recurrent
        return drop(x, rate, key)


def _elman_reference(w: dict, x: np.ndarray, states: list, config: dict) -> tuple[Any, Any]:
    """Compute one step of `Elman` in NumPy."""
    h = np.tanh(x @ w["W"] + states[0] @ w["U"] + w["b"])
    return h, [h]


Elman.spec = dataclasses.replace(
    PlainCanary.spec,
    reference=_elman_reference,
    cases={"default": {"units": 4}, "small": {"units": 3}},
    symbols=rename({name: name for name in "WUb"}),
    traits=frozenset({"masking", "dropout", "recurrent_dropout", "zoneout"}),
)


class RecurrentResampled(Elman):
    """A new mask of recurrent dropout is drawn at every step."""

    def _recurrent(self, x: Any, rate: float, key: Any) -> Any:
        return keras.random.dropout(x, rate, seed=self.seed_generator)


class RecurrentUnscaled(Elman):
    """What recurrent dropout keeps is not scaled."""

    def _recurrent(self, x: Any, rate: float, key: Any) -> Any:
        return super()._recurrent(x, rate, key) * (1 - rate)


class RowsDropAlike(Elman):
    """Recurrent dropout draws for the first row, and uses it for all."""

    def _recurrent(self, x: Any, rate: float, key: Any) -> Any:
        return x * super()._recurrent(ops.ones_like(x), rate, key)[:1]
