"""The adaptive leaky integrate-and-fire neuron."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from cellkit.cells import TensorSpec, as_dtype, choice, positive_number, probability, vector_size
from cellkit.registry import CellSpec, Guide, rename
from cellkit_spiking._base import SpikingCell

_RESETS = ("subtract", "decayed", "zero")


@keras.saving.register_keras_serializable(package="cellkit_spiking")
class ALIFCell(SpikingCell):
    """The adaptive neuron of the LSNN: every spike raises its threshold, which then falls slowly.

    Paper: Bellec, Salaj, Subramoney, Legenstein and Maass 2018, "Long short-term memory and
    learning-to-learn in networks of spiking neurons", arXiv:1803.09574, section 2.

    ```
    B  = threshold + beta * a                                   threshold at the step before
    z  = 1[v > B]                                               spikes of the step before
    I  = W @ x + V @ z + b                                      the current
    reset="subtract":
        v' = alpha * v + (1 - alpha) * I - z * B
    reset="decayed":
        v' = alpha * (v - z * B) + (1 - alpha) * I
    reset="zero":
        v' = alpha * v * (1 - z) + (1 - alpha) * I
    a' = rho * a + (1 - rho) * z                                adaptation
    y  = 1[v' > threshold + beta * a']                          spikes
    ```

    A neuron that has fired often fires less readily for as long as its adaptation lasts. That is
    the memory of the network, much longer than that of the potentials, which leak.

    A spike has no derivative. Gradients go through a smooth step in its place, the surrogate, of
    the potential relative to the threshold, ``(v - B) / B``: also through the reset and the
    adaptation.

    Departures: there is no time after a spike in which a neuron cannot fire, and no delay of
    synapses other than one step. A network of the paper mixes these neurons with `LIFCell`; here
    ``beta`` is one for all.

    Args:
        units: Number of neurons H.
        alpha: Part of the potential that is left after a step, in [0, 1). Default exp(-1/20), a
            membrane of 20 steps, which are the paper's 20 milliseconds.
        rho: Part of the adaptation that is left after a step, in [0, 1). Default exp(-1/200), a
            memory of 200 steps. The paper chooses it near the time that has to be bridged.
        beta: Height by which full adaptation raises the threshold. Default 1.6. With a threshold
            of 0.01, some spikes in a row silence a neuron for long.
        threshold: Potential at which a neuron without adaptation fires. Default 0.01: a current
            of 0.2 is enough, since a step lets in a twentieth of it.
        reset: Effect of a spike on its potential. Default `"subtract"`, as in the paper;
            `"decayed"` takes the threshold off before the potential leaks, as sinabs, `"zero"`
            empties it, as norse.
        recurrent: True where spikes come back through a matrix V. Default True, as in the paper.
        surrogate: `"triangle"` (default, as in the paper), `"atan"` or `"fast_sigmoid"`.
        slope: Steepness of the surrogate. Default 0.3, with which the paper dampens gradients, as
            else they explode over many steps.
        **kwargs: Options of `cellkit.Cell`. `activation` and `recurrent_activation` are not used.

    Inputs: `(batch, features)`. States: `[v, a]`, each `(batch, units)`, float32 under a 16-bit
    policy. Output: y, 0 or 1, of shape `(batch, units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(ALIFCell(8), return_sequences=True)
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 10, 8)
    """

    def __init__(
        self,
        units: int,
        *,
        alpha: float = math.exp(-1 / 20),
        rho: float = math.exp(-1 / 200),
        beta: float = 1.6,
        threshold: float = 0.01,
        reset: str = "subtract",
        recurrent: bool = True,
        surrogate: str = "triangle",
        slope: float = 0.3,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, recurrent=recurrent, surrogate=surrogate, slope=slope, **kwargs)
        self.alpha = probability(type(self), "alpha", alpha)
        self.rho = probability(type(self), "rho", rho)
        self.beta = positive_number(type(self), "beta", beta)
        self.threshold = positive_number(type(self), "threshold", threshold)
        self.reset = choice(type(self), "reset", reset, _RESETS)

    @property
    def state_size(self) -> list[TensorSpec]:
        """Potential and adaptation, not rounded to 16 bits: both add up many small numbers."""
        return [TensorSpec((self.units,), dtype=self.accumulator_dtype)] * 2

    def build(self, input_shape: Any) -> None:
        """Create `kernel` and `bias` for the current, and `recurrent_kernel` for the spikes."""
        super().build(input_shape)
        self.build_current(vector_size(self, input_shape))

    def step(self, current: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        v, a = states
        alpha, rho = self.alpha, self.rho
        z, B = self.fire(v, a)
        current = (1 - alpha) * self.with_spikes(current, z)
        if self.reset == "subtract":
            v = alpha * v + current - z * B
        elif self.reset == "decayed":
            v = alpha * (v - z * B) + current
        else:
            v = alpha * v * (1 - z) + current
        a = rho * a + (1 - rho) * z
        y, _ = self.fire(v, a)
        return as_dtype(y, self.compute_dtype), [v, a]

    def fire(self, v: Any, a: Any) -> tuple[Any, Any]:
        """Return 1 where a potential is above the threshold, else 0, and the threshold."""
        B = self.threshold + self.beta * a
        return self.spikes((v - B) / keras.ops.abs(B)), B


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    v, a = states
    alpha, rho = config["alpha"], config["rho"]
    B = config["threshold"] + config["beta"] * a
    z = (v > B).astype(float)
    current = x @ w["W"] + w.get("b", 0)
    if config["recurrent"]:
        current = current + z @ w["V"]
    if config["reset"] == "subtract":
        v = alpha * v + (1 - alpha) * current - z * B
    elif config["reset"] == "decayed":
        v = alpha * (v - z * B) + (1 - alpha) * current
    else:
        v = alpha * v * (1 - z) + (1 - alpha) * current
    a = rho * a + (1 - rho) * z
    return (v > config["threshold"] + config["beta"] * a).astype(float), [v, a]


ALIFCell.spec = CellSpec(
    reference=reference,
    cases={
        "default": {"units": 4},
        "decayed": {"units": 3, "reset": "decayed", "threshold": 0.4, "surrogate": "atan"},
        "zero": {"units": 3, "reset": "zero", "alpha": 0.5, "rho": 0.7, "use_bias": False},
        "feedforward": {"units": 3, "recurrent": False, "slope": 0.8, "beta": 0.6},
        "dropout": {"units": 4, "dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1},
    },
    symbols=rename({"kernel": "W", "recurrent_kernel": "V", "bias": "b"}, optional=True),
    traits=frozenset(
        {
            "masking",
            "stateful",
            "dropout",
            "recurrent_dropout",
            "zoneout",
            "fp32_state",
            "stop_gradient",
        }
    ),
    deviations=(
        "There is no time after a spike in which a neuron cannot fire, and synapses delay by one "
        "step.",
        "sinabs takes the threshold off before the potential leaks, reset='decayed'.",
        "norse empties the potential, reset='zero', and has a current as a third state.",
    ),
    aliases={"alif_sinabs": {"reset": "decayed"}},
    states=("v", "a"),
    # The adaptation is a mean of spikes, few of them in most steps.
    draw_states=lambda states: [states[0], 0.05 * np.abs(states[1])],
    guide=Guide(
        "spiking",
        "Use it when a spiking network has to remember for longer than its potentials last.",
        ("long memory", "spiking"),
    ),
).completed(ALIFCell)
