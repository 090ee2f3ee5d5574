"""Defects of kinds that strangers' cells had, and right cells of kinds that were once accused."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import cellkit
from cellkit_conformance.edition.profiles import PROFILES
from cellkit_conformance.judge import Judge
from cellkit_conformance.outcome import Outcome
from cellkit_conformance.report.causes import alike
from cellkit_conformance.subject.targets import describe

pytestmark = pytest.mark.one_backend  # `make conform` runs these checks on each


def register(cls):
    return keras.saving.register_keras_serializable("strangers")(cls)


class Elman(keras.layers.Layer):
    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="w")
        self.u = self.add_weight(shape=(self.units, self.units), name="u")

    def next(self, inputs, h):
        return ops.tanh(ops.matmul(inputs, self.w) + ops.matmul(h, self.u))

    def call(self, inputs, states, training=False):
        h = self.next(inputs, states[0])
        return h, [h]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@register
class Average(keras.layers.Layer):
    """Has a rate of a quarter, which half of itself and an eighth is too."""

    def __init__(self, size=3, alpha=0.25, **kwargs):
        super().__init__(**kwargs)
        self.size = self.state_size = size
        self.alpha = alpha

    def call(self, inputs, states):
        mean = states[0] + self.alpha * (inputs - states[0])
        return mean, [mean]

    def get_config(self):
        return {**super().get_config(), "size": self.size, "alpha": self.alpha}


class Taps:
    """Is a filter that forgets after two steps, by design."""

    state_size = [1, 1]

    def call(self, inputs, states):
        now = ops.sum(inputs, axis=-1, keepdims=True)
        return now + 0.5 * states[0] + 0.25 * states[1], [now, states[0]]


@register
class OneHot(Elman):
    """Takes one id per row, of whatever shape that is."""

    def build(self, shape):
        super().build((None, 4))

    def call(self, inputs, states):
        ids = ops.cast(ops.reshape(inputs, (-1,)), "int32")
        return super().call(ops.one_hot(ids, 4, dtype=self.compute_dtype), states)


@register
class TakesFunctions(Elman):
    """Takes a function for its activation, and no name of one."""

    def __init__(self, units=4, activation=ops.tanh, **kwargs):
        super().__init__(units, **kwargs)
        self.activation = activation

    def next(self, inputs, h):
        return self.activation(ops.matmul(inputs, self.w) + ops.matmul(h, self.u))


@register
class FirstBatch(Elman):
    """Scales by the first inputs that it ever sees."""

    scale = None

    def next(self, inputs, h):
        if self.scale is None:
            self.scale = 1.0 + float(np.abs(ops.convert_to_numpy(inputs)).mean())
        return super().next(inputs / self.scale, h)


@register
class StaleNorm(Elman):
    """Computes the norm of a weight anew in training alone."""

    norm = None

    def call(self, inputs, states, training=False):
        if training or self.norm is None:
            self.norm = float(np.linalg.norm(ops.convert_to_numpy(self.u.value)))
        h = self.next(inputs, states[0] / self.norm)
        return h, [h]


@functools.cache
def drawn(units):
    return np.random.default_rng().normal(size=units).astype("float32")


@register
class DrawnOnce(Elman):
    """Draws a constant for all cells of a size, which a saved model does not have."""

    def next(self, inputs, h):
        return super().next(inputs, h + ops.cast(drawn(self.units), self.compute_dtype))


@register
class CopiesItself(Elman):
    """Is its own copy."""

    def __deepcopy__(self, memo):
        return self


@register
class Objects(Elman):
    """Takes an initializer and a regularizer."""

    def __init__(self, units=4, kernel_initializer="he_normal", kernel_regularizer=None, **kwargs):
        super().__init__(units, **kwargs)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

    def build(self, shape):
        super().build(shape)
        self.v = self.add_weight(
            shape=(shape[-1], self.units),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            name="v",
        )

    def next(self, inputs, h):
        return super().next(inputs, h) + ops.matmul(inputs, self.v)

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }


@register
class LosesArguments(Objects):
    """Writes the name of its initializer, without what it was made with."""

    def get_config(self):
        name = type(self.kernel_initializer).__name__
        return {**super().get_config(), "kernel_initializer": name}


@register
class PaysTwice(Objects):
    """Adds the penalty of a weight once more in every step."""

    def call(self, inputs, states, training=False):
        if self.kernel_regularizer is not None:
            self.add_loss(self.kernel_regularizer(self.v))
        return super().call(inputs, states, training)


@register
class Holder(keras.layers.Layer):
    """Holds another cell."""

    def __init__(self, cell=None, **kwargs):
        super().__init__(**kwargs)
        self.cell = keras.layers.GRUCell(4) if cell is None else cell
        self.state_size, self.output_size = self.cell.state_size, self.cell.output_size

    def build(self, shape):
        if not self.cell.built:
            self.cell.build(shape)

    def call(self, inputs, states, training=False):
        return self.cell(inputs, states, training=training)

    def get_config(self):
        return {**super().get_config(), "cell": keras.layers.serialize(self.cell)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "cell": keras.layers.deserialize(config["cell"])})


@register
class NeverTrains(Holder):
    """Does not tell the cell inside that it trains."""

    def call(self, inputs, states, training=False):
        return self.cell(inputs, states, training=False)


@register
class Padded(Elman):
    """Looks up ids behind a row for the padding, which nothing reads."""

    first = 1

    def build(self, shape):
        self.table = self.add_weight(shape=(5, self.units), name="table")
        self.u = self.add_weight(shape=(self.units, self.units), name="u")

    def next(self, inputs, h):
        ids = ops.cast(ops.reshape(inputs, (-1,)), "int32")
        ids = ops.clip(ids + self.first, 1, 4)
        return ops.tanh(ops.take(self.table, ids, axis=0) + ops.matmul(h, self.u))


@register
class OneRowShort(Padded):
    """Takes the first two ids for one."""

    first = 0

    def build(self, shape):
        self.table = self.add_weight(shape=(4, self.units), name="table")
        self.u = self.add_weight(shape=(self.units, self.units), name="u")


@register
class Drops(Elman):
    """Drops inputs and states."""

    def __init__(self, units=4, dropout=0.0, recurrent_dropout=0.0, seed=None, **kwargs):
        super().__init__(units, **kwargs)
        self.dropout, self.recurrent_dropout, self.seed = dropout, recurrent_dropout, seed
        self.generator = keras.random.SeedGenerator(self.start())

    def start(self):
        return self.seed

    def rates(self):
        return self.dropout, self.recurrent_dropout

    def call(self, inputs, states, training=False):
        dropped = [inputs, states[0]]
        for n, rate in enumerate(self.rates() if training else ()):
            dropped[n] = keras.random.dropout(dropped[n], rate, seed=self.generator)
        h = self.next(*dropped)
        return h, [h]

    def get_config(self):
        written = {"dropout": self.dropout, "recurrent_dropout": self.recurrent_dropout}
        return {**super().get_config(), **written, "seed": self.seed}


@register
class SwapsRates(Drops):
    """Drops inputs at the rate of the states, and the other way round."""

    def rates(self):
        return self.recurrent_dropout, self.dropout


@register
class OtherSeed(Drops):
    """Keeps its seed, and draws by another."""

    def start(self):
        return None


@register
class DropsByAnotherName(Drops):
    """Calls its rate `p`, which nobody takes for one; its seed does nothing where that is zero."""

    def __init__(self, units=4, p=0.0, seed=None, **kwargs):
        super().__init__(units, p, 0.0, seed, **kwargs)
        self.p = p

    def get_config(self):
        config = {**super().get_config(), "p": self.p}
        return {k: v for k, v in config.items() if not k.endswith("dropout")}


@register
class DropsForItsBase(keras.layers.GRUCell):
    """Drops at its base's rate by itself, and lets that class compute as at inference."""

    def call(self, inputs, states, training=False):
        if training:
            inputs = keras.random.dropout(inputs, self.dropout, seed=self.seed_generator)
        return super().call(inputs, states)


