"""Cells that are known to be right, to tell a defect of a cell from one of the suite or a backend.

`PlainCanary` uses nothing of cellkit, as a cell from elsewhere would: a Keras layer with two states
whose output is neither of them. `NestedCanary` has everything nested: inputs, outputs and states,
with an integer counter, a matrix state and initial states that are not zero, one of them learned.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

import cellkit
from cellkit.registry import rename
from cellkit.registry.reference import activation

PAPER = cellkit.Paper("The cellkit authors", 2026, "A cell to test with", "doi:10.0000/none")


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


Symbols = dict[str, np.ndarray]
"""Weights under the symbols of the paper."""

Config = dict[str, Any]
States = list[np.ndarray]
Step = tuple[Any, Any]
"""Output and new states."""


@keras.saving.register_keras_serializable(package="cellkit_conformance")
class PlainCanary(keras.layers.Layer):
    """A gated cell with two states and an output of another width.

    g = sigmoid(x Wg + h Ug + bg);  n = act(x Wn + c Un + bn);  c' = g c + (1 - g) n;
    h' = tanh(c' + h V);  y = h' P + q.

    Args:
        units: Width of both states.
        activation: Of the candidate n.
        use_bias: True if bg, bn and q exist.
        **kwargs: Of the Keras layer.
    """

    def __init__(
        self, units: int, activation: str = "tanh", use_bias: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(units, int) or units < 1:
            raise ValueError(f"`units` must be a positive int. Received: units={units!r}")
        self.units = units
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias

    @property
    def state_size(self) -> list[int]:
        """Two vectors."""
        return [self.units, self.units]

    @property
    def output_size(self) -> int:
        """One more than the states."""
        return self.units + 1

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        n = self.units
        shapes = {"Wg": (input_shape[-1], n), "Wn": (input_shape[-1], n), "Ug": (n, n)}
        shapes |= {"Un": (n, n), "V": (n, n), "P": (n, n + 1)}
        for name, shape in shapes.items():
            setattr(self, name, self.add_weight(shape=shape, name=name))
        biases = {"bg": n, "bn": n, "q": n + 1}
        for name, size in biases.items():
            setattr(self, name, None)
            if self.use_bias:
                bias = self.add_weight(shape=(size,), initializer="zeros", name=name)
                setattr(self, name, bias)
        self.built = True

    def gate(self, x: Any, h: Any) -> Any:
        """Compute g."""
        z = ops.matmul(x, self.Wg) + ops.matmul(h, self.Ug)
        return ops.sigmoid(z if self.bg is None else z + self.bg)

    def candidate(self, x: Any, c: Any) -> Any:
        """Compute n."""
        z = ops.matmul(x, self.Wn) + ops.matmul(c, self.Un)
        return self.activation(z if self.bn is None else z + self.bn)

    def mix(self, g: Any, c: Any, n: Any) -> Any:
        """Compute c'."""
        return g * c + (1 - g) * n

    def squash(self, c: Any, h: Any) -> Any:
        """Compute h'."""
        return ops.tanh(c + ops.matmul(h, self.V))

    def emit(self, h: Any) -> Any:
        """Compute y."""
        y = ops.matmul(h, self.P)
        return y if self.q is None else y + self.q

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        h, c = states
        new_c = self.mix(self.gate(inputs, h), c, self.candidate(inputs, c))
        new_h = self.squash(new_c, h)
        return self.emit(new_h), [new_h, new_c]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        return {
            **super().get_config(),
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
        }


ACTIVATIONS: dict[str, Any] = {"tanh": np.tanh, "linear": np.asarray, "sigmoid": _sigmoid}


def plain_reference(w: Symbols, x: np.ndarray, states: States, config: Config) -> tuple[Any, Any]:
    """Compute one step of `PlainCanary` in NumPy."""
    h, c = states
    act = ACTIVATIONS[config["activation"]]
    g = _sigmoid(x @ w["Wg"] + h @ w["Ug"] + w.get("bg", 0.0))
    n = act(x @ w["Wn"] + c @ w["Un"] + w.get("bn", 0.0))
    new_c = g * c + (1 - g) * n
    new_h = np.tanh(new_c + h @ w["V"])
    return new_h @ w["P"] + w.get("q", 0.0), [new_h, new_c]


NAMES = ("Wg", "Wn", "Ug", "Un", "V", "P", "bg", "bn", "q")

PlainCanary.spec = cellkit.CellSpec(
    reference=plain_reference,
    inputs=("features",),
    cases={"default": {"units": 4}, "linear": {"units": 3, "activation": "linear"}},
    paper=PAPER,
    symbols=rename({name: name for name in NAMES}),
)


