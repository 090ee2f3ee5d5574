"""Streams: as many calls as a sequence has steps give what one call of the layer gives."""

import threading

import keras
import numpy as np
import pytest
from cell_numbers import random_weights
from three_parts import raised

import cellkit

BACKEND = keras.backend.backend()
TIME, ROWS, FEATURES = 6, 3, 5

rng = np.random.default_rng(7)
X = rng.normal(size=(ROWS, TIME, FEATURES)).astype("float32")


def numbers(tree):
    return [np.array(keras.ops.convert_to_numpy(x)) for x in keras.tree.flatten(tree)]


def nested():
    return cellkit.create("nested", unit_1=3, unit_2=4, unit_3=2)


def image():
    return cellkit.create("conv_lstm", filters=2, kernel_size=3)


CASES = {
    "lstm": (lambda: cellkit.create("lstm", units=4), X),
    "gru": (lambda: cellkit.create("gru", units=4), X),
    "gru without a bias": (lambda: cellkit.create("gru", units=4, use_bias=False), X),
    "layer norm": (lambda: cellkit.create("layer_norm_lstm", units=4), X),
    "counts steps": (lambda: cellkit.create("clockwork", units=4, periods=[1, 2]), X),
    "complex states": (lambda: cellkit.create("lru", units=4), X),
    "stock": (lambda: keras.layers.GRUCell(4), X),
    "stack": (lambda: [keras.layers.LSTMCell(3), cellkit.create("mgu", units=2)], X),
    "images": (image, rng.normal(size=(ROWS, TIME, 5, 6, 2)).astype("float32")),
    "structure": (
        nested,
        (
            rng.normal(size=(ROWS, TIME, 3)).astype("float32"),
            rng.normal(size=(ROWS, TIME, 2, 3)).astype("float32"),
        ),
    ),
}


def made(cell, x, **options):
    layer = cellkit.RNN(cell, return_sequences=True, return_state=True, **options)
    layer(x)
    random_weights(layer.cell, np.random.default_rng(3))
    return layer


def at(x, t):
    return keras.tree.map_structure(lambda v: v[:, t], x)


def stacked(outputs):
    return [np.stack(ys, axis=1) for ys in zip(*map(numbers, outputs), strict=True)]


def same(have, want, exact):
    have, want = numbers(have), numbers(want)
    assert len(have) == len(want)
    for a, b in zip(have, want, strict=True):
        if exact:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("engine", ["auto", "loop"])
@pytest.mark.parametrize("name", CASES)
def test_steps_give_what_one_call_gives(name, engine):
    make, x = CASES[name]
    layer = made(make(), x, engine=engine)
    # TensorFlow's graphs put operations together that an eager call runs one by one.
    exact = BACKEND != "tensorflow" and layer.engine_report().engine == "loop"
    y, *states = layer(x)
    stream = layer.stream(ROWS)
    outputs = [stream(at(x, t)) for t in range(TIME)]
    same(stacked(outputs), y, exact)
    same(stream.states, states, exact)
    stream.reset()
    same(stream(at(x, 0)), outputs[0], exact=True)


@pytest.mark.parametrize("name", ["lstm", "gru", "layer norm", "complex states", "structure"])
def test_a_reset_starts_a_row_anew(name):
    make, x = CASES[name]
    layer = made(make(), x)
    resets = np.zeros((ROWS, TIME), bool)
    resets[1, 2] = resets[2, 4] = True
    y, *states = layer(x, resets=resets)
    stream = layer.stream(ROWS)
    same(stacked([stream(at(x, t), resets=resets[:, t]) for t in range(TIME)]), y, exact=False)
    same(stream.states, states, exact=False)


def test_given_states_are_the_start_and_are_left_alone():
    layer = made(cellkit.create("lstm", units=4), X)
    given = [keras.ops.convert_to_tensor(rng.normal(size=(ROWS, 4)).astype("float32"))] * 2
    before = numbers(given)
    stream = layer.stream(ROWS, initial_state=given)
    y, *states = layer(X, initial_state=given)
    same(stacked([stream(X[:, t]) for t in range(TIME)]), y, exact=False)
    same(given, before, exact=True)
    stream.reset(states)
    same(stream.states, states, exact=True)
    stream(X[:, 0])
    stream.reset()
    same(stream.states, states, exact=True)


def test_results_outlive_later_steps():
    layer = made(cellkit.create("gru", units=4), X)
    stream = layer.stream(ROWS)
    first = stream(X[:, 0]), stream.states
    kept = numbers(first)
    for t in range(1, TIME):
        stream(X[:, t])
    same(first, kept, exact=True)


