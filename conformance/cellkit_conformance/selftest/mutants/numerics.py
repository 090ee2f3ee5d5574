"""NUM: broken cells that compute something else than their reference, or nothing at times."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from cellkit.registry import rename
from cellkit_conformance.selftest.mutants.base import BrokenLayer, breaks, first
from cellkit_conformance.subject.canaries import Config, PlainCanary, Symbols, plain_reference


@breaks("NUM-01", "NUM-02", "NUM-03")
class WrongSign(PlainCanary):
    """The update subtracts the candidate."""

    def mix(self, g: Any, c: Any, n: Any) -> Any:
        """Compute c'."""
        return g * c - (1 - g) * n


@breaks("NUM-01", "NUM-02")
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


@breaks("NUM-01", "SEQ-08", "GRD-04", "MSK-10")
class StateNotUpdated(PlainCanary):
    """Every step starts from the initial states."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        output, _ = super().call(inputs, states, training)
        return output, [states[0], states[1]]


@breaks("NUM-01", "NUM-02")
class OldStateOut(PlainCanary):
    """The output is made of h(t-1) instead of h(t)."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        _, new = super().call(inputs, states, training)
        return self.emit(states[0]), new


@breaks("NUM-01", "NUM-10", "GRD-03")
class DroppedBias(PlainCanary):
    """The bias of the output exists and is never added."""

    def emit(self, h: Any) -> Any:
        """Compute y."""
        return ops.matmul(h, self.P)


@breaks("NUM-03")
class WrongConstant(PlainCanary):
    """The 'linear' case computes something else than its option says."""

    def candidate(self, x: Any, c: Any) -> Any:
        """Compute n."""
        n = super().candidate(x, c)
        return n if self.units == 4 else 0.9 * n


@breaks("NUM-10", "NUM-01")
class DeadInput(PlainCanary):
    """The last feature is cut off."""

    def gate(self, x: Any, h: Any) -> Any:
        """Compute g."""
        return super().gate(x * ops.convert_to_tensor([1.0, 1.0, 0.0]), h)

    def candidate(self, x: Any, c: Any) -> Any:
        """Compute n."""
        return super().candidate(x * ops.convert_to_tensor([1.0, 1.0, 0.0]), c)


@breaks("NUM-05")
class Overflow(PlainCanary):
    """The sigmoid is exp(z) / (1 + exp(z)), which overflows."""

    def gate(self, x: Any, h: Any) -> Any:
        """Compute g."""
        z = ops.exp(ops.matmul(x, self.Wg) + ops.matmul(h, self.Ug) + self.bg)
        return z / (1 + z)


@breaks("NUM-06", "GRD-05")
class DivisionByInput(PlainCanary):
    """Inputs are normalised by their length, also when it is zero."""

    def candidate(self, x: Any, c: Any) -> Any:
        """Compute n."""
        length = ops.sqrt(ops.sum(x * x, axis=-1, keepdims=True))
        return super().candidate(x, c) + 0.0 * (x / length)[:, :1]


def _blind_reference(w: Symbols, x: Any, states: Any, config: Config) -> Any:
    """Use the sum of two weights only, so that their order cannot be seen."""
    both = w["Wg"] + w["Wn"]
    return plain_reference({**w, "Wg": both, "Wn": both}, x, states, config)


@breaks("NUM-04")
class BlindReference(PlainCanary):
    """The reference does not see which of two weights is which."""


BlindReference.spec = dataclasses.replace(PlainCanary.spec, reference=_blind_reference)


@breaks("NUM-08")
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


@breaks("NUM-01")
class Clipped(PlainCanary):
    """A state cannot exceed 30."""

    def mix(self, g: Any, c: Any, n: Any) -> Any:
        """Compute c'."""
        return ops.clip(super().mix(g, c, n), -30.0, 30.0)


@breaks("NUM-07")
class LongRunsDrift(BrokenLayer):
    """After 256 steps the outputs are off by a thousandth."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Change late outputs."""
        time = first(sequences).shape[1]
        if not self.return_sequences or time <= 256:
            return result
        late = np.where(np.arange(time) > 256, 1.001, 1.0).astype("float32").reshape(1, -1, 1)
        return self.on_output(result, lambda y: y * ops.convert_to_tensor(late))


@breaks("NUM-10")
class MadeUpGradient(PlainCanary):
    """A bias is a constant, and has the gradient of one that is added."""

    def emit(self, h: Any) -> Any:
        """Compute y."""
        return ops.matmul(h, self.P) + self.q - ops.stop_gradient(self.q + 0.0)


MadeUpGradient.spec = dataclasses.replace(PlainCanary.spec, reference=None)


@breaks("NUM-10")
class DeadHalf(PlainCanary):
    """Half of a bias is never added."""

    def emit(self, h: Any) -> Any:
        """Compute y."""
        half = (np.arange(self.units + 1) % 2).astype("float32")
        return ops.matmul(h, self.P) + self.q * ops.convert_to_tensor(half)


def _shown_reference(w: Symbols, x: np.ndarray, states: Any, config: Config) -> Any:
    """Compute one step of `WrongDocstring` in NumPy."""
    h = np.tanh(x @ w["W"] + states[0] @ w["U"] + w["b"])
    return h, [h]


@breaks("NUM-14")
class WrongDocstring(keras.layers.SimpleRNNCell):
    """Shows a sign that is not the reference's.

    ```
    h' = tanh(W @ x - U @ h + b)
    ```
    """


WrongDocstring.spec = dataclasses.replace(
    PlainCanary.spec,
    reference=_shown_reference,
    cases={"default": {"units": 4}, "small": {"units": 3}},
    symbols=rename({"kernel": "W", "recurrent_kernel": "U", "bias": "b"}),
    states=("h",),
)
