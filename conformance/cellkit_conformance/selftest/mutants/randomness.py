"""RNG: broken cells and layers that draw where, when or how they must not."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

import cellkit
from cellkit.registry import rename
from cellkit_conformance.selftest.mutants.base import BrokenLayer, breaks, first
from cellkit_conformance.subject.canaries import (
    Config,
    NestedCanary,
    PlainCanary,
    States,
    Symbols,
)


@breaks("RNG-01")
class NoiseInInference(PlainCanary):
    """Noise is added whatever the training flag says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seeds = keras.random.SeedGenerator(1)

    def noisy(self, training: bool) -> bool:
        """Say whether to add noise."""
        return True

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        output, new = super().call(inputs, states, training)
        if self.noisy(training):
            output = output + keras.random.normal(ops.shape(output), seed=self.seeds)
        return output, new


@breaks("RNG-08")
class HiddenNoise(NoiseInInference):
    """Noise in training, and no trait that says so."""

    def noisy(self, training: bool) -> bool:
        """Say whether to add noise."""
        return bool(training)


@breaks("RNG-02", "RNG-03")
class IgnoredDropout(NestedCanary):
    """Dropout is claimed, accepted and never applied."""

    def _drop(self, x: Any, rate: float, key: Any) -> Any:
        return x


@breaks("RNG-03")
class ResampledDropout(NestedCanary):
    """A new dropout mask is drawn at every step."""

    def _drop(self, x: Any, rate: float, key: Any) -> Any:
        return keras.random.dropout(x, rate, seed=self.seed_generator)


@breaks("RNG-04")
class UnscaledDropout(NestedCanary):
    """Values that dropout keeps are not scaled."""

    def _drop(self, x: Any, rate: float, key: Any) -> Any:
        return super()._drop(x, rate, key) * (1 - rate)


@breaks("RNG-04")
class RateIsKept(NestedCanary):
    """The rate of dropout is taken for the share that is kept."""

    def _drop(self, x: Any, rate: float, key: Any) -> Any:
        return super()._drop(x, 1 - rate, key)


@breaks("RNG-07")
class HiddenSeed(NestedCanary):
    """Dropout draws from NumPy, whose state nobody saves."""

    def _drop(self, x: Any, rate: float, key: Any) -> Any:
        kept = np.random.default_rng().random(x.shape[1:]) >= rate
        return x * ops.convert_to_tensor(kept.astype("float32") / (1 - rate))


@breaks("RNG-09")
class ZoneoutOnce(NestedCanary):
    """Zoneout keeps the same entries at every step."""

    def _zone(self, old: Any, new: Any, rate: float, training: bool) -> Any:
        if not training or not keras.backend.is_float_dtype(
            keras.backend.standardize_dtype(old.dtype)
        ):
            return super()._zone(old, new, rate, training)
        noise = keras.random.uniform(ops.shape(old), seed=5)
        return ops.where(noise < rate, old, new)


@breaks("RNG-09")
class ZoneoutUnscaled(NestedCanary):
    """Zoneout is forgotten at inference."""

    def _zone(self, old: Any, new: Any, rate: float, training: bool) -> Any:
        return super()._zone(old, new, rate, training) if training else new


@breaks("RNG-10")
class FixedSeed(NestedCanary):
    """Without a seed every cell has the same one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seed_generator = keras.random.SeedGenerator(3 if self.seed is None else self.seed)


@breaks("RNG-11")
class DeniesZoneout(NestedCanary):
    """Zoneout is not claimed, accepted and applied."""


DeniesZoneout.spec = dataclasses.replace(
    NestedCanary.spec, traits=frozenset({"masking", "dropout"})
)


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


def _elman_reference(w: Symbols, x: np.ndarray, states: States, config: Config) -> tuple[Any, Any]:
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


@breaks("RNG-03")
class RecurrentResampled(Elman):
    """A new mask of recurrent dropout is drawn at every step."""

    def _recurrent(self, x: Any, rate: float, key: Any) -> Any:
        return keras.random.dropout(x, rate, seed=self.seed_generator)


@breaks("RNG-04")
class RecurrentUnscaled(Elman):
    """Values that recurrent dropout keeps are not scaled."""

    def _recurrent(self, x: Any, rate: float, key: Any) -> Any:
        return super()._recurrent(x, rate, key) * (1 - rate)


@breaks("RNG-11")
class RowsDropAlike(Elman):
    """Recurrent dropout draws for the first row, and uses it for all."""

    def _recurrent(self, x: Any, rate: float, key: Any) -> Any:
        return x * super()._recurrent(ops.ones_like(x), rate, key)[:1]


@breaks("RNG-05", cell=NestedCanary)
class UnrollMovesSeed(BrokenLayer):
    """An unrolled layer draws a number more."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Move the seed."""
        if self.unroll and given["training"]:
            self.cell.seed_generator.next()
        return self.plain(sequences, given)


