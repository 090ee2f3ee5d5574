"""Broken cells and layers that are right as long as numbers, widths and lengths are small."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from keras import ops

import cellkit
from cellkit_conformance.selftest.mutants.base import BrokenLayer, breaks, first
from cellkit_conformance.subject.canaries import (
    ACTIVATIONS,
    Config,
    NestedCanary,
    PlainCanary,
    States,
    Symbols,
)


@breaks("NUM-11")
class EightAtMost(PlainCanary):
    """Units beyond the eighth keep their first state."""

    def mix(self, g: Any, c: Any, n: Any) -> Any:
        """Compute c'."""
        moves = (np.arange(self.units) < 8).astype("float32")
        return c + ops.convert_to_tensor(moves) * (super().mix(g, c, n) - c)


@breaks("SEQ-17")
class ForgetsAfterSixtyFour(BrokenLayer):
    """After 64 steps the outputs are off by a thousandth."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Change late outputs."""
        time = first(sequences).shape[1]
        if not self.return_sequences or time <= 64:
            return result
        late = np.where(np.arange(time) >= 64, 1.001, 1.0).astype("float32").reshape(1, -1, 1)
        return self.on_output(result, lambda y: y * ops.convert_to_tensor(late))


def _centred(z: np.ndarray) -> np.ndarray:
    return (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6)


def _normed_reference(w: Symbols, x: np.ndarray, states: States, config: Config) -> Any:
    """Compute one step of `Cancels` in NumPy, without its error."""
    h, c = states
    act = ACTIVATIONS[config["activation"]]
    g = 1 / (1 + np.exp(-(x @ w["Wg"] + h @ w["Ug"] + w["bg"])))
    n = act(_centred(x @ w["Wn"]) + c @ w["Un"] + w["bn"])
    new_c = g * c + (1 - g) * n
    new_h = np.tanh(new_c + h @ w["V"])
    return new_h @ w["P"] + w["q"], [new_h, new_c]


@breaks("NUM-12")
class Cancels(PlainCanary):
    """The variance is the mean of squares minus the square of the mean."""

    def candidate(self, x: Any, c: Any) -> Any:
        """Compute n."""
        z = ops.matmul(x, self.Wn)
        mean = ops.mean(z, axis=-1, keepdims=True)
        variance = ops.mean(z * z, axis=-1, keepdims=True) - mean * mean
        z = (z - mean) / ops.sqrt(ops.maximum(variance, 0.0) + 1e-6)
        return self.activation(z + ops.matmul(c, self.Un) + self.bn)


Cancels.spec = dataclasses.replace(PlainCanary.spec, reference=_normed_reference)


@breaks("STA-16")
class CountsInFloat(NestedCanary):
    """The counter goes through float32."""

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one step."""
        output, new = super().step(projected, states)
        count = ops.cast(ops.cast(states["count"], "float32") + 1.0, "int32")
        return output, {**new, "count": count}


@breaks("STA-16")
class KeepsItsCountInFloat(NestedCanary):
    """The counter is a float32, and of half precision in a layer of half precision."""

    @property
    def state_size(self) -> dict[str, Any]:
        """The states, of which none is an integer."""
        return {**super().state_size, "count": cellkit.TensorSpec((1,))}


@breaks("STA-16")
class KeepsItsCountInAByte(NestedCanary):
    """The counter begins anew after 127 steps."""

    @property
    def state_size(self) -> dict[str, Any]:
        """The states, with a narrow counter."""
        return {**super().state_size, "count": cellkit.TensorSpec((1,), dtype="int8")}


def _scaled_reference(w: Symbols, x: np.ndarray, states: States, config: Config) -> Any:
    """Compute one step of `Underflows` in NumPy."""
    h, c = states
    act = ACTIVATIONS[config["activation"]]
    g = 1 / (1 + np.exp(-(x @ w["Wg"] + h @ w["Ug"] + w["bg"])))
    scaled = x / (np.abs(x).sum(-1, keepdims=True) + 1e-8)
    n = act(scaled @ w["Wn"] + c @ w["Un"] + w["bn"])
    new_c = g * c + (1 - g) * n
    new_h = np.tanh(new_c + h @ w["V"])
    return new_h @ w["P"] + w["q"], [new_h, new_c]


@breaks("DTY-08")
class Underflows(PlainCanary):
    """An epsilon of 1e-8, which is zero in float16, keeps zeros from being divided by zero."""

    def candidate(self, x: Any, c: Any) -> Any:
        """Compute n."""
        return super().candidate(x / (ops.sum(ops.abs(x), axis=-1, keepdims=True) + 1e-8), c)


@breaks("DTY-08")
class SquaresTooMuch(PlainCanary):
    """The squares of a norm are infinite in float16, and what is divided by it is zero."""

    spec = None

    def emit(self, h: Any) -> Any:
        """Compute y."""
        y = 1000.0 * super().emit(h)
        return y / ops.sqrt(ops.mean(ops.square(y), axis=-1, keepdims=True) + 1.0)


Underflows.spec = dataclasses.replace(PlainCanary.spec, reference=_scaled_reference)
