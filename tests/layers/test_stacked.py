"""Stacks of cells against one layer after the other."""

import keras
import numpy as np
import pytest
from keras import ops, tree
from three_parts import raised

import cellkit

MASK = np.array([[1, 1, 0, 1], [0, 1, 1, 1], [1, 0, 0, 0]], bool)


def npy(x):
    return tree.map_structure(lambda t: np.array(ops.convert_to_numpy(t)), x)


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def cells():
    return [
        keras.layers.LSTMCell(3),
        cellkit.create("gru", units=4),
        keras.layers.SimpleRNNCell(2),
    ]


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
@pytest.mark.parametrize("unroll", [False, True])
def test_a_stack_is_layers_one_after_the_other(mask, unroll):
    stack = cellkit.RNN(cells(), return_sequences=True, return_state=True, unroll=unroll)
    x = data(3, 4, 5)
    y, *states = stack(x, mask=mask)
    want, finals = x, []
    for cell in stack.cell.cells:
        layer = cellkit.RNN(cell, return_sequences=True, return_state=True)
        want, *final = layer(want, mask=mask)
        finals.extend(final)
    for a, b in zip(tree.flatten([y, *states]), [want, *finals], strict=True):
        np.testing.assert_allclose(npy(a), npy(b), rtol=1e-5, atol=1e-6)


def test_states_stand_as_each_cell_declares_them():
    layer = cellkit.RNN(cells(), return_state=True)
    _, first, second, third = layer(data(2, 3, 5))
    assert [tuple(s.shape) for s in first] == [(2, 3), (2, 3)]
    assert tuple(second.shape) == (2, 4)
    assert tuple(third.shape) == (2, 2)
    assert layer.cell.state_size == [[3, 3], 4, 2]


@pytest.mark.parametrize("unroll", [False, True, 2])
def test_a_stack_of_one_is_the_cell(unroll):
    cell, x = keras.layers.LSTMCell(3), data(3, 4, 5)
    alone = cellkit.RNN(cell, return_state=True, unroll=unroll)
    stack = cellkit.RNN([cell], return_state=True, unroll=unroll)
    for a, b in zip(tree.flatten(alone(x)), tree.flatten(stack(x)), strict=True):
        np.testing.assert_allclose(npy(a), npy(b), rtol=1e-6)


def test_stacks_nest():
    inner = cellkit.StackedCells(cells()[:2])
    layer = cellkit.RNN(cellkit.StackedCells([inner, keras.layers.GRUCell(2)]), return_state=True)
    y, first, second = layer(data(3, 4, 5), mask=MASK)
    assert tree.map_structure(lambda s: tuple(s.shape), first) == [[(3, 3), (3, 3)], (3, 4)]
    again = layer(data(3, 4, 5), mask=MASK, initial_state=[first, second])
    assert tuple(again[0].shape) == tuple(y.shape)


def test_masks_of_dropout_are_constant_over_time_in_a_stack():
    stack = [
        cellkit.create("simple_rnn", units=16, dropout=0.5, activation="linear", use_bias=False),
        cellkit.create("simple_rnn", units=16, dropout=0.5, activation="linear", use_bias=False),
    ]
    layer = cellkit.RNN(stack, return_sequences=True)
    x = np.ones((2, 5, 16), "float32")
    layer.build(x.shape)
    layer.set_weights([np.eye(16), np.zeros((16, 16))] * 2)
    y = npy(layer(x, training=True))
    assert np.all(y == y[:, :1])
    assert 0 < (y > 0).mean() < 0.6
    assert np.any(npy(layer(x, training=True)) != y)


def test_a_stack_is_saved_and_loaded(tmp_path):
    i = keras.Input((None, 5))
    model = keras.Model(i, cellkit.RNN(cells())(i))
    model.save(tmp_path / "stack.keras")
    x = data(3, 4, 5)
    loaded = keras.saving.load_model(tmp_path / "stack.keras")
    np.testing.assert_array_equal(npy(loaded(x)), npy(model(x)))


def test_the_stack_of_a_mixed_precision_layer_is_mixed_too():
    layer = cellkit.RNN(
        [cellkit.create("lstm", units=3, dtype="mixed_float16"), keras.layers.GRUCell(2)],
        dtype="mixed_float16",
    )
    assert layer.cell.compute_dtype == "float16"
    y = layer(data(3, 4, 5), mask=MASK)
    assert keras.backend.standardize_dtype(y.dtype) == "float16"


def test_what_is_no_cell_is_told():
    told = raised(lambda: cellkit.StackedCells([keras.layers.LSTMCell(3), "gru"]))
    assert told[0] == "A name is not a cell."
    assert raised(lambda: cellkit.StackedCells([]))[1] == "cells=[]"
