"""The base class of strongly typed cells, whose gates see this input and the one before."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import LinearCell, TensorSpec, matmul, plus, vector_size
from cellkit.errors import problem
from cellkit.registry import WeightMap, custom, gate_blocks
from cellkit.registry.reference import activation


class TypedCell(LinearCell):
    """Base class of linear cells with three gates of the last two inputs.

    Args:
        units: Number of units H.
        **kwargs: Options of `cellkit.LinearCell`.
    """

    window = 2

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.features: int | None = None
        if self.zoneout:
            raise problem(
                f"{type(self).__name__} has no zoneout.",
                received=f"zoneout={self.zoneout}",
                expected="zoneout=0.0: the input before must move on at every step",
                fix="use `dropout`, which drops inputs",
            )

    @property
    def state_size(self) -> list[TensorSpec]:
        """Shapes of the state and of the input before, whose width follows from the inputs."""
        return [TensorSpec(self.units, dtype=self.accumulator_dtype), TensorSpec((1, None))]

    def state_spec(self) -> list[TensorSpec]:
        """Return the states with the width of the inputs, once it is known."""
        first, _ = super().state_spec()
        return [first, TensorSpec((1, self.features), dtype=self.compute_dtype)]

    @property
    def output_size(self) -> int:
        """Width of the output: `units`."""
        return int(self.units)

    def build(self, input_shape: Any) -> None:
        """Create `kernel` (rows of the input before, then of this one) and `bias`."""
        self.features = vector_size(self, input_shape)
        super().build(input_shape)
        self.kernel = self.add_kernel((2 * self.features, 3 * self.units))
        self.bias = self.add_bias((3 * self.units,))

    def look(self, window: Any) -> Any:
        """Return all gates, not activated."""
        x = keras.ops.reshape(window, (-1, 2 * self.features))
        return plus(matmul(x, self.kernel), self.bias)


def typed_gates(w: Any, x: Any, before: Any, config: Any) -> tuple[Any, Any, Any]:
    """Compute the gates of a strongly typed cell from the equations."""
    s, tanh = activation(config["recurrent_activation"]), activation(config["activation"])
    z, f, o = (x @ w[f"W_{g}"] + before[:, 0] @ w[f"V_{g}"] + w[f"b_{g}"] for g in "zfo")
    return z, s(f), tanh(o)


def typed_symbols() -> WeightMap:
    """Map `kernel` to V, of the input before, and W, of this one, for the gates z, f and o."""
    halves = gate_blocks(["z", "f", "o"], "V", None, None), gate_blocks(["z", "f", "o"], "W", None)

    def to_symbols(weights: Any, config: Any) -> dict[str, Any]:
        before, now = np.split(weights["kernel"], 2)
        bias = {"bias": weights["bias"]} if config.get("use_bias", True) else {}
        found = halves[0].to_symbols({"kernel": before}, config)
        return {**found, **halves[1].to_symbols({"kernel": now, **bias}, config)}

    def from_symbols(symbols: Any, config: Any) -> dict[str, Any]:
        before = {f"V_{gate}": symbols[f"V_{gate}"] for gate in "zfo"}
        now = {f"{letter}_{gate}": symbols[f"{letter}_{gate}"] for letter in "Wb" for gate in "zfo"}
        weights = halves[1].from_symbols(now, config)
        kernels = halves[0].from_symbols(before, config)["kernel"], weights["kernel"]
        return {**weights, "kernel": np.concatenate(kernels)}

    return custom(to_symbols=to_symbols, from_symbols=from_symbols)
