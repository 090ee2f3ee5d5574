"""Cells that are right and unlike most are not refused by what once accused such cells."""

import threading

import keras
import numpy as np
import pytest
from keras import ops
from keras.initializers import Constant as constant

import cellkit
from cellkit_conformance.edition.profiles import PROFILES
from cellkit_conformance.judge import Judge
from cellkit_conformance.outcome import Outcome
from cellkit_conformance.subject.canaries import STOCK_SPEC
from cellkit_conformance.subject.targets import describe

BACKEND = keras.backend.backend()


def register(cls):
    return keras.saving.register_keras_serializable("unusual")(cls)


class Base(keras.layers.Layer):
    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="w")
        self.u = self.add_weight(shape=(self.units, self.units), name="u")
        self.b = self.add_weight(shape=(self.units,), name="b", initializer="zeros")

    def recurrent(self):
        return self.u

    def call(self, inputs, states):
        z = ops.matmul(inputs, self.w) + ops.matmul(states[0], self.recurrent())
        return ops.tanh(z + self.b), [ops.tanh(z + self.b)]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@register
class Antisymmetric(Base):
    """Uses U - U^T, whose diagonal is nothing."""

    def recurrent(self):
        return self.u - ops.transpose(self.u)


@register
class Wired(Base):
    """Multiplies U by a mask, as a sparse wiring does; nobody listens to some of the units."""

    def build(self, shape):
        super().build(shape)
        mask = np.zeros((self.units, self.units), "float32")
        mask[0, 1:], mask[1:2, 0] = 1, 1
        self.mask = self.add_weight(
            shape=mask.shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(mask, dtype=dtype),
            trainable=False,
            name="mask",
        )

    def recurrent(self):
        return self.u * self.mask


@register
class Signs(Base):
    """Uses the signs of U, by which nothing can be differentiated, and a little of U."""

    def recurrent(self):
        return 0.3 * ops.sign(self.u) + 1e-3 * self.u


@register
class Halved(Base):
    """Has a bias of which half is not used, which is a defect."""

    def call(self, inputs, states):
        z = ops.matmul(inputs, self.w) + ops.matmul(states[0], self.u)
        z = z + self.b * ops.cast(np.arange(self.units) % 2, self.compute_dtype)
        return ops.tanh(z), [ops.tanh(z)]


@register
class Normalised(Base):
    """Keeps running statistics, which training moves."""

    def __init__(self, units=4, **kwargs):
        super().__init__(units, **kwargs)
        self.norm = keras.layers.BatchNormalization(dtype=self.dtype_policy)

    def build(self, shape):
        super().build(shape)
        self.norm.build((None, self.units))

    def call(self, inputs, states, training=False):
        x = self.norm(ops.matmul(inputs, self.w), training=training)
        h = ops.tanh(x + ops.matmul(states[0], self.u) + self.b)
        return h, [h]


@register
class Regularized(Base):
    """Adds a loss of its own to that of a model."""

    def build(self, shape):
        l2 = keras.regularizers.L2(0.1)
        self.w = self.add_weight(shape=(shape[-1], self.units), name="w", regularizer=l2)
        self.u = self.add_weight(shape=(self.units, self.units), name="u")
        self.b = self.add_weight(shape=(self.units,), name="b", initializer="zeros")


@register
class Empty(Base):
    """Has a weight without entries."""

    def build(self, shape):
        super().build(shape)
        self.none = self.add_weight(shape=(0, self.units), name="none")

    def call(self, inputs, states):
        h, _ = super().call(inputs, states)
        h = h + ops.sum(self.none, axis=0)
        return h, [h]


class Object:
    """Is a plain object, which has no weights and no config."""

    state_size = 3

    def call(self, inputs, states):
        h = ops.tanh(inputs + 0.5 * states[0])
        return h, [h]


@register
class Kalman(Base):
    """Keeps a mean and a variance per unit; a variance is positive."""

    def __init__(self, units=4, **kwargs):
        super().__init__(units, **kwargs)
        self.state_size = [units, units]

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="w")
        self.q = self.add_weight(shape=(self.units,), initializer="ones", name="q")

    def get_initial_state(self, batch_size=None):
        return [ops.zeros((batch_size, self.units)), ops.ones((batch_size, self.units))]

    def call(self, inputs, states):
        mean, variance = states
        variance = variance + ops.softplus(self.q)
        gain = variance / (variance + 1.0)
        mean = mean + gain * (ops.matmul(inputs, self.w) - mean)
        variance = (1 - gain) * variance
        return mean * ops.sqrt(variance), [mean, variance]


