"""The liquid time-constant network."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import (
    Cell,
    TensorSpec,
    TimeGaps,
    constant_gap,
    features_beside_gap,
    positive_int,
    positive_number,
)
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, custom
from cellkit.registry.reference import activation

_POSITIVE = ("gleak", "cm", "w", "sensory_w")
_PLAIN = (
    "vleak",
    "sigma",
    "mu",
    "erev",
    "sensory_sigma",
    "sensory_mu",
    "sensory_erev",
    "input_w",
    "input_b",
    "output_w",
    "output_b",
)


@keras.saving.register_keras_serializable(package="cellkit_continuous")
class LTCCell(TimeGaps, Cell):
    """The liquid time-constant network: neurons whose synapses set their time constants.

    Paper: Hasani, Lechner, Amini, Rus and Grosu 2020, "Liquid Time-constant Networks",
    arXiv:2006.04439; the solver is its algorithm 1, the synapses are those of its section 2.

    ```
    xs = input_w * x + input_b
    S[i,j] = sensory_w[i,j] * s(sensory_sigma[i,j] * (xs[i] - sensory_mu[i,j]))
    repeat ode_unfolds times, with d = dt / ode_unfolds:
      R[i,j] = w[i,j] * s(sigma[i,j] * (v[i] - mu[i,j]))
      num[j] = cm[j] * v[j] + d * (gleak[j] * vleak[j] + sum_i R[i,j] * erev[i,j]
                                   + sum_i S[i,j] * sensory_erev[i,j])
      den[j] = cm[j] + d * (gleak[j] + sum_i R[i,j] + sum_i S[i,j] + epsilon)
      v[j] := num[j] / den[j]
    y = output_w * v[:output_units] + output_b
    ```

    v are potentials; a synapse from i to j opens with the potential of i, and pulls that of j to
    `erev[i,j]`. The more are open, the faster j moves. The first index is the source. Conductances
    and capacities (w, sensory_w, gleak, cm) are positive: the softplus of what is stored.

    ncps divides numerator and denominator by d instead, which fails for a gap of zero; there, the
    bare cell clips its conductances, and the layer takes their softplus.

    Args:
        units: Number of neurons H.
        output_units: Number of them, the motor neurons, that are given out. Default None: all.
        ode_unfolds: Steps of the solver within a gap. Default 6, as in the paper.
        epsilon: Keeps the denominator from zero. Default 1e-8, as in ncps.
        dt: A number: the time gap of every step; the inputs are then x alone. Default None: gaps
            are inputs.
        **kwargs: Options of `cellkit.Cell`: `recurrent_activation` for s. `dropout` drops elements
            of x; time gaps come through whole. Other options of weights are not used: each
            starts where the authors' code has it.

    Inputs: `(x, dt)` of shapes `(batch, features)` and `(batch, 1)`, the gap being the time that
    the step covers; with `dt=1.0` in the constructor x alone. Gaps are 0 or more; a
    negative one is an error wherever its value is known before the run (not in a compiled one).
    States: `[v]` of shape `(batch, units)`. Output: y of shape `(batch, output_units)`.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(LTCCell(8, output_units=3, dt=1.0), return_sequences=True)
    >>> layer.compute_output_shape((None, 10, 5))
    (None, 10, 3)
    """

    def __init__(
        self,
        units: int,
        *,
        output_units: int | None = None,
        ode_unfolds: int = 6,
        epsilon: float = 1e-8,
        dt: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        if output_units is not None:
            output_units = positive_int(type(self), "output_units", output_units)
            if output_units > self.units:
                raise problem(
                    "LTCCell gives out more neurons than it has.",
                    received=f"output_units={output_units}, units={self.units}",
                    expected="output_units of at most units",
                    fix="make the cell with more units, or leave `output_units` out",
                )
        self.output_units = output_units
        self.ode_unfolds = positive_int(type(self), "ode_unfolds", ode_unfolds)
        self.epsilon = positive_number(type(self), "epsilon", epsilon)
        self.dt = constant_gap(type(self), dt, "pass e.g. dt=1.0 for regular steps")
        if self.recurrent_dropout:
            raise problem(
                "LTCCell has no recurrent product to drop states from.",
                received=f"recurrent_dropout={self.recurrent_dropout}",
                expected="recurrent_dropout=0.0",
                fix="use `dropout`, which drops inputs",
            )

    @property
    def state_size(self) -> TensorSpec:
        """The potentials."""
        return TensorSpec((self.units,))

    @property
    def output_size(self) -> int:
        """Width of the output: the motor neurons."""
        return int(self.output_units or self.units)

    def build(self, input_shape: Any) -> None:
        """Create what describes neurons and synapses."""
        fix = "make the cell with dt=1.0 for regular steps"
        features, units = features_beside_gap(self, input_shape, fix), self.units
        super().build(input_shape)
        inputs, outputs, pairs = (features, units), self.output_size, (units, units)
        self._uniform("gleak", (units,), 0.001, 1.0)
        self._uniform("vleak", (units,), -0.2, 0.2)
        self._uniform("cm", (units,), 0.4, 0.6)
        for prefix, shape in (("", pairs), ("sensory_", inputs)):
            self._uniform(f"{prefix}w", shape, 0.001, 1.0)
            self._uniform(f"{prefix}sigma", shape, 3.0, 8.0)
            self._uniform(f"{prefix}mu", shape, 0.3, 0.8)
            self._make(f"{prefix}erev", shape, self._polarities)
        for name, size, start in (
            ("input_w", features, "ones"),
            ("input_b", features, "zeros"),
            ("output_w", outputs, "ones"),
            ("output_b", outputs, "zeros"),
        ):
            self._make(name, (size,), keras.initializers.get(start))

    def _make(self, name: str, shape: tuple[int, ...], initializer: Any) -> None:
        setattr(self, name, self.add_weight(shape=shape, name=name, initializer=initializer))

    def _uniform(self, name: str, shape: tuple[int, ...], low: float, high: float) -> None:
        """Create a weight that is uniform in a range; of a positive one, its softplus is."""
        draw = self.draw_apart(keras.initializers.RandomUniform(low, high), shape)

        def start(shape: Any, dtype: Any = None) -> Any:
            value = draw(shape, dtype=dtype)
            return keras.ops.log(keras.ops.expm1(value)) if name in _POSITIVE else value

        self._make(name, shape, start)

    def _polarities(self, shape: Any, dtype: Any = None) -> Any:
        """Draw synapses of which a third inhibit, -1, and the others excite, 1, as ncps does."""
        draw = self.draw_apart(keras.initializers.RandomUniform(0.0, 1.0), tuple(shape))
        third = keras.ops.cast(draw(shape, dtype=dtype) < 1 / 3, dtype)
        return 1 - 2 * third

    def project(self, inputs: Any) -> Any:
        """Return what sensory synapses add to numerator and denominator, and the gap."""
        x, gap = (inputs, ()) if self.dt is not None else (inputs[0], (inputs[1],))
        pulled, opened = self._synapses("sensory_", x * self.input_w + self.input_b)
        leak = keras.ops.softplus(self.gleak + 0.0)
        return (pulled + leak * self.vleak, opened + leak + self.epsilon, *gap)

    def _synapses(self, prefix: str, source: Any) -> tuple[Any, Any]:
        """Return, per target, where its synapses pull it, and how much of them is open."""
        w, sigma, mu, erev = (getattr(self, prefix + n) for n in ("w", "sigma", "mu", "erev"))
        gate = self.recurrent_activation(sigma * (source[:, :, None] - mu))
        conductance = keras.ops.softplus(w + 0.0) * gate
        return keras.ops.sum(conductance * erev, axis=1), keras.ops.sum(conductance, axis=1)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        sensory_pull, sensory_open, *gap = projected
        v, d = states[0], (gap[0] if gap else self.dt) / self.ode_unfolds
        cm = keras.ops.softplus(self.cm + 0.0)
        for _ in range(self.ode_unfolds):
            pulled, opened = self._synapses("", v)
            v = (cm * v + d * (pulled + sensory_pull)) / (cm + d * (opened + sensory_open))
        return v[:, : self.output_size] * self.output_w + self.output_b, [v]


def reference(w: Any, inputs: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    (v,) = states
    x, dt = inputs if config["dt"] is None else (inputs, config["dt"])
    s, unfolds = activation(config["recurrent_activation"]), config["ode_unfolds"]
    xs = w["input_w"] * x + w["input_b"]
    gates = s(w["sensory_sigma"] * (xs[:, :, None] - w["sensory_mu"]))
    sensory = w["sensory_w"] * gates
    for _ in range(unfolds):
        synapses = w["w"] * s(w["sigma"] * (v[:, :, None] - w["mu"]))
        drive = np.einsum("bij,ij->bj", synapses, w["erev"])
        drive += np.einsum("bij,ij->bj", sensory, w["sensory_erev"])
        opened = synapses.sum(axis=1) + sensory.sum(axis=1)
        d = dt / unfolds
        num = w["cm"] * v + d * (w["gleak"] * w["vleak"] + drive)
        v = num / (w["cm"] + d * (w["gleak"] + opened + config["epsilon"]))
    outputs = config["output_units"] or config["units"]
    return v[:, :outputs] * w["output_w"] + w["output_b"], [v]


def _to_symbols(weights: Any, config: Any) -> dict[str, Any]:
    positive = {name: np.logaddexp(0, weights[name]) for name in _POSITIVE}
    return {**positive, **{name: weights[name] for name in _PLAIN}}


def _from_symbols(symbols: Any, config: Any) -> dict[str, Any]:
    weights = {name: symbols[name] for name in _PLAIN}
    for name in _POSITIVE:
        value = symbols[name]
        if np.any(value <= 0):
            raise problem(
                "A symbol of LTCCell is not positive.",
                received=f"{name} down to {np.min(value):g}",
                expected="numbers above 0, whose inverse softplus is stored",
                fix="clip it from below, for example at 1e-6: a synapse that is all but closed",
            )
        weights[name] = value + np.log(-np.expm1(-value))
    return weights


LTCCell.spec = CellSpec(
    guide=Guide(
        "continuous",
        "Use it when a few neurons that can be read have to follow a system in continuous time.",
        ("irregular time", "interpretable", "tiny"),
    ),
    reference=reference,
    inputs=(("features",), (1,)),
    states=("v",),
    symbols=custom(to_symbols=_to_symbols, from_symbols=_from_symbols),
    cases={
        # Tracing takes as long as there are unfolds: one case has all of them.
        "default": {"units": 4, "ode_unfolds": 2},
        "motor": {"units": 3, "output_units": 2},
        "hard": {"units": 3, "recurrent_activation": "hard_sigmoid", "ode_unfolds": 1},
        "dropout": {"units": 4, "output_units": 3, "ode_unfolds": 2, "dropout": 0.4, "seed": 1},
    },
    traits={"masking", "stateful", "dropout", "zoneout"},
    deviations=(
        "All neurons are connected; ncps can wire them sparsely.",
        "The bare cell of ncps clips its conductances; here, as in its layer, they are a softplus.",
    ),
    draw_inputs=lambda inputs: (inputs[0], np.abs(inputs[1])),
).completed(LTCCell)
