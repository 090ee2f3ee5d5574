"""Files, policies and training of every cell of these families."""

import keras
import numpy as np
import pytest
from against_reference import B, T, draw, map_structure, randomise, to_numpy, valid

import cellkit

CELLS = ("mgu", "ugrnn", "gru_d", "clockwork", "scrn", "conv_rnn", "conv_lstm", "conv_gru", "cfc")


def inputs_of(name, rng):
    spec = cellkit.get(name).spec
    inputs = valid(name, draw(spec.inputs, dict(spec.dims), rng))
    return map_structure(lambda x: x.astype("float32"), inputs)


def model_of(name, case, x):
    """Return a model of one layer with random weights."""
    found = cellkit.get(name)
    if isinstance(x, dict):
        inputs = {key: keras.Input(value.shape[1:], name=key) for key, value in x.items()}
    else:
        inputs = map_structure(lambda value: keras.Input(value.shape[1:]), x)
    cell = found.cls(**found.spec.cases[case])
    model = keras.Model(inputs, cellkit.RNN(cell, return_sequences=True)(inputs))
    randomise(cell, np.random.default_rng(8))
    return model


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("name", "case"),
    [
        *((name, "default") for name in CELLS),
        ("mgu", "flax"),
        ("gru_d", "mean"),
        ("clockwork", "slowest_first"),
        ("scrn", "widths"),
        ("conv_rnn", "dilated"),
        ("conv_lstm", "peepholes"),
        ("conv_gru", "reset_before"),
        ("cfc", "pure"),
        ("cfc", "deep"),
    ],
)
def test_a_saved_model_computes_the_same(name, case, tmp_path):
    x = inputs_of(name, np.random.default_rng(1))
    model = model_of(name, case, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded(x)), to_numpy(model(x)))
    config = model.layers[-1].cell.get_config()
    assert loaded.layers[-1].cell.get_config() == config


@pytest.mark.one_backend
@pytest.mark.parametrize("name", CELLS)
def test_mixed_precision_computes_in_bfloat16(name):
    x = inputs_of(name, np.random.default_rng(2))
    found = cellkit.get(name)
    options = found.spec.cases["default"]
    exact = cellkit.RNN(found.cls(**options), return_sequences=True)
    want = to_numpy(exact(x))
    cell = found.cls(**options, dtype="mixed_bfloat16")
    mixed = cellkit.RNN(cell, return_sequences=True, dtype="mixed_bfloat16")
    mixed.build(map_shapes(x))
    mixed.set_weights(exact.get_weights())
    output = mixed(x)
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    assert {v.dtype for v in cell.trainable_variables} == {"float32"}
    got = to_numpy(keras.ops.cast(output, "float32"))
    np.testing.assert_allclose(got, want, atol=0.1)


def map_shapes(x):
    if isinstance(x, dict):
        return {key: value.shape for key, value in x.items()}
    return tuple(value.shape for value in x) if isinstance(x, tuple) else x.shape


@pytest.mark.one_backend
@pytest.mark.parametrize("name", CELLS)
def test_every_weight_that_trains_gets_a_gradient(name):
    x = inputs_of(name, np.random.default_rng(3))
    # Every block of the clockwork cell has to tick twice: its recurrent kernel meets zeros first.
    model = model_of(name, "slowest_first" if name == "clockwork" else "default", x)
    target = np.random.default_rng(4).normal(size=(B, T, *model.output_shape[2:]))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = [to_numpy(v) for v in model.trainable_variables]
    loss = model.train_on_batch(x, target.astype("float32"))
    assert np.isfinite(loss)
    for variable, old in zip(model.trainable_variables, before, strict=True):
        assert np.isfinite(to_numpy(variable)).all()
        assert np.abs(to_numpy(variable) - old).max() > 0, variable.path


@pytest.mark.one_backend
@pytest.mark.parametrize("name", CELLS)
def test_dropout_is_random_in_training_only(name):
    x = inputs_of(name, np.random.default_rng(6))
    model = model_of(name, "dropout", x)
    layer = model.layers[-1]
    first, second = to_numpy(layer(x, training=True)), to_numpy(layer(x, training=True))
    assert np.abs(first - second).max() > 0
    np.testing.assert_array_equal(to_numpy(layer(x)), to_numpy(layer(x)))