@register
class Address(Base):
    """Moves an address that sums to one, by its logarithm."""

    def __init__(self, units=4, **kwargs):
        super().__init__(units, **kwargs)
        self.state_size = [units, units]

    def get_initial_state(self, batch_size=None):
        even = ops.ones((batch_size, self.units)) / self.units
        return [even, ops.zeros((batch_size, self.units))]

    def call(self, inputs, states):
        address, h = states
        h, _ = super().call(inputs, [h])
        address = ops.softmax(0.5 * ops.log(address) + h)
        return address * h, [address, h]


@register
class Wrapping(keras.layers.Layer):
    """Holds another cell."""

    def __init__(self, cell=None, **kwargs):
        super().__init__(**kwargs)
        self.cell = keras.layers.SimpleRNNCell(4) if cell is None else cell

    @property
    def state_size(self):
        return self.cell.state_size

    def build(self, shape):
        if not self.cell.built:
            self.cell.build(shape)

    def call(self, inputs, states):
        output, new = self.cell.call(inputs, states)
        return 0.5 * output, new

    def get_config(self):
        return {**super().get_config(), "cell": keras.layers.serialize(self.cell)}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if "cell" in config:
            config["cell"] = keras.layers.deserialize(config["cell"])
        return cls(**config)


@register
class NeedsACell(Wrapping):
    def __init__(self, cell, **kwargs):
        super().__init__(cell, **kwargs)


@register
class OtherKey(Base):
    """Writes an argument under another name, which its `from_config` reads."""

    def __init__(self, units=4, act="tanh", **kwargs):
        super().__init__(units, **kwargs)
        self.act = keras.activations.get(act)

    def call(self, inputs, states):
        h, _ = super().call(inputs, states)
        return self.act(h), [self.act(h)]

    def get_config(self):
        return {**super().get_config(), "function": keras.activations.serialize(self.act)}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        return cls(act=config.pop("function"), **config)


@register
class LosesIt(OtherKey):
    """Writes it nowhere."""

    def get_config(self):
        config = super().get_config()
        return {**config, "function": "tanh"}


@register
class Ids(Base):
    """Takes ids, which it looks up."""

    def __init__(self, units=4, vocabulary=7, **kwargs):
        super().__init__(units, **kwargs)
        self.vocabulary = vocabulary
        self.table = keras.layers.Embedding(vocabulary, units, dtype=self.dtype_policy)

    def build(self, shape):
        self.table.build()
        super().build((None, self.units))

    def call(self, inputs, states):
        return super().call(self.table(inputs), states)

    def get_config(self):
        return {**super().get_config(), "vocabulary": self.vocabulary}


@register
class TimeGap(Base):
    """Takes a vector and a time gap."""

    def build(self, shape):
        super().build(shape[0])

    def call(self, inputs, states):
        x, gap = inputs
        h, _ = super().call(x, states)
        kept = ops.exp(-ops.abs(gap))
        h = kept * states[0] + (1 - kept) * h
        return h, [h]


@register
class Choice(Base):
    """Takes a name out of two, which its error tells."""

    def __init__(self, units, kind, **kwargs):
        super().__init__(units, **kwargs)
        if kind not in ("soft", "hard"):
            raise ValueError(f"`kind` must be 'soft' or 'hard'. Received: kind={kind!r}")
        self.kind = kind

    def recurrent(self):
        return self.u if self.kind == "soft" else 0.5 * self.u

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


