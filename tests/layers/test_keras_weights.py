"""Weights that Keras' own layers saved, loaded into layers of cellkit: the same outputs."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from three_parts import raised

import cellkit

rng = np.random.default_rng(0)
X = rng.normal(size=(2, 5, 3)).astype("float32")

KINDS = {
    "lstm": (layers.LSTM, layers.LSTMCell),
    "gru": (layers.GRU, layers.GRUCell),
    "simple_rnn": (layers.SimpleRNN, layers.SimpleRNNCell),
}
VARIANTS = [
    ("lstm", {}),
    ("lstm", {"use_bias": False}),
    ("gru", {}),
    ("gru", {"reset_after": False}),
    ("simple_rnn", {"dropout": 0.2}),
]


def close(a, b):
    np.testing.assert_allclose(ops.convert_to_numpy(a), ops.convert_to_numpy(b), atol=1e-5)


def scrambled(model):
    """Give a model random weights, biases above all, so that no two of them are alike."""
    model.set_weights([rng.normal(size=w.shape, scale=0.5) for w in model.get_weights()])
    return model


def one(layer):
    return scrambled(keras.Sequential([keras.Input((5, 3)), layer]))


def ours(kind, units, where, **options):
    if where == "plugin":
        return cellkit.create(kind, units=units, **options)
    return KINDS[kind][1](units, **options)


def save(model, tmp_path, ending):
    path = tmp_path / f"model{ending}"
    model.save_weights(path) if ending == ".weights.h5" else model.save(path)
    return path


@pytest.mark.parametrize("where", ["keras", "plugin"])
@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
@pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=str)
def test_one_layer_from_a_file(tmp_path, kind, options, ending, where):
    model = one(KINDS[kind][0](4, **options))
    layer = cellkit.RNN(ours(kind, 4, where, **options))
    layer.build((None, 5, 3))
    cellkit.load_keras_weights(layer, save(model, tmp_path, ending))
    close(layer(X), model(X))


@pytest.mark.parametrize("where", ["keras", "plugin"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_layer_from_a_layer_or_a_model(kind, where):
    model = one(KINDS[kind][0](4))
    for source in (model, model.layers[0]):
        layer = cellkit.RNN(ours(kind, 4, where))
        layer.build((None, 5, 3))
        cellkit.load_keras_weights(layer, source)
        close(layer(X), model(X))


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_bidirectional(tmp_path, ending):
    model = one(layers.Bidirectional(layers.GRU(4, return_sequences=True)))
    path = save(model, tmp_path, ending)
    layer = cellkit.Bidirectional(
        cellkit.RNN(cellkit.create("gru", units=4), return_sequences=True)
    )
    layer.build((None, 5, 3))
    cellkit.load_keras_weights(layer, path)
    close(layer(X), model(X))
    again = one(cellkit.Bidirectional(cellkit.RNN(layers.GRUCell(4), return_sequences=True)))
    cellkit.load_keras_weights(again, path)
    close(again(X), model(X))


def their_model():
    inner = keras.Sequential(
        [keras.Input((5, 2)), layers.LSTM(2, return_sequences=True), layers.Dense(2)]
    )
    return scrambled(
        keras.Sequential(
            [
                keras.Input((5, 3)),
                layers.LSTM(4, return_sequences=True, dropout=0.1),
                layers.Bidirectional(layers.GRU(3, return_sequences=True)),
                layers.RNN([layers.LSTMCell(2), layers.GRUCell(2)], return_sequences=True),
                layers.SimpleRNN(2, return_sequences=True),
                layers.LayerNormalization(),
                layers.LSTM(2, return_sequences=True),
                inner,
                layers.LSTM(2, return_sequences=True),
                layers.GRU(2),
                layers.Dense(1),
            ]
        )
    )


def our_model():
    def rnn(cell, last=False):
        return cellkit.RNN(cell, return_sequences=not last)

    inner = keras.Sequential(
        [keras.Input((5, 2)), rnn(cellkit.create("lstm", units=2)), layers.Dense(2)]
    )
    return keras.Sequential(
        [
            keras.Input((5, 3)),
            rnn(layers.LSTMCell(4, dropout=0.1)),
            cellkit.Bidirectional(rnn(cellkit.create("gru", units=3))),
            rnn([layers.LSTMCell(2), cellkit.create("gru", units=2)]),
            rnn(cellkit.create("simple_rnn", units=2)),
            layers.LayerNormalization(),
            rnn(cellkit.create("lstm", units=2)),
            inner,
            rnn([layers.LSTMCell(2), layers.GRUCell(2)], last=True),
            layers.Dense(1),
        ]
    )


@pytest.fixture(scope="module")
def trained():
    """Train a model of Keras' layers for a step, so that its files have an optimizer."""
    model = their_model()
    model.compile("adam", "mse")
    model.train_on_batch(X, np.ones((2, 1), "float32"))
    return model


