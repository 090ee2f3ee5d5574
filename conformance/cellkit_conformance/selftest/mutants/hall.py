"""Hall of bugs: defects that libraries have shipped, rebuilt from what was written about them.

None of it is their code. Each mutant makes the same mistake in a cell or layer of this suite, and
names the thread in which the mistake was reported or mended. `docs/hall-of-bugs.md` lists them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops, tree

import cellkit
from cellkit.registry import rename
from cellkit_conformance.selftest.mutants.base import BrokenLayer, breaks, first
from cellkit_conformance.selftest.mutants.randomness import Elman
from cellkit_conformance.selftest.mutants.resets import LateReset
from cellkit_conformance.selftest.mutants.states import ResetsToZeros
from cellkit_conformance.subject.canaries import (
    Config,
    NestedCanary,
    PlainCanary,
    States,
    Symbols,
)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


class LSTM(cellkit.Cell):
    """No mutant but the LSTM with peepholes that mutants are made of.

    i, f = sigmoid(z + c p);  g = tanh(z);  c' = f c + i g;
    o = sigmoid(z + c' p);  h' = o tanh(c').
    """

    @property
    def state_size(self) -> list[int]:
        """Hidden state and cell state."""
        return [self.units, self.units]

    def build(self, input_shape: Any) -> None:
        """Create the weights; the four gates stand side by side in the order i, f, g, o."""
        super().build(input_shape)
        n = self.units
        self.W = self.add_kernel((input_shape[-1], 4 * n), name="W")
        self.U = self.add_recurrent_kernel((n, 4 * n), name="U")
        self.p = self.add_recurrent_kernel((3, n), name="p")
        self.b = self.add_bias((4 * n,), name="b")

    def gates(self, x: Any, h: Any) -> list[Any]:
        """Compute what goes into i, f, g and o."""
        z = ops.matmul(x, self.W) + ops.matmul(self.drop(h), self.U) + self.b
        return list(ops.split(z, 4, axis=-1))

    def renew(self, i: Any, f: Any, g: Any, c: Any) -> Any:
        """Compute c'."""
        return f * c + i * g

    def peep(self, c: Any, new_c: Any) -> Any:
        """Choose the cell state that the output gate sees."""
        return new_c

    def emit(self, o: Any, g: Any, new_c: Any) -> Any:
        """Compute h'."""
        return o * ops.tanh(new_c)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one step."""
        h, c = states
        p = ops.convert_to_tensor(self.p)
        zi, zf, zg, zo = self.gates(projected, h)
        i, f, g = ops.sigmoid(zi + c * p[0]), ops.sigmoid(zf + c * p[1]), ops.tanh(zg)
        new_c = self.renew(i, f, g, c)
        o = ops.sigmoid(zo + self.peep(c, new_c) * p[2])
        new_h = self.emit(o, g, new_c)
        return new_h, [new_h, new_c]


def lstm_reference(w: Symbols, x: np.ndarray, states: States, config: Config) -> tuple[Any, Any]:
    """Compute one step of `LSTM` in NumPy."""
    h, c = states
    zi, zf, zg, zo = np.split(x @ w["W"] + h @ w["U"] + w["b"], 4, axis=-1)
    i, f, g = _sigmoid(zi + c * w["p"][0]), _sigmoid(zf + c * w["p"][1]), np.tanh(zg)
    new_c = f * c + i * g
    new_h = _sigmoid(zo + new_c * w["p"][2]) * np.tanh(new_c)
    rate = config["zoneout"]
    new_c, new_h = rate * c + (1 - rate) * new_c, rate * h + (1 - rate) * new_h
    return new_h, [new_h, new_c]


LSTM.spec = dataclasses.replace(
    PlainCanary.spec,
    reference=lstm_reference,
    cases={"default": {"units": 4}, "zoned": {"units": 3, "zoneout": 0.3}},
    symbols=rename({name: name for name in "WUpb"}),
    traits=frozenset({"masking", "dropout", "recurrent_dropout", "zoneout"}),
)


class GRU(cellkit.Cell):
    """No mutant but the GRU that mutants are made of.

    z, r = sigmoid(x W + h U + b);  n = tanh(x W + r (h U + d));  h' = z h + (1 - z) n.
    """

    def build(self, input_shape: Any) -> None:
        """Create the weights; gates and candidate stand side by side in the order z, r, n."""
        super().build(input_shape)
        n = self.units
        self.W = self.add_kernel((input_shape[-1], 3 * n), name="W")
        self.U = self.add_recurrent_kernel((n, 3 * n), name="U")
        self.b = self.add_bias((3 * n,), name="b")
        self.d = self.add_bias((n,), name="d")

    def bias(self) -> tuple[Any, Any, Any]:
        """Give the biases of z, r and n."""
        z, r, n = ops.split(ops.convert_to_tensor(self.b), 3)
        return z, r, n

    def hidden(self, candidate: Any, h: Any) -> Any:
        """Compute what the reset gate is applied to."""
        return candidate + self.d

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one step."""
        (h,) = states
        xz, xr, xn = ops.split(ops.matmul(projected, self.W), 3, axis=-1)
        hz, hr, hn = ops.split(ops.matmul(h, self.U), 3, axis=-1)
        bz, br, bn = self.bias()
        z, r = ops.sigmoid(xz + hz + bz), ops.sigmoid(xr + hr + br)
        n = ops.tanh(xn + bn + r * self.hidden(hn, h))
        new_h = z * h + (1 - z) * n
        return new_h, [new_h]


def gru_reference(w: Symbols, x: np.ndarray, states: States, config: Config) -> tuple[Any, Any]:
    """Compute one step of `GRU` in NumPy."""
    (h,) = states
    xz, xr, xn = np.split(x @ w["W"] + w["b"], 3, axis=-1)
    hz, hr, hn = np.split(h @ w["U"], 3, axis=-1)
    z, r = _sigmoid(xz + hz), _sigmoid(xr + hr)
    new_h = z * h + (1 - z) * np.tanh(xn + r * (hn + w["d"]))
    return new_h, [new_h]


GRU.spec = dataclasses.replace(
    PlainCanary.spec,
    reference=gru_reference,
    cases={"default": {"units": 4}, "small": {"units": 3}},
    symbols=rename({name: name for name in "WUbd"}),
    traits=frozenset({"masking", "dropout"}),
)


# Gradients -------------------------------------------------------------------------------------


@breaks("GRD-01", thread="open-lm-engine/accelerated-model-architectures#445")
class FinalStateGradientLost(BrokenLayer):
    """The backward pass ignores the gradient that comes in by the final states."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Cut the returned states off."""
        result = super().call(*args, **kwargs)
        if not self.return_state:
            return result
        return (result[0], *tree.map_structure(ops.stop_gradient, result[1:]))


@breaks("GRD-01", thread="wvabrinskas/Neuron#181")
class InputGateGradient(LSTM):
    """The derivative by the input gate is the gate itself, where it is the candidate."""

    def renew(self, i: Any, f: Any, g: Any, c: Any) -> Any:
        """Compute c' with another derivative by i."""
        fixed = ops.stop_gradient(i)
        product = fixed * g + fixed * i
        return f * c + product - ops.stop_gradient(product - i * g)


# Masks and padding -----------------------------------------------------------------------------


@breaks("MSK-15", thread="keras-team/keras#23235")
class MaskStopsHere(BrokenLayer):
    """The layer says that it supports no masks, and the next layer gets none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supports_masking = False

    def compute_mask(self, sequences: Any, mask: Any = None) -> Any:
        """Hand on nothing."""
        return None


@breaks("MSK-02", "MSK-03", thread="ray-project/ray#21392")
class StatesAfterPadding(BrokenLayer):
    """The states that are returned are those after the padding."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Take the states of a run without the mask."""
        if given["mask"] is None or not self.return_state:
            return result
        return (result[0], *self.plain(sequences, {**given, "mask": None})[1:])


@breaks("MSK-02", "MSK-03", thread="keras-team/keras#1300")
class BiasThroughPadding(BrokenLayer):
    """Masked inputs are zeroed, and the step is made all the same: biases move the states."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Zero masked inputs and drop the mask."""
        if given["mask"] is None:
            return self.plain(sequences, given)
        mask = ops.cast(ops.convert_to_tensor(given["mask"]), "bool")

        def zeroed(x: Any) -> Any:
            x = ops.convert_to_tensor(x)
            return ops.where(ops.reshape(mask, (*mask.shape[:2], *(1,) * (x.ndim - 2))), x, 0.0)

        return self.plain(tree.map_structure(zeroed, sequences), {**given, "mask": None})


@breaks("MSK-14", "SEQ-11", thread="keras-team/keras#1934")
class MaskReadForwards(BrokenLayer):
    """A backward run reverses the inputs and not the mask."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Reverse the mask, which undoes its reversal."""
        if self.go_backwards and given["mask"] is not None:
            given = {**given, "mask": ops.flip(ops.convert_to_tensor(given["mask"]), axis=1)}
        return self.plain(sequences, given)


# Equations -------------------------------------------------------------------------------------


@breaks("NUM-01", "NUM-10", thread="google/flax#5594")
class HiddenBiasMissing(GRU):
    """The bias inside the reset gate's product is not added."""

    def hidden(self, candidate: Any, h: Any) -> Any:
        """Compute what the reset gate is applied to."""
        return candidate


NO_STATE = 1e-30
"""What `FirstStepWithoutBias` starts from: as good as zero, and known again."""


class _LeavesOutBias(GRU):
    """Leaves the hidden bias out where there is no state; a base of mutants, not a mutant."""

    def hidden(self, candidate: Any, h: Any) -> Any:
        """Compute what the reset gate is applied to."""
        absent = ops.all(h == NO_STATE, axis=-1, keepdims=True)
        return ops.where(absent, candidate, candidate + self.d)


@breaks("STA-01", "NUM-02", cell=_LeavesOutBias, thread="ml-explore/mlx#3249")
class FirstStepWithoutBias(BrokenLayer):
    """Without an initial state the first step leaves out the bias of the hidden side."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Start from what the cell takes for no state at all."""
        if given["initial_state"] is None and not self.stateful:
            own = self.get_initial_state(first(sequences).shape[0])
            absent = tree.map_structure(lambda s: ops.full_like(s, NO_STATE), own)
            given = {**given, "initial_state": absent}
        return self.plain(sequences, given)


@breaks("NUM-01", thread="openvinotoolkit/openvino#17651")
class BiasOfTheOtherOrder(GRU):
    """The bias is read in the order r, z, and the kernels in the order z, r."""

    def bias(self) -> tuple[Any, Any, Any]:
        """Give the biases of r, z and n."""
        z, r, n = super().bias()
        return r, z, n


@breaks("NUM-01", thread="NX-AI/xlstm#98")
class GatesSwapped(LSTM):
    """Input and forget gate are taken for each other."""

    def gates(self, x: Any, h: Any) -> list[Any]:
        """Compute what goes into f, i, g and o."""
        i, f, g, o = super().gates(x, h)
        return [f, i, g, o]


@breaks("NUM-01", thread="MartinuzziFrancesco/torchrecurrent#22")
class GatePlusCandidate(LSTM):
    """Input gate and candidate are added, where they are multiplied."""

    def renew(self, i: Any, f: Any, g: Any, c: Any) -> Any:
        """Compute c'."""
        return f * c + i + g


@breaks("NUM-01", thread="ddbourgin/numpy-ml#42")
class OneBiasForThree(LSTM):
    """Input, forget and output gate are all given the bias of the output gate."""

    def gates(self, x: Any, h: Any) -> list[Any]:
        """Compute what goes into i, f, g and o."""
        i, f, g, o = super().gates(x, h)
        bi, bf, _, bo = ops.split(ops.convert_to_tensor(self.b), 4)
        return [i - bi + bo, f - bf + bo, g, o]


@breaks("NUM-01", thread="chengtan9907/OpenSTL#68")
class OutputOfTheCandidate(LSTM):
    """The output gate is multiplied with the candidate, where it is with tanh(c')."""

    def emit(self, o: Any, g: Any, new_c: Any) -> Any:
        """Compute h'."""
        return o * g


@breaks("NUM-01", thread="KimUyen/ConvLSTM-Pytorch#1")
class PeepsAtTheOldState(LSTM):
    """The output gate sees c(t-1), where it sees c(t)."""

    def peep(self, c: Any, new_c: Any) -> Any:
        """Choose the cell state that the output gate sees."""
        return c


# Rows, states and configs ----------------------------------------------------------------------


@breaks("SEQ-05", thread="microsoft/onnxruntime#3893")
class BufferNotCleared(BrokenLayer):
    """From the third row on, a buffer still holds what the rows before have left."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Add the second row to the third."""
        batch = first(sequences).shape[0]
        if batch is None or batch < 3:
            return result
        third = np.zeros((batch, 1), "float32")
        third[2] = 0.1

        def stale(y: Any) -> Any:
            shape = (batch, *(1,) * (y.ndim - 1))
            return y + ops.reshape(ops.convert_to_tensor(third), shape) * y[1:2]

        return self.on_output(result, stale)


@breaks("STA-04", "STA-05", thread="soumith/cudnn.torch#348")
class ResetWithoutEffect(BrokenLayer):
    """`reset_state` changes nothing."""

    def reset_state(self, states: Any = None) -> None:
        """Reset only what was given."""
        if states is not None or not self.built or self.state_store is None:
            super().reset_state(states)


@breaks("STA-04", cell=NestedCanary, thread="nengo/keras-spiking#12")
class ResetToZeros(ResetsToZeros):
    """`reset_state` writes zeros, where the cell starts from states of its own."""


@breaks("SER-02", thread="keras-team/keras#8845")
class ConfigOfTheBase(PlainCanary):
    """`get_config` is inherited, and knows no argument of the cell."""

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the base class alone."""
        return keras.layers.Layer.get_config(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Make a cell, with a width for the one that is not there."""
        return cls(**{"units": 4, **config})


# Resets -----------------------------------------------------------------------------------------


@breaks("RST-01", "RST-04", thread="ikostrikov/pytorch-a2c-ppo-acktr-gail#206")
class EpisodeLeaks(BrokenLayer):
    """The states go on over the end of an episode."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Drop the resets."""
        return self.plain(sequences, {**given, "resets": None})


@breaks("RST-01", "RST-04", thread="paxcema/KerasGRU4Rec#1")
class ResetAfterTheStep(LateReset):
    """States are reset after the first step of a new session, where it is before."""


# Randomness ------------------------------------------------------------------------------------


class _KeepsMasks(Elman):
    """Keeps the first mask of dropout that it draws; a base of mutants, not a mutant."""

    def _kept(self, x: Any, rate: float) -> Any:
        noise = keras.random.uniform(ops.shape(x), seed=5)
        return ops.where(noise < rate, 0.0, x / (1 - rate))


@breaks("RNG-02", "RNG-03", thread="tensorflow/tensorflow#29391")
class MaskOfTheFirstCall(_KeepsMasks):
    """The masks of dropout are drawn once and used again by every call."""

    def _drop(self, x: Any, rate: float, key: Any) -> Any:
        return self._kept(x, rate)


@breaks("RNG-03", thread="abr/keras-lmu#29")
class InnerMaskNeverReset(_KeepsMasks):
    """The masks of the inputs are drawn anew for a call, and those of the state never."""

    def _recurrent(self, x: Any, rate: float, key: Any) -> Any:
        return self._kept(x, rate)


@breaks("RNG-03", thread="tensorflow/tensorflow#38922")
class MaskOfTheStep(Elman):
    """The masks of dropout are drawn anew at every step of a call."""

    def _drop(self, x: Any, rate: float, key: Any) -> Any:
        return keras.random.dropout(x, rate, seed=self.seed_generator)


@breaks("NUM-03", thread="rwth-i6/returnn#1313")
class ZoneoutWithoutOutput(LSTM):
    """Zoneout changes the states, and the output is the hidden state from before it."""

    def _zone_out(self, output: Any, old: Any, new: Any, training: bool) -> tuple[Any, Any]:
        return output, super()._zone_out(output, old, new, training)[1]


@breaks("RNG-09", thread="apache/mxnet#18669")
class ZoneoutOfTwoMasks(LSTM):
    """Zoneout draws one mask for the output and another for the hidden state that it is."""

    def _zone_out(self, output: Any, old: Any, new: Any, training: bool) -> tuple[Any, Any]:
        _, states = super()._zone_out(output, old, new, training)
        if not training:
            return states[0], states
        return self._zone(old[0], output, self.zoneout, training), states
