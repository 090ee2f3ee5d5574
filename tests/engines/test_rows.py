"""Parts of a step that are computed for all steps at once, as each step would compute them."""

import keras
import numpy as np
import pytest
from keras import ops

import cellkit
from cellkit import engines
from cellkit.cells import matmul

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")


class Rows:
    """A cell whose `project` mixes rows, or computes with their number, but for the way "rows".

    Args:
        units: Number of units.
        way: Its name.
    """

    def __init__(self, units, way="rows", **kwargs):
        super().__init__(units, **kwargs)
        self.way = way

    def build(self, input_shape):
        super().build(input_shape)
        self.kernel = self.add_kernel((input_shape[-1], self.units))

    def project(self, inputs):
        x = inputs
        if self.way == "shape":
            x = x / x.shape[0]
        elif self.way == "length":
            x = x * (1.0 if len(x) > 3 else 0.5)
        elif self.way == "size":
            x = x / ops.cast(ops.shape(x)[0], x.dtype)
        elif self.way == "mean":
            x = x - ops.mean(x, axis=0, keepdims=True)
        elif self.way == "flip":
            x = ops.flip(x, axis=0)
        elif self.way == "first":
            x = x + x[:1]
        return matmul(x, self.kernel)


class Mixing(Rows, cellkit.Cell):
    def step(self, projected, states):
        h = ops.tanh(projected + 0.5 * states[0])
        return h, [h]


class Linear(Rows, cellkit.LinearCell):
    """The same with a linear recurrence, whose output mixes rows in the way "read"."""

    def coefficients(self, projected):
        return ops.sigmoid(projected), projected

    def read(self, states, projected):
        return states[0] - ops.mean(states[0], axis=0) if self.way == "read" else states[0]


def outcome(cell, engine, compiled):
    layer = cellkit.RNN(cell, return_sequences=True, engine=engine)
    layer.build(X.shape)
    rng = np.random.default_rng(1)
    for v in layer.trainable_variables:
        v.assign(rng.normal(size=v.shape))

    def call(x):
        return layer(x, training=True)

    if compiled and BACKEND == "jax":
        import jax

        call = jax.jit(call)
    elif compiled and BACKEND == "tensorflow":
        import tensorflow as tf

        call = tf.function(call, autograph=False)
    y = ops.convert_to_numpy(call(ops.convert_to_tensor(X)))
    return y, layer.engine_report().engine


WAYS = ("shape", "length", "size", "mean", "flip", "first")


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("way", [*WAYS, "read"])
@pytest.mark.parametrize("kind", [Mixing, Linear])
def test_a_cell_that_mixes_rows_is_left_to_the_loop(kind, way, compiled):
    if way == "length" and compiled and BACKEND == "tensorflow":
        pytest.skip("tensors of a graph have no length")
    want, _ = outcome(kind(3, way), "loop", compiled)
    mixes = way != "read" or kind is Linear
    for engine in ("auto", "projected", "fused", "scan"):
        try:
            have, ran = outcome(kind(3, way), engine, compiled)
        except ValueError as error:
            if engine == "auto" or "cannot run this layer" not in str(error):
                raise
            continue
        np.testing.assert_allclose(have, want, rtol=2e-5, atol=2e-6, err_msg=engine)
        assert ran == "loop" or not mixes


@pytest.mark.parametrize("engine", ["projected", "scan"])
def test_a_cell_that_does_not_is_run_at_once(engine):
    assert engine in engines.ENGINES
    kind = Linear if engine == "scan" else Mixing
    want, _ = outcome(kind(3), "loop", False)
    have, ran = outcome(kind(3), engine, False)
    assert ran == engine
    np.testing.assert_allclose(have, want, rtol=2e-5, atol=2e-6)


class Relative(Mixing):
    """A cell whose step sees all rows, those of masked steps too."""

    def step(self, projected, states):
        z = projected + 0.3
        h = ops.tanh(z - ops.max(z, axis=0, keepdims=True) + 0.5 * states[0])
        return h, [h]


@pytest.mark.parametrize("engine", ["auto", "projected", "fused"])
def test_a_step_sees_the_same_padding_with_every_engine(engine):
    mask = np.array([[1, 1, 0, 1, 0, 1], [0, 1, 1, 1, 1, 0], [1, 0, 0, 1, 1, 1]], bool)
    found = []
    for name in ("loop", engine):
        layer = cellkit.RNN(Relative(3), return_sequences=True, engine=name)
        layer.build(X.shape)
        layer.cell.kernel.assign(np.random.default_rng(1).normal(size=(4, 3)))
        try:
            found.append(ops.convert_to_numpy(layer(X, mask=mask, training=True)))
        except ValueError as error:
            if engine != "fused" or "cannot run this layer" not in str(error):
                raise
            return
    np.testing.assert_allclose(found[1], found[0], rtol=2e-5, atol=2e-6)