@pytest.mark.parametrize("ending", [".weights.h5", ".keras", ""])
def test_a_model_of_many_layers(tmp_path, ending, trained):
    theirs, mine = trained, our_model()
    source = save(theirs, tmp_path, ending) if ending else theirs
    cellkit.load_keras_weights(mine, source)
    close(mine(X), theirs(X))


def test_a_functional_model(tmp_path):
    def model(make):
        inputs = keras.Input((5, 3))
        a, b = make("lstm", 4)(inputs), make("gru", 4)(inputs)
        return keras.Model(inputs, layers.Dense(2)(layers.concatenate([a, b])))

    theirs = scrambled(model(lambda kind, units: KINDS[kind][0](units)))
    mine = model(lambda kind, units: cellkit.RNN(ours(kind, units, "plugin")))
    cellkit.load_keras_weights(mine, save(theirs, tmp_path, ".weights.h5"))
    close(mine(X), theirs(X))


def test_a_convolutional_layer():
    x = rng.normal(size=(2, 3, 6, 6, 2)).astype("float32")
    theirs = layers.ConvLSTM2D(3, 3, padding="same")
    theirs.build(x.shape)
    theirs.set_weights([rng.normal(size=w.shape, scale=0.3) for w in theirs.get_weights()])
    mine = cellkit.RNN(cellkit.create("conv_lstm", filters=3, kernel_size=3, padding="same"))
    mine.build(x.shape)
    cellkit.load_keras_weights(mine, theirs)
    np.testing.assert_allclose(
        ops.convert_to_numpy(mine.cell.kernel), theirs.get_weights()[0], rtol=1e-6
    )


def test_one_of_several_is_chosen_by_its_name(tmp_path):
    model = scrambled(
        keras.Sequential(
            [
                keras.Input((5, 3)),
                layers.LSTM(3, return_sequences=True, name="lower"),
                layers.LSTM(3, name="upper"),
            ]
        )
    )
    path = save(model, tmp_path, ".weights.h5")
    layer = cellkit.RNN(layers.LSTMCell(3))
    layer.build((None, 5, 3))
    what, received, _, fix = raised(cellkit.load_keras_weights, layer, path)
    assert "Several" in what and "lower" in received and "upper" in received and "name=" in fix
    for name, entry in (("upper", "lstm_1"), ("lower", "lstm")):
        for given in (name, entry):
            cellkit.load_keras_weights(layer, path, name=given)
            want = model.get_layer(name).get_weights()
            close(layer.get_weights()[0], want[0])


# Weights that do not fit -------------------------------------------------------------------------


def built(cell, **options):
    layer = cellkit.RNN(cell, **options)
    layer.build((None, 5, 3))
    return layer


@pytest.mark.parametrize(
    "cell",
    [
        lambda: layers.LSTMCell(5),
        lambda: layers.GRUCell(4),
        lambda: layers.LSTMCell(4, use_bias=False),
        lambda: cellkit.create("simple_rnn", units=4),
    ],
)
def test_weights_that_do_not_fit_leave_a_layer_as_it_was(tmp_path, cell):
    path = save(one(layers.LSTM(4)), tmp_path, ".weights.h5")
    layer = built(cell())
    before = layer.get_weights()
    what, received, expected, fix = raised(cellkit.load_keras_weights, layer, path)
    assert "not found" in what and "lstm" in received and "shapes" in expected and fix
    for a, b in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    layer(X)


def test_models_that_do_not_fit_are_left_as_they_were(tmp_path):
    path = save(their_model(), tmp_path, ".weights.h5")
    for model in (
        one(cellkit.RNN(layers.LSTMCell(5))),
        keras.Sequential([keras.Input((5, 3)), cellkit.RNN(layers.LSTMCell(4)), layers.Dense(7)]),
    ):
        before = model.get_weights()
        raised(cellkit.load_keras_weights, model, path)
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_sources_and_targets_of_another_kind(tmp_path):
    layer = built(layers.LSTMCell(4))
    assert "no weights" in raised(cellkit.load_keras_weights, layer, 3)[0]
    assert "cannot be read" in raised(cellkit.load_keras_weights, layer, tmp_path / "no.h5")[0]
    (tmp_path / "bad.keras").write_text("nothing")
    assert "cannot be read" in raised(cellkit.load_keras_weights, layer, tmp_path / "bad.keras")[0]
    assert "not built" in raised(cellkit.load_keras_weights, layer, layers.LSTM(4))[0]
    theirs = one(layers.LSTM(4))
    what, received, *_ = raised(cellkit.load_keras_weights, cellkit.RNN(layers.LSTMCell(4)), theirs)
    assert "nowhere" in what and "not built" in received
    other = built(cellkit.create("mgu", units=4))
    assert "No layer of Keras" in raised(cellkit.load_keras_weights, other, theirs)[0]