def test_streams_and_the_layer_share_no_states():
    layer = cellkit.RNN(cellkit.create("lstm", units=4), stateful=True)
    layer(X)
    stored = numbers(layer.states)
    one, two = layer.stream(ROWS), layer.stream(ROWS)
    alone = numbers(layer.stream(ROWS)(X[:, 0]))
    same(one(X[:, 0]), alone, exact=True)
    one(X[:, 1])
    same(two(X[:, 0]), alone, exact=True)
    same(layer.states, stored, exact=True)


def test_a_layer_is_built_by_its_first_step():
    layer = cellkit.RNN(cellkit.create("mgu", units=4))
    stream = layer.stream(ROWS)
    assert stream.states is None
    outputs = [stream(X[:, t]) for t in range(TIME)]
    same(outputs[-1], layer(X), exact=False)


@pytest.mark.parametrize("name", ["gru", "stock", "complex states"])
def test_changes_of_the_weights_and_of_the_cell_are_seen(name):
    make, x = CASES[name]
    layer = made(make(), x)
    stream = layer.stream(ROWS)
    first = numbers(stream(x[:, 0]))
    random_weights(layer.cell, np.random.default_rng(4))
    stream.reset()
    second = numbers(stream(x[:, 0]))
    assert not np.allclose(first[0], second[0])
    same(second, layer(x[:, :1])[0][:, 0], exact=False)
    if name == "gru":
        layer.cell.activation = keras.activations.relu
        stream.reset()
        third = stream(x[:, 0])
        assert not np.allclose(numbers(third)[0], second[0])
        same(third, layer(x[:, :1])[0][:, 0], exact=False)


class Attend(keras.layers.Layer):
    """Adds a constant to its state."""

    state_size = output_size = FEATURES

    def call(self, inputs, states, constants):
        h = keras.ops.tanh(inputs + states[0] * constants[0])
        return h, [h]


def test_constants_are_handed_to_the_cell():
    constants = [rng.normal(size=(ROWS, FEATURES)).astype("float32")]
    layer = cellkit.RNN(Attend(), return_sequences=True)
    y = layer(X, constants=constants)
    stream = layer.stream(ROWS)
    outputs = [stream(X[:, t], constants=constants) for t in range(TIME)]
    same(stacked(outputs), y, exact=False)
    what, *_ = raised(stream, X[:, 0])
    assert what == "Attend needs constants."


def test_other_dtypes_are_those_of_the_layer():
    layer = cellkit.RNN(
        cellkit.create("gru", units=4, dtype="mixed_bfloat16"),
        dtype="mixed_bfloat16",
        return_sequences=True,
    )
    y = layer(X)
    stream = layer.stream(ROWS)
    outputs = [stream(X[:, t].astype("float64")) for t in range(TIME)]
    assert {keras.backend.standardize_dtype(o.dtype) for o in outputs} == {"bfloat16"}
    have = np.stack([numbers(keras.ops.cast(o, "float32"))[0] for o in outputs], 1)
    np.testing.assert_allclose(have, numbers(keras.ops.cast(y, "float32"))[0], atol=0.03)


def test_threads_take_turns():
    layer = made(cellkit.create("lstm", units=4), X)
    steps = [layer.stream(ROWS) for _ in range(4)]
    want = numbers(layer(X)[0])[0]
    results = [None] * len(steps)

    def work(i):
        results[i] = stacked([steps[i](X[:, t]) for t in range(TIME)])[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(steps))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_allclose(result, want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("misuse", "expected"),
    [
        (lambda layer: layer.stream(0), "not a positive integer"),
        (lambda layer: layer.stream(True), "not a positive integer"),
        (lambda layer: layer.stream(2)(X[:, 0]), "another batch size"),
        (lambda layer: layer.stream(ROWS)(X[:, 0, :2]), "built for"),
        (lambda layer: layer.stream(ROWS)(np.float32(1.0)), "another batch size"),
        (lambda layer: layer.stream(ROWS, [np.zeros((ROWS, 3))] * 2), "states"),
        (lambda layer: layer.stream(ROWS)(X[:, 0], resets=np.zeros(2, bool)), "resets"),
        (lambda layer: layer.stream(ROWS)(X[:, 0], resets=np.zeros(ROWS)), "resets"),
        (lambda layer: layer.stream(ROWS)(X[:, 0], constants=[X]), "takes no constants"),
    ],
)
def test_misuse_is_told_in_three_parts(misuse, expected):
    layer = made(cellkit.create("lstm", units=4), X)
    assert expected in " ".join(raised(misuse, layer))


def test_a_stream_is_not_traced():
    layer = made(cellkit.create("lstm", units=4), X)
    stream = layer.stream(ROWS)
    if BACKEND == "jax":
        import jax

        traced = jax.jit(stream)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        traced = tf.function(stream, autograph=False)
    else:
        import torch

        def traced(x):
            return torch.func.vmap(stream)(x[None])

    what, _, _, fix = raised(traced, keras.ops.convert_to_tensor(X[:, 0]))
    assert "traced function" in what and "`layer.step`" in fix
