"""The leaky integrate-and-fire neuron."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import TensorSpec, as_dtype, choice, positive_number, probability, vector_size
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, rename
from cellkit_spiking._base import SpikingCell

_RESETS = ("subtract", "zero", "none")


@keras.saving.register_keras_serializable(package="cellkit_spiking")
class LIFCell(SpikingCell):
    """The leaky integrate-and-fire neuron: a potential leaks, adds up its input, and fires.

    Paper: Eshraghian et al. 2021, "Training Spiking Neural Networks Using Lessons From Deep
    Learning", arXiv:2109.12894, section 4.

    ```
    I  = W @ x + b                              the current; with recurrent=True + V @ r
    r  = 1[u > threshold]                       spikes of the step before
    reset="subtract":  u' = beta * u + I - r * threshold
    reset="zero":      u' = (beta * u + I) * (1 - r)
    reset="none":      u' = beta * u + I
    y  = 1[u' > threshold]                      spikes
    ```

    A spike has no derivative. Gradients go through a smooth step in its place, the surrogate: the
    outputs stay 0 or 1. As in snntorch, no gradient goes through the reset.

    Other libraries compute other functions: spikingjelly resets within the step that fires, and
    leaks the input too; norse has a second state, the current.

    Args:
        units: Number of neurons H.
        beta: Part of the potential that is left after a step, in [0, 1). Default 0.9, a memory of
            ten steps.
        threshold: Potential at which a neuron fires. Default 1.0.
        reset: Effect of a spike on its potential. Default `"subtract"`, which the paper prefers: it
            keeps what was above the threshold.
        input_weights: True for a matrix W. Default True. False: x is the current, as wide as
            `units`, and there is no b.
        recurrent: True where spikes come back through a matrix V. Default False.
        surrogate: `"atan"` (default, as in snntorch), `"fast_sigmoid"` or `"triangle"`.
        slope: Steepness of the surrogate. Default 2, as in snntorch. A steeper one is nearer to
            the spike, and reaches fewer neurons.
        **kwargs: Options of `cellkit.Cell`. `activation` and `recurrent_activation` are not used.

    Inputs: `(batch, features)`. States: `[u]` of shape `(batch, units)`, float32 under a 16-bit
    policy. Output: y, 0 or 1, of shape `(batch, units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(LIFCell(8), return_sequences=True)
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 10, 8)
    """

    def __init__(
        self,
        units: int,
        *,
        beta: float = 0.9,
        threshold: float = 1.0,
        reset: str = "subtract",
        input_weights: bool = True,
        recurrent: bool = False,
        surrogate: str = "atan",
        slope: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, recurrent=recurrent, surrogate=surrogate, slope=slope, **kwargs)
        self.beta = probability(type(self), "beta", beta)
        self.threshold = positive_number(type(self), "threshold", threshold)
        self.reset = choice(type(self), "reset", reset, _RESETS)
        self.input_weights = bool(input_weights)

    @property
    def state_size(self) -> TensorSpec:
        """The potential, not rounded to 16 bits: it adds up many small currents."""
        return TensorSpec((self.units,), dtype=self.accumulator_dtype)

    def build(self, input_shape: Any) -> None:
        """Create `kernel` and `bias` for the current, and `recurrent_kernel` for the spikes."""
        super().build(input_shape)
        features = vector_size(self, input_shape)
        if not self.input_weights and features != self.units:
            raise problem(
                "A LIFCell without input weights takes a current for every neuron.",
                received=f"{features} features for units={self.units}",
                expected="as many features as units",
                fix=f"make the cell with units={features}, or leave `input_weights` out",
            )
        self.build_current(features if self.input_weights else None)

    def step(self, current: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        u = states[0]
        fired = self.fire(u)
        r = keras.ops.stop_gradient(fired)
        u = self.beta * u + self.with_spikes(current, fired)
        if self.reset == "subtract":
            u = u - r * self.threshold
        elif self.reset == "zero":
            u = u * (1 - r)
        return as_dtype(self.fire(u), self.compute_dtype), [u]

    def fire(self, u: Any) -> Any:
        """Return 1 where a potential is above the threshold, else 0."""
        return self.spikes(u - self.threshold)


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (u,) = states
    threshold = config["threshold"]
    r = (u > threshold).astype(float)
    current = x @ w["W"] + w.get("b", 0) if config["input_weights"] else x
    if config["recurrent"]:
        current = current + r @ w["V"]
    u = config["beta"] * u + current
    if config["reset"] == "subtract":
        u = u - r * threshold
    elif config["reset"] == "zero":
        u = u * (1 - r)
    return np.where(u > threshold, 1.0, 0.0), [u]


LIFCell.spec = CellSpec(
    reference=reference,
    cases={
        "default": {"units": 4},
        "zero": {"units": 3, "reset": "zero", "beta": 0.5, "surrogate": "fast_sigmoid"},
        "none": {"units": 3, "reset": "none", "threshold": 0.4, "use_bias": False},
        "recurrent": {"units": 3, "recurrent": True, "slope": 5.0, "threshold": 0.6},
        "dropout": {"units": 4, "dropout": 0.4, "seed": 1},
    },
    symbols=rename(
        {"kernel": "W", "recurrent_kernel": "V", "bias": "b"},
        optional=True,
    ),
    traits=frozenset({"masking", "stateful", "dropout", "zoneout", "fp32_state", "stop_gradient"}),
    deviations=(
        "spikingjelly resets within the step that fires, and leaks the input too.",
        "norse has a second state, the current.",
    ),
    aliases={"lif": {"input_weights": False}},
    states=("u",),
    guide=Guide(
        "spiking",
        "Use it when a network is meant for neuromorphic hardware, or should compute with events.",
        ("spiking",),
    ),
).completed(LIFCell)
