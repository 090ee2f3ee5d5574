"""Compiled functions on JAX: made anew after every change, and at no other time."""

import functools
import gc
import types
import weakref

import keras
import numpy as np
import pytest
from keras import ops

import cellkit
from cellkit.cells import matmul

if keras.backend.backend() != "jax":
    pytest.skip("functions are compiled on JAX", allow_module_level=True)

X = np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")


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
        self.table = {"gains": [np.ones(2, "float32")]}
        self.space = types.SimpleNamespace(factor=1.0)
        self._private = 1.0
        self.part = functools.partial(ops.multiply, 1.0)
        self.scale = Scale(1.0)
        self.inner = keras.layers.Dense(units, activation=lambda x: x)

    def build(self, shape):
        super().build(shape)
        self.inner.build((None, self.units))

    def project(self, inputs):
        return 0.5 * inputs

    def step(self, projected, states):
        h = ops.tanh(self.scale(self.part(self.inner(projected + states[0]))))
        factor = self.scales[0] * self.table["gains"][0][0] * self.space.factor * self._private
        return factor * h, [factor * h]


def in_place(cell):
    cell.table["gains"][0][0] = 0.5


CHANGES = {
    "a tuple": lambda cell: setattr(cell, "scales", (0.5, 2.0)),
    "an array in place": in_place,
    "a list in place": lambda cell: cell.table["gains"].insert(0, np.full(2, 0.5, "float32")),
    "a namespace": lambda cell: setattr(cell.space, "factor", 0.5),
    "a private number": lambda cell: setattr(cell, "_private", 0.5),
    "a partial": lambda cell: setattr(cell, "part", functools.partial(ops.multiply, 0.5)),
    "an object": lambda cell: setattr(cell.scale, "factor", 0.5),
    "a layer's activation": lambda cell: setattr(cell.inner, "activation", ops.sin),
    "a layer": lambda cell: setattr(cell, "inner", lambda x: 0.5 * x),
    "a method": lambda cell: setattr(cell, "step", lambda x, s: (0.5 * x, [x])),
    "the call": lambda cell: setattr(cell, "call", lambda x, s, training=False: (0.5 * x, s)),
}


@pytest.fixture
def traces(monkeypatch):
    """Count how often a loop is traced for compilation."""
    from cellkit.engines.jax import loop

    seen = []
    traced = loop._Function._traced

    def count(self, *arguments):
        seen.append(self)
        return traced(self, *arguments)

    monkeypatch.setattr(loop._Function, "_traced", count)
    return seen


@pytest.mark.parametrize("engine", ["loop", "projected", "fused"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_cell_is_noticed(change, engine):
    if engine in ("projected", "fused") and change == "the call":
        pytest.skip("refused for a cell with a call of its own")
    cell = Scaled(4)
    layer = cellkit.RNN(cell, engine=engine)
    before = np.asarray(layer(X))
    CHANGES[change](cell)
    after = np.asarray(layer(X))
    want = np.asarray(cellkit.RNN(cell, engine=engine)(X))
    np.testing.assert_array_equal(after, want)
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("option", ["go_backwards", "return_sequences", "zero_output_for_mask"])
def test_a_change_of_an_option_is_noticed(option):
    cell = cellkit.create("lstm", units=4)
    options = {"return_sequences": option == "zero_output_for_mask"}
    layer = cellkit.RNN(cell, **options)
    mask = np.arange(6) < np.array([[6], [3], [1]])
    layer(X, mask=mask)
    setattr(layer, option, True)
    want = cellkit.RNN(cell, **{**options, option: True})(X, mask=mask)
    np.testing.assert_array_equal(np.asarray(layer(X, mask=mask)), np.asarray(want))


def test_what_did_not_change_is_not_traced_again(traces):
    cell = Scaled(4)
    layer = cellkit.RNN(cell, return_sequences=True)
    for _ in range(3):
        layer(X)
        cell.inner.kernel.assign(0.5 * cell.inner.kernel.value)
    assert len(traces) == 1
    layer(X[:, :4])
    layer(X)
    assert len(traces) == 2


def test_functions_of_what_was_changed_are_not_kept(traces):
    cell = Scaled(4)
    layer = cellkit.RNN(cell)
    for factor in (1.0, 0.5, 0.25):
        cell.space.factor = factor
        layer(X)
    assert len(traces) == 3
    first = weakref.ref(traces[0])
    traces.clear()
    gc.collect()
    assert first() is None


class ByRows(cellkit.Cell):
    """Multiplies with another kernel where the batch has another size."""

    def build(self, shape):
        super().build(shape)
        self.kernels = [self.add_kernel((self.units, self.units)) for _ in range(2)]

    def project(self, inputs):
        return 0.5 * inputs

    def step(self, projected, states):
        h = ops.tanh(projected + matmul(states[0], self.kernels[projected.shape[0] % 2]))
        return h / projected.shape[0], [h]


def test_a_step_may_be_another_one_for_other_numbers_of_rows():
    cell = ByRows(4)
    layers = [cellkit.RNN(cell, engine=engine) for engine in ("fused", "loop")]
    for rows in (3, 2, 3, 1):
        have, want = (np.asarray(layer(X[:rows])) for layer in layers)
        np.testing.assert_allclose(have, want, atol=1e-6)