@register
class DropsCandidates(Elman):
    """Drops what comes in, and leaves what is carried alone (arXiv:1603.05118)."""

    def __init__(self, units=4, recurrent_dropout=0.0, **kwargs):
        super().__init__(units, **kwargs)
        self.recurrent_dropout = recurrent_dropout
        self.state_size = [units, units]
        self.generator = keras.random.SeedGenerator()

    def call(self, inputs, states, training=False):
        come = self.next(inputs, states[0])
        if training and self.recurrent_dropout:
            come = keras.random.dropout(come, self.recurrent_dropout, seed=self.generator)
        c = 0.5 * states[1] + come
        return ops.tanh(c), [ops.tanh(c), c]

    def get_config(self):
        return {**super().get_config(), "recurrent_dropout": self.recurrent_dropout}


@register
class PaysForStates(Elman):
    """Takes a regularizer of states, which no weight has."""

    def __init__(self, units=4, state_regularizer=None, **kwargs):
        super().__init__(units, **kwargs)
        self.state_regularizer = keras.regularizers.get(state_regularizer)

    def call(self, inputs, states, training=False):
        h = self.next(inputs, states[0])
        if self.state_regularizer is not None:
            self.add_loss(self.state_regularizer(h))
        return h, [h]

    def get_config(self):
        written = keras.regularizers.serialize(self.state_regularizer)
        return {**super().get_config(), "state_regularizer": written}


@register
class Quieter(keras.layers.GRUCell):
    """Is Keras' own cell, with outputs of half the size."""

    def call(self, inputs, states, training=False):
        output, states = super().call(inputs, states, training=training)
        return 0.5 * output, states


@register
class QuietInTraining(keras.layers.GRUCell):
    """Does not tell its base class that it trains."""

    def call(self, inputs, states, training=False):
        output, states = super().call(inputs, states)
        return 0.5 * output, states


