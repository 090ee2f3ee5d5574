"""Transformations of TensorFlow see through every engine where they see through Keras' layer."""

import functools

import keras
import numpy as np
import pytest
from cell_numbers import random_weights

import cellkit

if keras.backend.backend() != "tensorflow":
    pytest.skip("transformations of TensorFlow", allow_module_level=True)

import tensorflow as tf

X, V = np.random.default_rng(0).normal(size=(2, 2, 3, 2))
MASK = np.array([[1, 0, 1], [0, 1, 1]], bool)


def layers_of(names, engine, **options):
    """Return two layers around the same cells, with an engine and with the plain loop."""
    cells = [cellkit.create(name, units=2, dtype="float64") for name in names]
    cell = cells[0] if len(cells) == 1 else cells
    options = {**options, "return_sequences": True, "dtype": "float64"}
    layers = [cellkit.RNN(cell, engine=e, **options) for e in (engine, "loop")]
    for layer in layers:
        layer.build(X.shape)
    for i, part in enumerate(cells):
        random_weights(part, np.random.default_rng(1 + i))
    return layers


def tape_of(function, x, persistent=False):
    with tf.GradientTape(persistent=persistent) as tape:
        tape.watch(x)
        y = function(x)
    return tape, y


def gradient(loss, x):
    tape, y = tape_of(loss, x)
    return tape.gradient(y, x)


def forwards(f, loss, x):
    with tf.autodiff.ForwardAccumulator(x, tf.constant(V)) as accumulator:
        y = f(x)
    return accumulator.jvp(y)


def forwards_of_gradient(f, loss, x):
    with tf.autodiff.ForwardAccumulator(x, tf.constant(V)) as accumulator:
        d = gradient(loss, x)
    return accumulator.jvp(d)


def jacobian(pfor):
    def compute(f, loss, x):
        tape, y = tape_of(f, x, persistent=not pfor)
        return tape.jacobian(y, x, experimental_use_pfor=pfor)

    return compute


def hessian(f, loss, x):
    tape, d = tape_of(lambda x: gradient(loss, x), x, persistent=True)
    return tape.jacobian(d, x, experimental_use_pfor=False)


TRANSFORMATIONS = {
    "gradient": lambda f, loss, x: gradient(loss, x),
    "nested": lambda f, loss, x: gradient(lambda x: tf.reduce_sum(gradient(loss, x) ** 2), x),
    "forwards": forwards,
    "forwards of gradient": forwards_of_gradient,
    "jacobian": jacobian(False),
    "jacobian with pfor": jacobian(True),
    "hessian": hessian,
    "vectorized": lambda f, loss, x: tf.vectorized_map(f, tf.stack([x, tf.constant(V)])),
}
ENGINES = {
    "loop": ["lstm"],
    "projected": ["lstm"],
    "fused": ["lstm"],
    "scan": ["min_gru"],
    "stack": ["lstm", "min_gru"],
}


# TensorFlow has no forward mode for a loop in a graph, and cannot vectorize the gradient of one.
IN_GRAPHS = ["nested", "jacobian", "jacobian with pfor", "vectorized"]


def compute(layer, transformation, mode):
    def f(x):
        return tf.sin(layer(x, mask=MASK, training=True))

    def run(x):
        return TRANSFORMATIONS[transformation](f, lambda x: tf.reduce_sum(f(x) ** 2), x)

    x = tf.constant(X)
    if mode == "eager":
        return run(x).numpy()
    return tf.function(run, autograph=False, jit_compile=mode == "xla")(x).numpy()


@functools.cache
def wanted(engine, transformation):
    """Return what the plain loop of eager calls gives: operations of TensorFlow, one by one."""
    return compute(layers_of(ENGINES[engine], engine)[1], transformation, "eager")


def check(engine, transformation, mode, **options):
    want = wanted(engine, transformation)
    have = compute(layers_of(ENGINES[engine], engine, **options)[0], transformation, mode)
    np.testing.assert_allclose(have, want, rtol=0, atol=1e-10 * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("engine", [e for e in ENGINES if e not in ("fused", "loop")])
def test_a_transformation_sees_through_an_engine(engine, transformation):
    check(engine, transformation, "eager")


@pytest.mark.parametrize("transformation", IN_GRAPHS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_transformation_in_a_graph_sees_through_an_engine(engine, transformation):
    check(engine, transformation, "graph")


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_of_gradients_can_be_compiled(engine):
    check(engine, "nested", "xla")


@pytest.mark.parametrize("engine", ["loop", "projected"])
def test_an_unrolled_loop_is_differentiated_forwards_in_a_graph(engine):
    check(engine, "forwards", "graph", unroll=True)
