"""Table C of docs/keras-defects.md: random numbers, updates, losses and layers inside a cell."""

import keras
import numpy as np
import pytest
from defect_classes import (
    RNN,
    Bidirectional,
    gru,
    gru_cell,
    lstm,
    lstm_cell,
    simple_rnn,
    simple_rnn_cell,
)
from defect_tools import (
    BACKEND,
    TanhCell,
    built,
    close,
    compiled,
    data,
    differ,
    loop,
    loss_and_gradients,
    lstm_step,
    model_of,
    npy,
    randomise,
    serializable,
    tanh_step,
)
from keras import layers, ops

ONES = np.ones((2, 4, 64), "float32")


@serializable
class DropoutInside(layers.Layer):
    """Its output is the input after a Dropout layer of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size = 64
        self.output_size = 64
        self.drop = layers.Dropout(0.5, seed=1)

    def call(self, inputs, states, training=False):
        return self.drop(inputs, training=training), [states[0]]


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_c1_dropout_layer_in_a_cell(how, unroll):
    """JAX: one mask for all steps and all calls; under jit a leaked tracer."""
    layer = RNN(DropoutInside(), return_sequences=True, unroll=unroll)
    layer.build(ONES.shape)
    call = compiled(layer, True) if how == "compiled" else lambda x: layer(x, training=True)
    first, second = npy(call(ONES)), npy(call(ONES))
    for y in (first, second):
        assert set(np.unique(y)) == {0.0, 2.0}
        assert 0.35 < (y == 0).mean() < 0.65
        # No two steps share a mask.
        for t in range(3):
            assert differ(y[:, t], y[:, t + 1])
    assert differ(first, second)
    close(layer(ONES, training=False), ONES)


@pytest.mark.parametrize("unroll", [False, True])
def test_c1_dropout_layer_in_a_cell_under_fit(unroll):
    """JAX: UnexpectedTracerError."""
    layer = RNN(DropoutInside(), return_sequences=True, unroll=unroll)
    model = model_of(layer, layers.Dense(1), input_shape=(4, 64))
    history = model.fit(ONES, np.zeros((2, 4, 1)), epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


@serializable
class Wrapper(layers.Layer):
    """Runs another cell and adds its input: what a residual or attention wrapper looks like."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner
        self.state_size = inner.state_size
        self.output_size = inner.output_size

    def build(self, input_shape):
        self.inner.build(input_shape)
        self.built = True

    def get_initial_state(self, batch_size=None):
        return self.inner.get_initial_state(batch_size)

    def call(self, inputs, states, training=False):
        output, states = self.inner(inputs, states, training=training)
        return output + inputs, states


def identity_cell(units=64, **options):
    """A cell whose output is its input after input dropout, and after recurrent dropout."""
    return keras.layers.SimpleRNNCell(
        units,
        activation=None,
        kernel_initializer="identity",
        recurrent_initializer="zeros",
        **options,
    )


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_c2_wrapped_stock_cell_draws_one_mask_per_call(how, depth):
    """TF, Torch eager: the mask of the first call stays for ever; JAX: a leaked tracer."""
    cell = identity_cell(dropout=0.5)
    for _ in range(depth):
        cell = Wrapper(cell)
    layer = RNN(cell, return_sequences=True)
    layer.build(ONES.shape)
    call = compiled(layer, True) if how == "compiled" else lambda x: layer(x, training=True)
    first, second = npy(call(ONES)) - depth, npy(call(ONES)) - depth
    for y in (first, second):
        assert set(np.unique(y)) == {0.0, 2.0}
        for t in range(1, 4):
            close(y[:, t], y[:, 0])
    assert differ(first, second)
    close(layer(ONES, training=False), ONES * (depth + 1))


def test_c2_wrapped_stock_cell_with_a_smaller_batch():
    """TF, Torch: the stale mask does not fit the last, smaller batch."""
    layer = RNN(Wrapper(lstm_cell(8, dropout=0.5, recurrent_dropout=0.5)))
    built(layer, None, 5, 8)
    x = data(4, 5, 8)
    assert npy(layer(x, training=True)).shape == (4, 8)
    small = npy(layer(x[:3], training=True))
    assert small.shape == (3, 8)
    assert differ(small, npy(layer(x[:3], training=True)))