@keras.saving.register_keras_serializable(package="cellkit_conformance")
class NestedCanary(cellkit.Cell):
    """Two inputs, two outputs, three states of three ranks and two dtypes.

    m' = tanh(0.5 m + (a A)[:, :, None] * (b B)[:, None, :]);  k' = k + 1;
    s' = sigmoid(s + sum(m')); outputs m' R and a C + s'. The first s is learned.
    """

    @property
    def state_size(self) -> dict[str, Any]:
        """A matrix memory, a counter, and a scalar per row that starts at a half."""
        return {
            "memory": cellkit.TensorSpec((self.units, 2), initializer=0.25),
            "count": cellkit.TensorSpec((1,), dtype="int32"),
            "level": [cellkit.TensorSpec((1,), initializer=0.5, trainable=True)],
        }

    @property
    def output_size(self) -> dict[str, Any]:
        """A matrix and a vector."""
        return {"image": (self.units, 3), "vector": self.units}

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        super().build(input_shape)
        self.A = self.add_kernel((input_shape["a"][-1], self.units), name="A")
        self.B = self.add_kernel((input_shape["b"][-1], 2), name="B")
        self.C = self.add_kernel((input_shape["a"][-1], self.units), name="C")
        self.R = self.add_kernel((2, 3), name="R")

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one step."""
        a, b = projected["a"], ops.sum(projected["b"], axis=1)
        outer = ops.expand_dims(ops.matmul(a, self.A), -1) * ops.expand_dims(
            ops.matmul(b, self.B), 1
        )
        memory = ops.tanh(0.5 * states["memory"] + outer)
        total = ops.sum(memory, axis=(1, 2))[:, None]
        level = ops.sigmoid(states["level"][0] + total)
        output = {"image": ops.matmul(memory, self.R), "vector": ops.matmul(a, self.C) + level}
        return output, {"memory": memory, "count": states["count"] + 1, "level": [level]}


def nested_reference(
    w: Symbols, x: dict[str, Any], states: dict[str, Any], config: Config
) -> tuple[Any, Any]:
    """Compute one step of `NestedCanary` in NumPy."""
    outer = np.einsum("bi,bj->bij", x["a"] @ w["A"], x["b"].sum(1) @ w["B"])
    memory = np.tanh(0.5 * states["memory"] + outer)
    level = _sigmoid(states["level"][0] + memory.sum((1, 2))[:, None])
    output = {"image": memory @ w["R"], "vector": x["a"] @ w["C"] + level}
    return output, {"memory": memory, "count": states["count"] + 1, "level": [level]}


def nested_start(w: Symbols, batch: int, config: Config) -> dict[str, Any]:
    """Give the initial states of `NestedCanary`."""
    return {
        "memory": np.full((batch, config["units"], 2), 0.25),
        "count": np.zeros((batch, 1), np.int32),
        "level": [np.broadcast_to(w["s"], (batch, 1))],
    }


NestedCanary.spec = cellkit.CellSpec(
    reference=nested_reference,
    inputs={"a": ("f",), "b": ("p", "q")},
    cases={"default": {"units": 4}, "small": {"units": 2}},
    paper=PAPER,
    symbols=rename({**{name: name for name in "ABCR"}, "initial_state_1": "s"}),
    initial_state=nested_start,
    traits=frozenset({"masking", "dropout", "zoneout"}),
)

CANARIES = (PlainCanary, NestedCanary)


def stock_reference(w: Symbols, x: np.ndarray, states: States, config: Config) -> tuple[Any, Any]:
    """Compute one step of `keras.layers.LSTMCell` in NumPy."""
    h, c = states
    z = x @ w["W"] + h @ w["U"] + w.get("b", 0.0)
    i, f, g, o = np.split(z, 4, axis=-1)
    s, tanh = activation(config["recurrent_activation"]), activation(config["activation"])
    c = s(f) * c + s(i) * tanh(g)
    h = s(o) * tanh(c)
    return h, [h, c]


STOCK_SPEC = cellkit.CellSpec(
    reference=stock_reference,
    inputs=("features",),
    cases={"default": {"units": 4}, "wide": {"units": 5}},
    paper=PAPER,
    symbols=rename({"kernel": "W", "recurrent_kernel": "U", "bias": "b"}),
    traits=frozenset({"masking", "dropout", "recurrent_dropout", "equiv:LSTM"}),
)
"""Of `keras.layers.LSTMCell`, for the map of what Keras keeps: a cell that Keras knows."""