@register
class Picture(keras.layers.Layer):
    """Takes images as large as its state."""

    def __init__(self, filters=2, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.state_size = [(8, 8, filters)]
        self.conv = keras.layers.Conv2D(filters, 3, padding="same", dtype=self.dtype_policy)

    def build(self, shape):
        self.conv.build((None, 8, 8, shape[-1] + self.filters))

    def call(self, inputs, states):
        h = ops.tanh(self.conv(ops.concatenate([inputs, states[0]], axis=-1)))
        return h, [h]

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@register
class Mean(cellkit.Cell):
    """Counts what it has seen, and keeps its sum in float32, as the guide shows."""

    @property
    def state_size(self):
        return {
            "sum": cellkit.TensorSpec((self.units,), dtype="float32"),
            "seen": cellkit.TensorSpec((), dtype="int32"),
        }

    @property
    def output_size(self):
        return self.units

    def step(self, inputs, states):
        total = states["sum"] + ops.cast(inputs, "float32")
        seen = states["seen"] + 1
        mean = total / ops.cast(seen[:, None], "float32")
        return ops.cast(mean, self.compute_dtype), {"sum": total, "seen": seen}


@register
class DropsInputs(Base):
    """Drops inputs at a rate of its own name."""

    def __init__(self, units=4, input_dropout=0.0, **kwargs):
        super().__init__(units, **kwargs)
        self.input_dropout = input_dropout
        self.drop = keras.layers.Dropout(input_dropout)

    def call(self, inputs, states, training=False):
        return super().call(self.drop(inputs, training=training), states)

    def get_config(self):
        return {**super().get_config(), "input_dropout": self.input_dropout}


@register
class DropsNothing(DropsInputs):
    def call(self, inputs, states, training=False):
        return Base.call(self, inputs, states)


@register
class Switched(Base):
    """Has a recurrent weight, and with it what is about it, where a flag says so."""

    def __init__(
        self,
        units=4,
        recurrent=False,
        recurrent_dropout=0.0,
        recurrent_initializer="orthogonal",
        **kwargs,
    ):
        super().__init__(units, **kwargs)
        self.with_recurrent = recurrent
        self.recurrent_dropout = recurrent_dropout
        self.recurrent_initializer = keras.initializers.get(recurrent_initializer)
        self.drop = keras.layers.Dropout(recurrent_dropout)

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="w")
        positive = keras.constraints.NonNeg()
        self.pace = self.add_weight(shape=(), initializer="ones", constraint=positive, name="pace")
        if self.with_recurrent:
            shape = (self.units, self.units)
            self.u = self.add_weight(shape=shape, initializer=self.recurrent_initializer, name="u")

    def call(self, inputs, states, training=False):
        z = ops.matmul(inputs, self.w) + 0.5 * states[0]
        if self.with_recurrent:
            z = z + ops.matmul(self.drop(states[0], training=training), self.u)
        h = ops.tanh(self.pace * z)
        return h, [h]

    def get_config(self):
        return {
            **super().get_config(),
            "recurrent": self.with_recurrent,
            "recurrent_dropout": self.recurrent_dropout,
            "recurrent_initializer": keras.initializers.serialize(self.recurrent_initializer),
        }


@register
class Bounded(Base):
    """Counts in floats, up to a number that they have."""

    def __init__(self, units=4, **kwargs):
        super().__init__(units, **kwargs)
        self.state_size = [units, 1]

    def count(self, seen):
        return ops.minimum(seen + 1, 100.0)

    def call(self, inputs, states):
        new, _ = super().call(inputs, states)
        seen = self.count(states[1])
        h = states[0] + (new - states[0]) / ops.cast(seen, new.dtype)
        return h, [h, seen]


@register
class Unbounded(Bounded):
    """Counts in floats, until adding one changes nothing."""

    def count(self, seen):
        return seen + 1


@register
class Fast(Base):
    """Has a flag that says how to compute, and none that says what."""

    def __init__(self, units=4, implementation=1, unroll_gates=False, **kwargs):
        super().__init__(units, **kwargs)
        self.implementation, self.unroll_gates = implementation, unroll_gates

    def get_config(self):
        written = {"implementation": self.implementation, "unroll_gates": self.unroll_gates}
        return {**super().get_config(), **written}


@register
class Biased(Fast):
    """Has a flag that it does not heed."""

    def __init__(self, units=4, use_bias=True, **kwargs):
        super().__init__(units, **kwargs)
        self.use_bias = use_bias

    def get_config(self):
        return {**super().get_config(), "use_bias": self.use_bias}


@register
class Lookup(Base):
    """Looks ids up in a table that is no layer of Keras."""

    def __init__(self, units=4, tokens=9, **kwargs):
        super().__init__(units, **kwargs)
        self.tokens = tokens

    def build(self, shape):
        self.table = self.add_weight(shape=(self.tokens, self.units), name="table")
        self.u = self.add_weight(shape=(self.units, self.units), name="u")

    def call(self, inputs, states):
        ids = ops.cast(inputs[..., 0], "int32")
        h = ops.tanh(ops.take(self.table, ids, axis=0) + ops.matmul(states[0], self.u))
        return h, [h]

    def get_config(self):
        return {**super().get_config(), "tokens": self.tokens}


@register
class Dense(Base):
    """Made of layers, which follow the policy of the process and not the cell's."""

    def build(self, shape):
        self.into = keras.layers.Dense(self.units)
        self.into.build(shape)
        self.around = keras.layers.Dense(self.units, use_bias=False)
        self.around.build((None, self.units))

    def call(self, inputs, states):
        h = ops.tanh(self.into(inputs) + self.around(states[0]))
        return h, [h]


