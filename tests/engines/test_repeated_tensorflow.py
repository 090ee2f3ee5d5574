"""Eager calls that repeat on TensorFlow: a graph in their place, with the same bits and effects."""

import keras
import numpy as np
import pytest
from keras import ops
from small_layers import BATCH, MASK, TIME, UNITS, data, layer_of, leaves

import cellkit

if keras.backend.backend() != "tensorflow":
    pytest.skip("graphs are made on TensorFlow", allow_module_level=True)

import tensorflow as tf

from cellkit.engines.tensorflow import repeated

RESETS = np.array([[0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 1, 0], [0] * 6], bool)
STATES = [np.full((BATCH, UNITS), 0.3, "float32"), np.full((BATCH, UNITS), -0.2, "float32")]
X = data()
# The first call makes a plan, the second one a graph.
SOON = 3


@pytest.fixture
def graphs(monkeypatch):
    """Trace the second call of a kind, and return the graphs that calls have run by."""
    found, run = [], repeated._Graph.__call__

    def counted(self, request):
        found.append(self)
        return run(self, request)

    monkeypatch.setattr(repeated._Graph, "__call__", counted)
    monkeypatch.setattr(repeated, "STEPS", TIME)
    return found


CALLS = [
    {},
    {"mask": MASK},
    {"initial_state": STATES, "lengths": [6, 2, 0]},
    {"resets": RESETS, "mask": MASK},
]
OPTIONS = [
    {},
    {"return_sequences": True, "return_state": True, "zero_output_for_mask": True},
    {"return_sequences": True, "go_backwards": True},
]


