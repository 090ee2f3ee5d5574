"""A cell that attends to a memory, which it is handed as a constant; and one that gets it wrong."""

import keras
import numpy as np
from keras import ops

import cellkit
from cellkit.registry import rename


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def reference(w, x, states, config, constants):
    (h,), (memory,) = states, constants
    score = softmax(np.einsum("bd,bpd->bp", h @ w["Q"], memory))
    read = np.einsum("bp,bpd->bd", score, memory)
    h = np.tanh(x @ w["W"] + read @ w["V"] + h @ w["U"])
    return h, [h]


@keras.saving.register_keras_serializable(package="attentive")
class Attentive(keras.layers.Layer):
    """Attention over a memory.

    Args:
        units: Number of units.
        **kwargs: Of a layer.
    """

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(units, int) or units < 1:
            raise ValueError(f"units must be a positive int, got {units!r}")
        self.units = self.state_size = self.output_size = units

    def build(self, input_shape):
        shapes = {"w": input_shape[-1], "u": self.units, "v": 3}
        for name, size in shapes.items():
            setattr(self, name, self.add_weight(shape=(size, self.units), name=name))
        self.q = self.add_weight(shape=(self.units, 3), name="q")

    def attend(self, h, memory):
        score = ops.softmax(ops.einsum("bd,bpd->bp", ops.matmul(h, self.q), memory))
        return ops.einsum("bp,bpd->bd", score, memory)

    def call(self, inputs, states, constants):
        (memory,) = constants
        h = states[0]
        z = ops.matmul(inputs, self.w) + ops.matmul(self.attend(h, memory), self.v)
        h = ops.tanh(z + ops.matmul(h, self.u))
        return h, [h]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


Attentive.spec = cellkit.CellSpec(
    reference=reference,
    inputs=("features",),
    constants=[("places", 3)],
    cases={"default": {"units": 4}, "narrow": {"units": 3}},
    paper=cellkit.Paper("Nobody", 2026, "A cell for tests", "arXiv:0000.00000"),
    symbols=rename({"w": "W", "u": "U", "v": "V", "q": "Q"}),
    traits=frozenset({"masking", "stateful"}),
    states=("h",),
)


@keras.saving.register_keras_serializable(package="attentive")
class Inattentive(Attentive):
    """Reads the memory with equal weights, whatever the state."""

    def attend(self, h, memory):
        return ops.mean(memory, axis=1) + 0.0 * ops.sum(ops.matmul(h, self.q))


Inattentive.spec = Attentive.spec