@register
class Closed(keras.layers.Layer):
    """Takes nothing but what it needs, and makes no promise about a config."""

    def __init__(self, units=4):
        super().__init__()
        self.units = self.state_size = self.output_size = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1] + self.units, self.units), name="w")

    def call(self, inputs, states):
        h = ops.tanh(ops.matmul(ops.concatenate([inputs, states[0]], -1), self.w))
        return h, [h]


@register
class NeedsTheKey(Wrapping):
    """Reads its inner cell out of the config without asking whether it is there."""

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "cell": keras.layers.deserialize(config["cell"])})


@register
class Heads(Base):
    """Asks a matrix by products in an einsum, of which Keras makes float32 on Torch."""

    def __init__(self, units=4, **kwargs):
        super().__init__(units, **kwargs)
        self.state_size = [(units, units)]

    def call(self, inputs, states):
        x = ops.matmul(inputs, self.w) + self.b
        memory = 0.5 * states[0] + ops.einsum("bi,bj->bij", ops.matmul(x, self.u), x)
        return ops.einsum("bi,bij->bj", ops.matmul(x, self.u), memory), [memory]


@register
class Delay(keras.layers.Layer):
    """Gives its inputs two steps later, so they are as wide as the rows that it keeps."""

    def __init__(self, size=3, **kwargs):
        super().__init__(**kwargs)
        self.size = self.output_size = size
        self.state_size = [(2, size)]

    def call(self, inputs, states):
        line = states[0]
        return line[:, 0], [ops.concatenate([line[:, 1:], inputs[:, None]], 1)]

    def get_config(self):
        return {**super().get_config(), "size": self.size}


@register
class Sampling(Base):
    """Draws in training, by a generator of its own and without a rate."""

    def __init__(self, units=4, temperature=1.0, **kwargs):
        super().__init__(units, **kwargs)
        self.temperature = temperature
        self.generator = keras.random.SeedGenerator(4)

    def seed(self):
        return self.generator

    def call(self, inputs, states, training=False):
        z = ops.matmul(inputs, self.w) + ops.matmul(states[0], self.u) + self.b
        if training:
            z = z + keras.random.normal(ops.shape(z), dtype=z.dtype, seed=self.seed())
        h = ops.softmax(z / self.temperature)
        return h, [h]

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}


@register
class SamplesOnce(Sampling):
    """Draws the same numbers in every call, which is a defect."""

    def seed(self):
        return 7


@register
class DropsByDefault(Base):
    """Drops a tenth of its inputs unless told otherwise, by a layer of Keras."""

    def __init__(self, units=4, dropout=0.1, **kwargs):
        super().__init__(units, **kwargs)
        self.dropout = dropout
        self.drop = keras.layers.Dropout(dropout)

    def call(self, inputs, states, training=None):
        return super().call(self.drop(inputs, training=training), states)

    def get_config(self):
        return {**super().get_config(), "dropout": self.dropout}


TURN = threading.Lock()


@register
class Locked(Base):
    """Keeps something on itself for the time of a step, and a lock around it."""

    def call(self, inputs, states):
        with TURN:
            self.kept = ops.matmul(states[0], self.u)
            z = ops.matmul(inputs, self.w)
            h = ops.tanh(z + self.kept + self.b)
            self.kept = None
        return h, [h]


@register
class Lowpass(Base):
    """Has time constants that start small, and is dead where they are negative."""

    def build(self, shape):
        self.tau = self.add_weight(shape=(self.units,), name="tau", initializer=constant(0.1))
        self.level = self.add_weight(shape=(self.units,), name="level", initializer="zeros")

    def get_initial_state(self, batch_size=None):
        return [ops.tile(ops.expand_dims(self.level, 0), (batch_size, 1))]

    def call(self, inputs, states):
        kept = ops.exp(-0.01 / ops.maximum(self.tau, 1e-8))
        h = (1 - kept) * inputs + kept * states[0]
        return h, [h]


@register
class Taps(Base):
    """Has a number whose larger values end in an error of a list."""

    def __init__(self, units=4, order=2, **kwargs):
        super().__init__(units, **kwargs)
        self.order = order

    def build(self, shape):
        super().build(shape)
        self.scale = [1.0, 0.5, 0.25][self.order]

    def recurrent(self):
        return self.scale * self.u

    def get_config(self):
        return {**super().get_config(), "order": self.order}