@register
class Zoned(Elman):
    """Keeps a part of its states."""

    def __init__(self, units=4, zoneout=0.0, **kwargs):
        super().__init__(units, **kwargs)
        self.zoneout = zoneout
        self.generator = keras.random.SeedGenerator()

    def share(self):
        return self.zoneout

    def call(self, inputs, states, training=False):
        old, new = states[0], self.next(inputs, states[0])
        if training:
            drawn = keras.random.uniform(ops.shape(new), seed=self.generator)
            new = ops.where(drawn < self.zoneout, old, new)
        elif self.zoneout:
            new = self.share() * old + (1 - self.share()) * new
        return new, [new]

    def get_config(self):
        return {**super().get_config(), "zoneout": self.zoneout}


@register
class ZonedTheOtherWay(Zoned):
    """Keeps at inference as much as it renews in training."""

    def share(self):
        return 1 - self.zoneout


@register
class Announces(Elman):
    """Says itself what a step gives."""

    wide = 0

    def compute_output_spec(self, inputs, states, training=False):
        shape = (inputs.shape[0], self.units + self.wide)
        h = keras.KerasTensor(shape, self.compute_dtype)
        return h, [h]


@register
class AnnouncesMore(Announces):
    """Says that it is wider than it is."""

    wide = 1


@register
class Normed(Elman):
    """Normalises its sum, and adds no bias before that."""

    def spread(self, z, mean):
        return ops.mean(ops.square(z - mean), -1, keepdims=True)

    def next(self, inputs, h):
        z = ops.matmul(inputs, self.w) + ops.matmul(h, self.u)
        mean = ops.mean(z, -1, keepdims=True)
        return ops.tanh((z - mean) / ops.sqrt(self.spread(z, mean) + 1e-3))


@register
class Cancels(Normed):
    """Takes the square of the mean from the mean of squares."""

    def spread(self, z, mean):
        return ops.abs(ops.mean(ops.square(z), -1, keepdims=True) - ops.square(mean))


def judge(cls, spec=None):
    target = describe(cls.__name__, cls, spec)
    return Judge(target, "torch", PROFILES["quick"], 0, cellkit.RNN, blame=False)


RIGHT = [
    (Average, ["STR-11", "SER-02"]),
    (Taps, ["GRD-04", "SEQ-08", "MSK-10"]),
    (OneHot, ["NUM-10", "NUM-12", "GRD-05"]),
    (TakesFunctions, ["STR-11"]),
    (Objects, ["SER-02", "SER-13", "PUR-02"]),
    (Holder, ["RNG-14", "SER-06", "SER-08"]),
    (Padded, ["NUM-10"]),
    (Drops, ["RNG-14", "RNG-15", "STR-11"]),
    (DropsByAnotherName, ["STR-11", "SER-02"]),
    (DropsCandidates, ["RNG-14", "RNG-15"]),
    (PaysForStates, ["SER-13", "SER-02"]),
    (Quieter, ["RNG-14"]),
    (Zoned, ["RNG-14"]),
    (Normed, ["NUM-12"]),
    (Announces, ["STR-05"]),
    (Elman, ["PUR-02", "SER-06", "SER-08", "GRD-04"]),
]


@pytest.mark.parametrize(("cls", "ids"), RIGHT, ids=[cls.__name__ for cls, _ in RIGHT])
def test_a_right_cell_is_not_accused(cls, ids):
    one = judge(cls)
    found = {identifier: one.run(identifier) for identifier in ids}
    assert {id: r.message for id, r in found.items() if r.outcome.is_bad} == {}


BROKEN = [
    (FirstBatch, "PUR-02"),
    (StaleNorm, "PUR-02"),
    (DrawnOnce, "SER-06"),
    (CopiesItself, "SER-08"),
    (LosesArguments, "SER-02"),
    (PaysTwice, "SER-13"),
    (NeverTrains, "RNG-14"),
    (OneRowShort, "NUM-10"),
    (SwapsRates, "RNG-15"),
    (OtherSeed, "STR-11"),
    (QuietInTraining, "RNG-14"),
    (ZonedTheOtherWay, "RNG-14"),
    (AnnouncesMore, "STR-05"),
    (Cancels, "NUM-12"),
]


@pytest.mark.parametrize(("cls", "identifier"), BROKEN, ids=[cls.__name__ for cls, _ in BROKEN])
def test_a_broken_cell_is_noticed(cls, identifier):
    assert judge(cls).run(identifier).outcome.is_bad


def test_a_spec_that_fails_is_one_cause():
    """What the spec itself gets wrong shows in many checks, and is told once."""
    spec = cellkit.CellSpec(
        paper=cellkit.Paper("A. Nobody", 2025, "Nothing", "https://example.org"),
        reference=lambda w, x, states, config: (states[0], states),
        cases={"default": {"units": 4}, "wide": {"units": 5}},
        inputs=("features",),
        symbols=cellkit.registry.rename({"W": "w", "U": "u"}),  # the wrong way round
        traits={"masking", "stateful"},
    )
    one = judge(Elman, spec)
    results = [one.run(identifier) for identifier in ("NUM-01", "NUM-04", "NUM-12", "DTY-08")]
    assert all(result.outcome is Outcome.FAIL for result in results)
    (group,) = alike(results)
    assert group[0].requirement == "NUM-01" and "'w', 'u'" in group[0].message