@pytest.mark.parametrize(
    ("name", "call", "options"),
    [
        *(("lstm", call, options) for call in CALLS for options in OPTIONS),
        ("layer_norm_lstm", CALLS[1], OPTIONS[1]),
        ("min_gru", CALLS[3], OPTIONS[2]),
    ],
)
def test_a_graph_gives_the_bits_of_the_eager_calls(graphs, name, call, options):
    layer = layer_of(name, **options)
    want, report = leaves(layer(X, **call)), layer.engine_report()
    for _ in range(SOON):
        for a, b in zip(want, leaves(layer(X, **call)), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        assert layer.engine_report() == report
    # One to compare, then those of all other calls.
    assert len(graphs) == SOON
    again = [leaves(run(2 * X, **call)) for run in (layer, layer_of(name, **options))]
    for a, b in zip(*again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_sequences_of_all_lengths_share_the_graph_of_the_loop(graphs):
    layer = layer_of(return_sequences=True)
    for length in (6, 6, 3, 3, 1, 1, 5, 5):
        want = leaves(layer_of(return_sequences=True)(X[:, :length]))
        np.testing.assert_array_equal(leaves(layer(X[:, :length])), want)
    assert len(graphs) == 4
    assert len({id(graph) for graph in graphs}) == 1
    assert leaves(layer(X[:, :0]))[0].shape == (BATCH, 0, UNITS)
    assert leaves(layer(X[:2]))[0].shape == (2, TIME, UNITS)


def test_calls_run_eagerly_until_that_has_cost_as_much_as_a_trace(graphs, monkeypatch):
    monkeypatch.setattr(repeated, "STEPS", 3 * TIME)
    layer = layer_of()
    for _ in range(3):
        layer(X)
    assert not graphs
    layer(X)  # the third one by a plan
    assert len(graphs) == 1


def test_weights_and_attributes_are_those_of_the_moment(graphs):
    layer = layer_of()
    for _ in range(SOON):
        before = leaves(layer(X))[0]
    layer.set_weights([0.5 * w for w in layer.get_weights()])
    after = leaves(layer(X))[0]
    count = len(graphs)
    assert count > 1
    fresh = layer_of()
    fresh.set_weights(layer.get_weights())
    np.testing.assert_array_equal(after, leaves(fresh(X))[0])
    assert not np.array_equal(before, after)
    layer.cell.activation = fresh.cell.activation = keras.activations.relu
    np.testing.assert_array_equal(leaves(layer(X))[0], leaves(fresh(X))[0])
    assert len(graphs) == count


def test_values_of_a_stateless_call_are_used(graphs):
    layer = layer_of()
    values = [v.value for v in layer.trainable_variables]
    others = [v.value for v in layer.non_trainable_variables]
    for _ in range(SOON):
        want = leaves(layer(X))[0]
        have, _ = layer.stateless_call(values, others, X)
        np.testing.assert_array_equal(leaves(have)[0], want)
        zeros, _ = layer.stateless_call([0 * v for v in values], others, X)
        assert not leaves(zeros)[0].any()
    assert graphs


def test_a_call_that_is_differentiated_runs_eagerly(graphs):
    layer, x = layer_of(), tf.constant(X)

    def gradients():
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = layer(x)
            (first,) = inner.gradient(y, [x])
        weights = outer.gradient(y, layer.trainable_variables)
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            tangent = accumulator.jvp(layer(x))
        return [first, outer.gradient(first, x), tangent, *weights]

    want = leaves(gradients())
    for _ in range(SOON):
        layer(x)
        count = len(graphs)
        for a, b in zip(want, leaves(gradients()), strict=True):
            np.testing.assert_array_equal(a, b)
        assert len(graphs) == count
    assert graphs and all(np.any(g) for g in want)


@pytest.mark.parametrize("setting", ["functions", "unroll", "training"])
def test_what_asks_for_python_gets_it(graphs, setting):
    layer = layer_of(unroll=setting == "unroll")
    try:
        tf.config.run_functions_eagerly(setting == "functions")
        for _ in range(SOON):
            layer(X, training=setting == "training")
    finally:
        tf.config.run_functions_eagerly(False)
    assert not graphs


class Base(cellkit.get("gru").cls):
    """A cell to which others add an effect."""

    def step(self, projected, states):
        h, new = super().step(projected, states)
        return h + self.extra(h), new

    def extra(self, h):
        return 0.0


class Noisy(Base):
    """Draws at inference too."""

    def extra(self, h):
        return keras.random.normal(ops.shape(h), seed=self.seed_generator)


class Global(Base):
    """Draws from a generator of TensorFlow's."""

    def extra(self, h):
        return tf.random.normal(tf.shape(h))


class Counting(Base):
    """Counts its steps in a variable."""

    def build(self, input_shape):
        super().build(input_shape)
        self.counter = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def extra(self, h):
        self.counter.assign_add(1.0)
        return self.counter.value


class Lossy(Base):
    """Adds a loss at every step."""

    def extra(self, h):
        self.add_loss(ops.mean(h) + 1.0)
        return 0.0


class Listing(Base):
    """Keeps a list of its steps."""

    seen = ()

    def extra(self, h):
        self.seen = (*self.seen, 1)
        return 0.0


class Reading(Base):
    """Reads a value on the host."""

    def extra(self, h):
        return float(ops.convert_to_numpy(h).max())


class Printing(Base):
    """Prints by an operation."""

    def extra(self, h):
        tf.print(tf.reduce_max(h), output_stream="file:///dev/null")
        return 0.0


class Foreign(Base):
    """Reads a variable of TensorFlow's in its steps."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.offset = tf.Variable(0.25)

    def extra(self, h):
        return self.offset


class TwoFaced(Base):
    """Computes something else in a graph."""

    def extra(self, h):
        return 1e-6 if tf.executing_eagerly() else 0.0


@pytest.mark.parametrize(
    "cls", [Noisy, Global, Counting, Lossy, Listing, Reading, Printing, TwoFaced]
)
def test_effects_of_a_step_happen_once_for_each_step(graphs, monkeypatch, cls):
    layers = [layer_of(cls(UNITS, seed=1), return_sequences=True) for _ in range(2)]
    found = [leaves(layers[0](X))[0] for _ in range(SOON)]
    # At most one, for the comparison.
    assert len(graphs) <= (cls is TwoFaced)
    monkeypatch.setattr(repeated, "STEPS", 10**9)
    want = [leaves(layers[1](X))[0] for _ in range(SOON)]
    if cls is Global:
        assert len({y.tobytes() for y in found}) == SOON
    else:
        np.testing.assert_array_equal(found, want)
    if cls is Lossy:
        assert leaves(layers[0].losses) == leaves(layers[1].losses) != []
    if cls is Listing:
        assert len(layers[0].cell.seen) == SOON * TIME


def test_variables_of_tensorflow_are_read_at_every_call(graphs):
    layer = layer_of(Foreign(UNITS))
    for _ in range(SOON):
        before = leaves(layer(X))[0]
    layer.cell.offset.assign(0.5)
    np.testing.assert_allclose(leaves(layer(X))[0], before + 0.25, rtol=1e-6)