def judge(cls, spec=None, profile="quick"):
    target = describe(cls.__name__, cls, spec)
    return Judge(target, BACKEND, PROFILES[profile], 0, cellkit.RNN, blame=False)


RIGHT = [
    (Antisymmetric, ["NUM-10", "NUM-11"]),
    (Wired, ["NUM-10", "SEQ-07"]),
    (Signs, ["NUM-10", "GRD-03"]),
    (Normalised, ["RNG-08", "GRD-09", "STA-07"]),
    (Regularized, ["GRD-09"]),
    (Empty, ["SEQ-02", "NUM-10", "GRD-03"]),
    (Object, ["GRD-02", "SER-08", "STA-09", "SEQ-05", "SEQ-08"]),
    (Kalman, ["MSK-02", "MSK-07", "SEQ-05", "STA-06", "GRD-03"]),
    (Address, ["MSK-02", "MSK-07", "SEQ-05", "STA-06"]),
    (Wrapping, ["SER-01", "SER-02", "SER-11", "STR-08", "WRP-02"]),
    (NeedsACell, ["SER-01", "SER-02", "STR-07", "STR-08", "SEQ-02"]),
    (OtherKey, ["SER-01", "SER-02", "SER-11"]),
    (Ids, ["NUM-10", "SEQ-05", "SEQ-08", "GRD-04", "MSK-08", "MSK-10"]),
    (TimeGap, ["SEQ-02", "SEQ-08", "MSK-03"]),
    (Choice, ["SEQ-02", "SER-12"]),
    (Picture, ["SEQ-02", "SEQ-06", "STR-05"]),
    (Mean, ["SEQ-02", "SEQ-07", "STA-16", "DTY-03", "RNG-14", "SER-12"]),
    (DropsInputs, ["RNG-08", "RNG-11", "RNG-12", "RNG-14"]),
    (Switched, ["RNG-14", "SER-12", "SER-13", "STR-11"]),
    (Bounded, ["STA-16"]),
    (Fast, ["STR-11"]),
    (Lookup, ["NUM-10", "SEQ-05", "MSK-10"]),
    (Dense, ["DTY-02", "DTY-03", "DTY-08", "DTY-09", "NUM-12"]),
    (Closed, ["DTY-03", "DTY-08", "SER-01", "SER-02", "SER-12", "SEQ-02"]),
    (NeedsTheKey, ["SER-11"]),
    (Locked, ["PUR-04"]),
    (Lowpass, ["NUM-10"]),
    (Taps, ["NUM-13", "SER-12", "STR-11"]),
    (Heads, ["NUM-12", "DTY-02", "DTY-03", "SEQ-02"]),
    (Sampling, ["RNG-01", "RNG-08", "RNG-12", "SEQ-02"]),
    (DropsByDefault, ["GRD-09", "RNG-08", "RNG-12", "RNG-14"]),
    (Delay, ["NUM-10", "SEQ-02", "SEQ-05", "SEQ-08", "MSK-03"]),
    (keras.layers.LSTMCell, ["STR-08", "RNG-08", "RNG-14", "RNG-15", "SER-12", "SER-13", "STR-11"]),
    (keras.layers.GRUCell, ["STR-08", "NUM-10", "RNG-15"]),
    (keras.layers.StackedRNNCells, ["STR-08", "SER-01", "SER-02", "SEQ-02"]),
]


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
@pytest.mark.parametrize(("cls", "ids"), RIGHT, ids=[cls.__name__ for cls, _ in RIGHT])
def test_an_unusual_cell_is_not_accused(cls, ids):
    one = judge(cls)
    found = {identifier: one.run(identifier) for identifier in ids}
    good = (Outcome.PASS, Outcome.NOT_APPLICABLE)
    assert {id: r.message for id, r in found.items() if r.outcome not in good} == {}
    assert Outcome.PASS in {result.outcome for result in found.values()}


def test_a_reference_need_not_know_every_activation():
    result = judge(keras.layers.LSTMCell, STOCK_SPEC).run("NUM-13")
    assert result.outcome is Outcome.PASS, result.message


@pytest.mark.parametrize(
    ("cls", "identifier"),
    [
        (Halved, "NUM-10"),
        (LosesIt, "SER-02"),
        (DropsNothing, "RNG-14"),
        (Unbounded, "STA-16"),
        (Biased, "STR-11"),
        (SamplesOnce, "RNG-08"),
    ],
)
def test_its_broken_neighbour_is_noticed(cls, identifier):
    assert judge(cls).run(identifier).outcome is Outcome.FAIL