def test_c2_wrapped_stock_cell_under_fit():
    """JAX: a leaked tracer."""
    layer = RNN(Wrapper(lstm_cell(8, dropout=0.5, recurrent_dropout=0.5)))
    model = model_of(layer, input_shape=(5, 8))
    history = model.fit(data(6, 5, 8), np.zeros((6, 8)), batch_size=4, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


@serializable
class Noise(layers.Layer):
    """Its output is noise, from a generator of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size = 8
        self.output_size = 8
        self.generator = keras.random.SeedGenerator(3)

    def call(self, inputs, states):
        return keras.random.normal(ops.shape(inputs), seed=self.generator), [states[0]]


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("how", ["eager", "compiled", "predict"])
def test_c3_noise_in_a_cell(how, unroll):
    """TF, Torch: T+1 draws; JAX: the same noise at all steps and calls, a leaked tracer in fit."""
    layer = RNN(Noise(), return_sequences=True, unroll=unroll)
    model = keras.Sequential([keras.Input((4, 8)), layer])
    x = np.ones((2, 4, 8), "float32")
    run = compiled(layer)
    call = {
        "eager": lambda: layer(x),
        "compiled": lambda: run(x),
        "predict": lambda: model.predict(x, verbose=0),
    }[how]
    generator = keras.random.SeedGenerator(3)
    draws = [npy(keras.random.normal((2, 8), seed=generator)) for _ in range(8)]
    # Exactly one draw per step, in order, and the second call goes on where the first stopped.
    close(call(), np.stack(draws[:4], 1), 1e-6)
    close(call(), np.stack(draws[4:], 1), 1e-6)
    close(layer.cell.generator.state, npy(generator.state))


@serializable
class Counter(layers.Layer):
    """Counts its steps in a variable."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size = 3
        self.output_size = 3

    def build(self, input_shape):
        self.steps = self.add_weight(shape=(), initializer="zeros", trainable=False, name="steps")
        self.built = True

    def call(self, inputs, states):
        self.steps.assign_add(1.0)
        return inputs + states[0], [inputs + states[0]]


COUNTED = {
    "loop": lambda: RNN(Counter()),
    "sequences": lambda: RNN(Counter(), return_sequences=True),
    "unroll": lambda: RNN(Counter(), unroll=True),
    "stack": lambda: RNN([Counter(), Counter()]),
    "backwards": lambda: RNN(Counter(), go_backwards=True),
}


def counts(layer):
    return [float(npy(c.steps)) for c in getattr(layer.cell, "cells", [layer.cell])]


@pytest.mark.parametrize("time", [1, 4])
@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_c4_a_step_happens_once(how, name, time):
    """TF, Torch: T+1 updates, T+2 in a stack; JAX: none."""
    layer = COUNTED[name]()
    layer.build((2, time, 3))
    x = data(2, time, 3)
    call = layer if how == "eager" else compiled(layer)
    assert set(counts(layer)) == {0}
    call(x)
    assert set(counts(layer)) == {time}
    call(x)
    assert set(counts(layer)) == {2 * time}


@pytest.mark.parametrize("name", ["loop", "unroll", "stack"])
def test_c4_a_step_happens_once_under_fit_and_predict(name):
    """TF, Torch: T+1 updates, T+2 in a stack; JAX: a leaked tracer."""
    layer = COUNTED[name]()
    model = model_of(layer, layers.Dense(1), input_shape=(4, 3))
    x = data(4, 4, 3)
    assert set(counts(layer)) == {0}
    model.fit(x, np.zeros((4, 1)), batch_size=2, verbose=0)
    assert set(counts(layer)) == {8}
    model.predict(x, batch_size=2, verbose=0)
    assert set(counts(layer)) == {16}


def test_c4_a_masked_step_happens_too():
    """TF, Torch: T+1 updates; JAX: none. The mask is about rows, the step about the batch."""
    layer = RNN(Counter())
    layer.build((2, 4, 3))
    layer(data(2, 4, 3), mask=np.array([[1, 1, 0, 0], [1, 1, 1, 0]], bool))
    assert counts(layer) == [4]


def test_c4_bidirectional():
    """TF, Torch: T+1 updates in each direction; JAX: none."""
    layer = Bidirectional(RNN(Counter()))
    layer.build((2, 4, 3))
    layer(data(2, 4, 3))
    assert counts(layer.forward_layer) == counts(layer.backward_layer) == [4]


@serializable
class Normalised(layers.Layer):
    """Its output is its input after batch normalisation."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size = 3
        self.output_size = 3
        self.norm = layers.BatchNormalization(momentum=0.5)

    def build(self, input_shape):
        self.norm.build(input_shape)
        self.built = True

    def call(self, inputs, states, training=False):
        return self.norm(inputs, training=training), [states[0]]


@pytest.mark.parametrize("how", ["eager", "fit"])
@pytest.mark.parametrize("unroll", [False, True])
def test_c5_batch_normalisation_in_a_cell(how, unroll):
    """TF, Torch: one update too many; JAX: crash."""
    layer = RNN(Normalised(), unroll=unroll)
    model = model_of(layer, input_shape=(4, 3), batch_size=8, optimizer=keras.optimizers.SGD(0.0))
    x = data(8, 4, 3) + 10
    if how == "fit":
        model.fit(x, np.zeros((8, 3)), batch_size=8, verbose=0)
    else:
        layer(x, training=True)
    mean, variance = np.zeros(3), np.ones(3)
    for t in range(4):
        mean = 0.5 * mean + 0.5 * x[:, t].mean(0)
        variance = 0.5 * variance + 0.5 * x[:, t].var(0)
    close(layer.cell.norm.moving_mean, mean, 1e-4)
    close(layer.cell.norm.moving_variance, variance, 1e-4)
    layer(x, training=False)
    close(layer.cell.norm.moving_mean, mean, 1e-4)


@serializable
class Penalised(TanhCell):
    """Adds a loss at every step."""

    def call(self, inputs, states):
        h, new = super().call(inputs, states)
        self.add_loss(ops.mean(ops.square(h)))
        return h, new


@pytest.mark.parametrize("unroll", [False, True])
def test_c6_add_loss_counts_every_step_once(unroll):
    """TF, Torch: T+1 losses; JAX: none."""
    layer = built(RNN(Penalised(4), unroll=unroll), 2, 4, 3)
    x = data(2, 4, 3)
    sequence, _, _ = loop(tanh_step(layer.cell), x, [np.zeros((2, 4))])
    expected = np.mean(sequence**2, axis=(0, 2)).sum()
    for _ in range(2):  # the second call replaces the losses of the first
        layer(x)
        close(sum(layer.losses), expected)


def test_c6_add_loss_in_a_stack():
    """TF, Torch: too many losses; JAX: none."""
    layer = built(RNN([Penalised(4), Penalised(3)]), 2, 4, 3)
    x = data(2, 4, 3)
    lower, upper = layer.cell.cells
    low, _, _ = loop(tanh_step(lower), x, [np.zeros((2, 4))])
    high, _, _ = loop(tanh_step(upper), low, [np.zeros((2, 3))])
    layer(x)
    close(sum(layer.losses), sum(np.mean(s**2, axis=(0, 2)).sum() for s in (low, high)))


@pytest.mark.parametrize("unroll", [False, True])
def test_c6_add_loss_trains(unroll):
    """TF, JAX: fit crashes; Torch: T+1 losses."""
    layer = RNN(Penalised(4), unroll=unroll)
    model = randomise(model_of(layer, input_shape=(4, 3), batch_size=2))
    x, y = data(2, 4, 3), data(2, 4, seed=1)
    cell = layer.cell

    def loss():
        h, total = ops.zeros((2, 4)), 0.0
        for t in range(4):
            h, _ = TanhCell.call(cell, ops.convert_to_tensor(x[:, t]), [h])
            total += ops.mean(ops.square(h))
        return total + ops.mean(ops.square(h - ops.convert_to_tensor(y)))

    before, grads = loss_and_gradients(loss, layer.trainable_variables)
    expected = [npy(v) - 0.1 * g for v, g in zip(layer.trainable_variables, grads, strict=True)]
    history = model.fit(x, y, batch_size=2, verbose=0)
    close(np.float32(history.history["loss"][0]), before)
    close(layer.trainable_variables, expected)


@serializable
class Unbuilt(layers.Layer):
    """Has a layer inside and no `build`: the most common way to write a cell."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.state_size = units
        self.output_size = units
        self.dense = layers.Dense(units, activation="tanh")

    def call(self, inputs, states):
        h = self.dense(ops.concatenate([inputs, states[0]], axis=-1))
        return h, [h]


def test_c7_layers_inside_a_cell_are_built_with_the_model():
    """All backends: no weights until the first real call."""
    model = model_of(RNN(Unbuilt()), input_shape=(5, 3))
    assert [tuple(v.shape) for v in model.trainable_weights] == [(7, 4), (4,)]
    randomise(model)
    kernel, bias = (npy(v).astype("float64") for v in model.trainable_weights)

    def step(x, states):
        h = np.tanh(np.concatenate([x, states[0]], -1) @ kernel + bias)
        return h, [h]

    x = data(2, 5, 3)
    _, last, _ = loop(step, x, [np.zeros((2, 4))])
    close(model.predict(x, verbose=0), last)
    model.fit(x, np.ones((2, 4)), verbose=0)
    for old, v in zip((kernel, bias), model.trainable_weights, strict=True):
        assert differ(old, npy(v), 1e-5)


@pytest.mark.parametrize("wrapped", [False, True])
def test_c7_layers_inside_a_cell_are_saved(tmp_path, wrapped):
    """All backends: '1 objects could not be loaded'."""
    layer = RNN(Unbuilt())
    model = keras.Sequential([keras.Input((5, 3)), Bidirectional(layer) if wrapped else layer])
    randomise(model)
    x = data(2, 5, 3)
    expected = npy(model(x))
    model.save(tmp_path / "model.keras")
    close(keras.models.load_model(tmp_path / "model.keras")(x), expected)


def test_c8_an_exception_leaves_no_dropout_mask_behind():
    """All backends: the mask of the failed call stays, and the next correct call fails."""
    layer = built(lstm(4, dropout=0.5, recurrent_dropout=0.5), None, 5, 3)
    x = data(2, 5, 3)
    layer(x, training=True)
    with pytest.raises(Exception):  # noqa: B017 - its type is another test's business
        layer(data(3, 5, 3), initial_state=[np.zeros((3, 7), "float32")] * 2, training=True)
    assert npy(layer(x, training=True)).shape == (2, 4)
    assert differ(npy(layer(x, training=True)), npy(layer(x, training=True)))


class Failing(TanhCell):
    """Fails on demand, after its dropout mask is drawn."""

    fail = False

    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.inner = simple_rnn_cell(units, dropout=0.5)

    def build(self, input_shape):
        super().build(input_shape)
        self.inner.build(input_shape)

    def call(self, inputs, states, training=False):
        output, states = self.inner(inputs, states, training=training)
        if self.fail:
            raise RuntimeError("the cell fails")
        return output, states


def test_c8_a_failing_cell_leaves_no_dropout_mask_behind():
    """All backends: the mask stays for ever."""
    layer = built(RNN(Failing(4)), None, 5, 3)
    layer.cell.fail = True
    with pytest.raises(RuntimeError):
        layer(data(3, 5, 3), training=True)
    layer.cell.fail = False
    assert npy(layer(data(2, 5, 3), training=True)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "masked"),
    [("lstm", True), ("gru", False), ("simple_rnn", False), ("stack", False)],
)
def test_c9_inference_draws_no_random_numbers(name, masked):
    """All backends: every mask is drawn, in the graph too; Torch: from its global generator."""
    options = {"dropout": 0.2, "recurrent_dropout": 0.2}
    layer = {
        "lstm": lambda: lstm(4, **options),
        "gru": lambda: gru(4, **options),
        "simple_rnn": lambda: simple_rnn(4, **options),
        "stack": lambda: RNN([lstm_cell(4, **options), gru_cell(4, **options)]),
    }[name]()
    built(layer, 2, 5, 3)
    x = ops.convert_to_tensor(data(2, 5, 3))
    mask = ops.convert_to_tensor(np.ones((2, 5), bool)) if masked else None
    cells = getattr(layer.cell, "cells", [layer.cell])
    before = [npy(c.seed_generator.state) for c in cells]
    layer(x, mask=mask, training=False)
    close([c.seed_generator.state for c in cells], before)
    if BACKEND == "torch":
        import torch

        state = torch.get_rng_state()
        layer(x, mask=mask, training=False)
        assert torch.equal(state, torch.get_rng_state())
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        function = tf.function(lambda x, mask: layer(x, mask=mask, training=False))
        graph = function.get_concrete_function(x, mask).graph.as_graph_def()
        nodes = [n.op for n in graph.node]
        nodes += [n.op for f in graph.library.function for n in f.node_def]
        assert "While" in nodes or "StatelessWhile" in nodes
        assert not [n for n in nodes if "Random" in n]
    else:
        import jax

        def function(x):
            return layer.stateless_call(
                [v.value for v in layer.trainable_variables],
                [v.value for v in layer.non_trainable_variables],
                x,
                mask=mask,
                training=False,
            )[0]

        text = str(jax.make_jaxpr(function)(x))
        assert "tanh" in text
        assert "random" not in text and "threefry" not in text