@breaks("RNG-06", cell=NestedCanary)
class StaleAfterError(BrokenLayer):
    """After an error the layer insists on the batch size of that call."""

    stale = None

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Remember the batch of a call that failed."""
        batch = first(sequences).shape[0]
        if self.stale not in (None, batch):
            raise ValueError(f"cannot broadcast {self.stale} rows to {batch}")
        try:
            return self.plain(sequences, given)
        except ValueError:
            self.stale = batch
            raise


@breaks("RNG-12")
class TrainsByDefault(HiddenNoise):
    """Who does not say that it is inference gets training."""

    def call(self, inputs: Any, states: Any, training: bool = True) -> tuple[Any, Any]:
        """Advance one step."""
        return super().call(inputs, states, training)


@breaks("RNG-13")
class SilentNoise(PlainCanary):
    """Noise is claimed and never added."""


SilentNoise.spec = dataclasses.replace(PlainCanary.spec, traits=frozenset({"masking", "noise"}))


@breaks("RNG-13")
class SharedNoise(PlainCanary):
    """All rows get the noise of one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        output, new = super().call(inputs, states, training)
        if training:
            output = output + keras.random.normal((1, output.shape[-1]), seed=self.seeds)
        return output, new


SharedNoise.spec = SilentNoise.spec


@keras.saving.register_keras_serializable(package="cellkit_conformance")
@breaks("RNG-14")
class IgnoredRate(PlainCanary):
    """A rate is accepted, kept, and not used."""

    spec = None

    def __init__(self, units: int = 4, input_dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.input_dropout = input_dropout

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        return {**super().get_config(), "input_dropout": self.input_dropout}


class OwnDropout(IgnoredRate):
    """A cell that drops inputs by itself, for mutants that do so wrongly."""

    def __init__(self, units: int = 4, input_dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(units, input_dropout, **kwargs)
        self.generator = keras.random.SeedGenerator(5)

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        if training and self.input_dropout:
            inputs = self.dropped(inputs)
        return super().call(inputs, states, training)


@keras.saving.register_keras_serializable(package="cellkit_conformance")
@breaks("RNG-14")
class KeepsLess(OwnDropout):
    """Entries are dropped, and the others stay as they are."""

    def dropped(self, inputs: Any) -> Any:
        """Return what is left of the inputs."""
        drawn = keras.random.uniform(ops.shape(inputs), seed=self.generator)
        return inputs * ops.cast(drawn >= self.input_dropout, inputs.dtype)


@keras.saving.register_keras_serializable(package="cellkit_conformance")
@breaks("RNG-14")
class AlwaysHalf(OwnDropout):
    """A half is dropped, whatever the rate says."""

    def dropped(self, inputs: Any) -> Any:
        """Return what is left of the inputs."""
        return keras.random.dropout(inputs, 0.5, seed=self.generator)


@breaks("RNG-15")
class DropsTheMemory(Elman):
    """Recurrent dropout takes away what the state carries."""

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one step."""
        h = self.drop(states[0])
        n = ops.tanh(ops.matmul(projected, self.W) + ops.matmul(h, self.U) + self.b)
        return 0.5 * h + 0.5 * n, [0.5 * h + 0.5 * n]


@breaks("RNG-15")
class OneGateReadsTheWhole(Elman):
    """Some columns of a recurrent product see the state that was not dropped."""

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one step."""
        dropped, half = self.drop(states[0]), self.units // 2
        products = [ops.matmul(dropped, self.U[:, :half]), ops.matmul(states[0], self.U[:, half:])]
        z = ops.matmul(projected, self.W) + ops.concatenate(products, axis=-1) + self.b
        return ops.tanh(z), [ops.tanh(z)]


def _leaky_reference(w: Symbols, x: np.ndarray, states: States, config: Config) -> Any:
    """Compute one step of `DropsTheMemory` in NumPy."""
    h = 0.5 * states[0] + 0.5 * np.tanh(x @ w["W"] + states[0] @ w["U"] + w["b"])
    return h, [h]


DropsTheMemory.spec = dataclasses.replace(Elman.spec, reference=_leaky_reference)


@breaks("RNG-15")
class OneMask(Elman):
    """One seed draws the mask of the inputs, and again that of the states."""

    def _drop(self, x: Any, rate: float, key: Any) -> Any:
        return keras.random.dropout(x, rate, seed=5)


@breaks("RNG-16")
class RestingStatistics(PlainCanary):
    """Running statistics are claimed, and nothing moves."""


RestingStatistics.spec = dataclasses.replace(
    PlainCanary.spec, traits=frozenset({"masking", "running_statistics"})
)
