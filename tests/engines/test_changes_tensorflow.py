"""Engines of TensorFlow give the plain loop's numbers, whatever a step reads and what changed."""

import functools
import types

import keras
import numpy as np
import pytest
from keras import ops

import cellkit
from cellkit.cells import matmul

if keras.backend.backend() != "tensorflow":
    pytest.skip("graphs are made on TensorFlow", allow_module_level=True)

import tensorflow as tf

X = np.random.default_rng(0).normal(size=(5, 3, 3))
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def randomized(cell):
    """Build a cell, with numbers for weights that are neither zero nor symmetric."""
    cellkit.RNN(cell, dtype="float64").build((None, 3, 3))
    rng = np.random.default_rng(1)
    for weight in cell.weights:
        weight.assign(rng.normal(size=weight.shape))
    return cell


def answers(layer, x, mode, training):
    """Return the outputs, and the gradients of inputs and weights.

    Args:
        layer: The layer, of its own engine.
        x: The inputs.
        mode: "eager", or in a function whose batch is "fixed" or "unknown".
        training: The training flag.
    """

    def compute(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
            loss = tf.reduce_sum(y * tf.sin(3.0 * y))
        grads = tape.gradient(loss, [x, *layer.trainable_variables])
        return [y, *(tf.zeros([]) if g is None else tf.convert_to_tensor(g) for g in grads)]

    x = tf.constant(x)
    if mode != "eager":
        shape = [None if mode == "unknown" else len(x), *x.shape[1:]]
        signature = [tf.TensorSpec(shape, x.dtype)]
        compute = tf.function(compute, input_signature=signature, autograph=False)
    return [y.numpy() for y in compute(x)]


def layers_of(cell, *engines):
    options = {"return_sequences": True, "dtype": "float64"}
    return [cellkit.RNN(cell, engine=engine, **options) for engine in engines]


def check(layers, x, mode, training):
    """Compare layers with the last of them, which is the plain loop; return its numbers."""
    want = answers(layers[-1], x, mode, training)
    for layer in layers[:-1]:
        try:
            have = answers(layer, x, mode, training)
        except ValueError as error:
            if layer.engine == "auto" or f"engine={layer.engine!r}" not in str(error):
                raise
            continue  # it says that it can't run this cell
        for i, (a, b) in enumerate(zip(have, want, strict=True)):
            np.testing.assert_allclose(a, b, **TOLERANCE, err_msg=f"{layer.engine}, {i}")
    return want


class Scale:
    """An activation that is an object."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x


class Scaled(cellkit.Cell):
    """Reads numbers from all kinds of places."""

    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.scales = (1.0, 2.0)
        self.table = {"gains": [np.ones(2)]}
        self.space = types.SimpleNamespace(factor=1.0)
        self.part = functools.partial(ops.multiply, 1.0)
        self.activation = Scale(1.0)

    def build(self, shape):
        super().build(shape)
        self.kernel = self.add_kernel((shape[-1], self.units))
        self.recurrent = self.add_kernel((self.units, self.units))

    def project(self, inputs):
        return self.space.factor * matmul(inputs, self.kernel)

    def step(self, projected, states):
        h = self.part(projected + matmul(states[0], self.recurrent))
        h = ops.tanh(self.activation(h)) * self.scales[0] * self.table["gains"][0][0]
        return h, [h]


def in_place(cell):
    cell.table["gains"][0][0] = 0.5


CHANGES = {
    "an activation": lambda cell: setattr(cell, "activation", ops.sin),
    "an attribute": lambda cell: setattr(cell.activation, "factor", 0.5),
    "a tuple": lambda cell: setattr(cell, "scales", (0.5, 2.0)),
    "an array in place": in_place,
    "a list in place": lambda cell: cell.table["gains"].insert(0, np.full(2, 0.5)),
    "a dict in place": lambda cell: cell.table.update({"gains": [np.full(2, 0.5)]}),
    "a partial": lambda cell: setattr(cell, "part", functools.partial(ops.multiply, 0.5)),
    "a number of project": lambda cell: setattr(cell.space, "factor", 0.5),
    "a kernel": lambda cell: setattr(cell, "step", lambda x, s: (matmul(x, cell.recurrent), [x])),
}


@pytest.mark.parametrize("mode", ["eager", "unknown"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change, mode):
    cell = randomized(Scaled(4, dtype="float64"))
    layers = layers_of(cell, *(["auto", "projected"] if mode == "eager" else ["fused"]), "loop")
    before = check(layers, X, mode, True)
    CHANGES[change](cell)
    after = check(layers, X, mode, True)
    assert np.abs(after[0] - before[0]).max() > 1e-3
    ran = [layer.engine_report().engine for layer in layers]
    if change != "a kernel":  # its products are not those of the step before
        assert ran[-2:] == ["projected" if mode == "eager" else "fused", "loop"]


@pytest.mark.parametrize("mode", ["eager", "unknown"])
def test_a_change_is_noticed_in_a_stack(mode):
    cell = randomized(Scaled(4, dtype="float64"))
    layers = layers_of([cell], "stack", "loop")
    check(layers, X, mode, True)
    in_place(cell)
    cell.activation = ops.sin
    check(layers, X, mode, True)


class Counting(cellkit.Cell):
    """Takes the batch size into account, in one of many ways."""

    def __init__(self, units, way, where="step", **kwargs):
        super().__init__(units, **kwargs)
        self.way, self.where = way, where

    def build(self, shape):
        super().build(shape)
        self.kernel = self.add_kernel((shape[-1], self.units))
        self.recurrents = [self.add_kernel((self.units, self.units)) for _ in range(2)]

    def project(self, inputs):
        v = matmul(inputs, self.kernel)
        return WAYS[self.way](self, v) if self.where == "project" else v

    def step(self, projected, states):
        h = ops.tanh(projected + matmul(states[0], self.recurrents[0]))
        h = WAYS[self.way](self, h) if self.where == "step" else h
        return h, [h]


WAYS = {
    "shape": lambda cell, v: v * 2.0 / (v.shape[0] or 7.0),
    "branch": lambda cell, v: v * (0.5 if v.shape[0] == 2 else 1.0),
    "kernel": lambda cell, v: ops.tanh(matmul(v, cell.recurrents[(v.shape[0] or 0) % 2])),
    "ops.shape": lambda cell, v: v / ops.cast(ops.shape(v)[0], v.dtype),
    "tf.shape": lambda cell, v: v / tf.cast(tf.shape(v)[0], v.dtype),
    "other rows": lambda cell, v: v - ops.mean(v, axis=0, keepdims=True),
    "one row": lambda cell, v: v - 0.5 * v[:1],
    "shuffled rows": lambda cell, v: v + ops.flip(v, axis=0),
}
EAGER_WAYS = {
    "len": lambda cell, v: v / len(v),
    "plain shape": lambda cell, v: v / v.shape[0],
    "float": lambda cell, v: v * (0.5 if float(ops.sum(v)) > 0 else 1.0),
    "numpy": lambda cell, v: v * (1.0 + np.tanh(ops.convert_to_numpy(v)).mean()),
    "a branch": lambda cell, v: v * (0.5 if v[0, 0] > 0 else 1.0),
    "tolist": lambda cell, v: v + 0.1 * np.sign(np.asarray(v).tolist()[0][0]),
}
IN_GRAPHS = [(way, mode) for way in WAYS for mode in ("eager", "fixed", "unknown")]
WAYS |= EAGER_WAYS


@pytest.mark.parametrize("where", ["step", "project"])
@pytest.mark.parametrize(
    ("way", "mode"),
    [
        *IN_GRAPHS,
        *((way, "eager") for way in EAGER_WAYS),
        ("plain shape", "fixed"),
    ],
)
def test_a_step_may_know_its_batch(way, mode, where):
    cell = randomized(Counting(4, way, where, dtype="float64"))
    layers = layers_of(cell, *(["auto", "projected"] if mode == "eager" else ["fused"]), "loop")
    for rows, training in ((5, True), (2, mode != "unknown")):
        check(layers, X[:rows], mode, training)


def test_a_stack_may_know_its_batch():
    cells = [
        Counting(4, way, where, dtype="float64")
        for way, where in (("branch", "project"), ("kernel", "step"))
    ]
    randomized(cellkit.StackedCells(cells, dtype="float64"))
    layers = layers_of(cells, "stack", "loop")
    for mode in ("eager", "fixed", "unknown"):
        for rows in (5, 2):
            check(layers, X[:rows], mode, True)


class Linear(cellkit.LinearCell):
    """Knows its batch where it computes its coefficients, or what it returns."""

    def __init__(self, units, way, where, **kwargs):
        super().__init__(units, **kwargs)
        self.way, self.where = way, where

    def build(self, shape):
        super().build(shape)
        self.kernel = self.add_kernel((shape[-1], self.units))
        self.recurrents = [self.add_kernel((self.units, self.units)) for _ in range(2)]

    def project(self, inputs):
        return matmul(inputs, self.kernel)

    def coefficients(self, projected):
        v = WAYS[self.way](self, projected) if self.where == "coefficients" else projected
        return ops.sigmoid(v), 0.5 * v

    def read(self, states, projected):
        v = ops.tanh(states[0])
        return WAYS[self.way](self, v) if self.where == "read" else v


@pytest.mark.parametrize("where", ["coefficients", "read"])
@pytest.mark.parametrize("way", WAYS)
def test_a_linear_cell_may_know_its_batch(way, where):
    cell = randomized(Linear(4, way, where, dtype="float64"))
    layers = layers_of(cell, "scan", "auto", "loop")
    for mode in ("eager",) if way in EAGER_WAYS else ("eager", "unknown"):
        for rows in (5, 2):
            check(layers, X[:rows], mode, True)


class OfTensorFlow(cellkit.Cell):
    """A cell whose step does something that Keras does not know of.

    Args:
        units: Number of units.
        way: "variable", "print" or "python".
    """

    def __init__(self, units, way="variable", **kwargs):
        super().__init__(units, **kwargs)
        self.way = way

    def build(self, input_shape):
        super().build(input_shape)
        self.kernel = self.add_kernel((input_shape[-1], self.units))
        self.unknown = tf.Variable(0.7, dtype="float64")

    def project(self, inputs):
        return matmul(inputs, self.kernel)

    def step(self, projected, states):
        h = ops.tanh(projected + 0.5 * states[0])
        if self.way == "variable":
            h = h * self.unknown
        elif self.way == "print":
            tf.print("", end="")
        else:
            zeros = tf.numpy_function(lambda v: v * 0, [h], h.dtype)
            zeros.set_shape(h.shape)
            h = h + zeros
        return h, [h]


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("variable", "a variable of TensorFlow's, which Keras does not know"),
        ("print", "more than to compute: PrintV2"),
        ("python", "more than to compute: PyFunc"),
    ],
)
def test_what_keras_does_not_know_is_left_to_the_loop(way, reason):
    cell = randomized(OfTensorFlow(3, way, dtype="float64"))
    layers = layers_of(cell, "auto", "loop")
    check(layers, X, "fixed", True)
    asked = cellkit.RNN(cell, dtype="float64", engine="fused")
    with pytest.raises(ValueError, match=reason):
        tf.function(lambda x: asked(x, training=True), autograph=False)(X)