@pytest.mark.parametrize("recurrent_dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_c10_implementation_1_with_dropout(name, recurrent_dropout):
    """All backends: crash, a list of masks is expanded as if it were one."""
    make = {"lstm": lstm, "gru": gru}[name]
    layer = make(4, dropout=0.5, recurrent_dropout=recurrent_dropout, implementation=1)
    built(layer, 2, 5, 3)
    x = data(2, 5, 3)
    first, second = npy(layer(x, training=True)), npy(layer(x, training=True))
    assert differ(first, second)
    reference = built(make(4), 2, 5, 3)
    close(layer(x, training=False), npy(reference(x)))


def test_c11_directions_draw_independent_masks():
    """All backends: both directions of a seeded layer get the same masks."""
    layer = RNN(identity_cell(dropout=0.5, seed=7), return_sequences=True)
    layer = Bidirectional(layer, merge_mode=None)
    layer.build(ONES.shape)
    forward, backward = npy(layer(ONES, training=True))
    assert set(np.unique(forward)) == set(np.unique(backward)) == {0.0, 2.0}
    # Half of the 128 numbers differ on average; identical masks differ nowhere.
    assert 0.3 < (forward[:, 0] != backward[:, 0]).mean() < 0.7


def test_c11_seeded_directions_are_repeatable():
    """Keras is right here: the same seed gives the same model, drawn again."""

    def run():
        layer = Bidirectional(RNN(identity_cell(dropout=0.5, seed=7)))
        layer.build(ONES.shape)
        return npy(layer(ONES, training=True))

    first = run()
    keras.utils.set_random_seed(1)
    close(run(), first)


def test_c11_the_seed_is_saved():
    """All backends: `SimpleRNN.get_config` drops it."""
    layer = simple_rnn(4, seed=3)
    assert type(layer).from_config(layer.get_config()).cell.seed == 3


@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_c12_input_dropout_of_a_stock_cell(how):
    """Keras is right here: constant over time, fresh in each call, at the right rate."""
    layer = RNN(identity_cell(256, dropout=0.25), return_sequences=True)
    x = np.ones((2, 4, 256), "float32")
    layer.build(x.shape)
    call = compiled(layer, True) if how == "compiled" else lambda x: layer(x, training=True)
    first, second = npy(call(x)), npy(call(x))
    for y in (first, second):
        np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
        for t in range(1, 4):
            close(y[:, t], y[:, 0])
        # 512 draws: the bounds are about 5 standard deviations away.
        assert 0.15 < (y[:, 0] == 0).mean() < 0.35
        assert differ(y[0], y[1])
    assert differ(first, second)


@pytest.mark.parametrize("name", ["lstm", "gru", "simple_rnn"])
@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_c12_recurrent_dropout_of_a_stock_cell(how, name):
    """Keras is right here: active in training, fresh in each call, off at inference."""
    make = {"lstm": lstm, "gru": gru, "simple_rnn": simple_rnn}[name]
    layer = built(make(8, recurrent_dropout=0.5), 2, 5, 3)
    x = data(2, 5, 3)
    call = compiled(layer, True) if how == "compiled" else lambda x: layer(x, training=True)
    inference = npy(layer(x))
    first, second = npy(call(x)), npy(call(x))
    assert differ(first, inference) and differ(first, second)
    if name == "lstm":
        _, last, _ = loop(lstm_step(layer.cell), x, [np.zeros((2, 8))] * 2)
        close(inference, last)
