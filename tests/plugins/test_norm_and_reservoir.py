"""The layer-normalised simple cell and the echo state network: numbers, options, errors."""

import keras
import numpy as np
import pytest
from cell_numbers import (
    DTYPE,
    TOLERANCE,
    cases,
    compare,
    compare_golden,
    random_weights,
    to_numpy,
    worst,
)
from three_parts import raised

import cellkit
from cellkit.registry import cell_weights, export_weights
from cellkit_norm import LayerNormSimpleRNNCell
from cellkit_reservoir import ESNCell

NAMES = ("layer_norm_simple_rnn", "esn")


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


@pytest.mark.one_backend
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize(("name", "case"), cases(*NAMES))
def test_layer_equals_the_reference_over_time(name, case, masked):
    assert compare(name, case, masked) < TOLERANCE


@pytest.mark.one_backend
@pytest.mark.parametrize("name", NAMES)
def test_equals_another_implementation(name):
    assert compare_golden(name)[0] < (1e-12 if DTYPE == "float64" else 1e-5)


def test_the_golden_file_sees_the_leak():
    assert compare_golden("esn", leaky=0.6)[0] > 1e-2


@pytest.mark.one_backend
@pytest.mark.parametrize(("name", "case"), cases(*NAMES))
def test_config_makes_the_same_cell(name, case):
    found = cellkit.get(name)
    cell = found.cls(**found.spec.cases[case])
    assert found.cls.from_config(cell.get_config()).get_config() == cell.get_config()


@pytest.mark.parametrize("name", NAMES)
def test_saved_model_gives_the_same_numbers(name, tmp_path):
    inputs = keras.Input((5, 3))
    options = {"connectivity": 0.8} if name == "esn" else {}
    layer = cellkit.RNN(cellkit.create(name, units=6, **options))
    model = keras.Model(inputs, layer(inputs))
    x = normal(2, 5, 3).astype("float32")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model.predict(x, verbose=0), again.predict(x, verbose=0))


def test_layer_norm_is_over_the_sum_of_both_products():
    """Scaling inputs and state together changes nothing; scaling one alone does."""
    cell = LayerNormSimpleRNNCell(6, epsilon=1e-12, dtype=DTYPE)
    cell.build((None, 3))
    random_weights(cell, np.random.default_rng(1))
    x, h = normal(2, 3), normal(2, 6, seed=1)
    one, both, alone = (to_numpy(cell(a, [b]))[0] for a, b in ((x, h), (5 * x, 5 * h), (5 * x, h)))
    assert worst([both], [one]) < 10 * TOLERANCE
    assert worst([alone], [one]) > 1e-2


@pytest.mark.parametrize("radius", [0.5, 0.9, 1.3])
def test_reservoir_has_its_spectral_radius_and_sparsity(radius):
    cell = ESNCell(60, spectral_radius=radius, connectivity=0.2, seed=4)
    cell.build((None, 3))
    u = cell_weights(cell)["recurrent_kernel"]
    assert abs(np.abs(np.linalg.eigvals(u)).max() - radius) < 1e-5
    assert 0.15 < (u != 0).mean() < 0.25


def test_reservoir_is_not_trained():
    layer = cellkit.RNN(ESNCell(20, seed=1))
    model = keras.Sequential([keras.Input((6, 3)), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    before = export_weights(layer.cell)
    assert len(model.trainable_weights) == 2 and not layer.trainable_weights
    history = model.fit(normal(8, 6, 3), normal(8, 1), epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    for symbol, value in export_weights(layer.cell).items():
        np.testing.assert_array_equal(value, before[symbol])


def test_reservoirs_follow_their_seed():
    def reservoir(seed):
        cell = ESNCell(20, seed=seed)
        cell.build((None, 3))
        return (cell_weights(cell)["recurrent_kernel"] != 0).tolist()

    assert reservoir(1) == reservoir(1)
    assert reservoir(1) != reservoir(2)
    assert reservoir(None) != reservoir(None)


def test_reservoir_forgets_where_it_started():
    cell = ESNCell(30, seed=2, connectivity=0.3)
    layer = cellkit.RNN(cell)
    x = normal(1, 300, 3).astype("float32")
    ends = [layer(x, initial_state=[normal(1, 30, seed=s).astype("float32")]) for s in (1, 2)]
    np.testing.assert_allclose(to_numpy(ends[0]), to_numpy(ends[1]), atol=1e-4)


def test_dropout_acts_in_training_alone():
    for name in NAMES:
        cell = cellkit.create(name, units=8, dropout=0.5, recurrent_dropout=0.5, seed=1)
        layer = cellkit.RNN(cell)
        x = normal(2, 5, 3).astype("float32")
        plain = to_numpy(layer(x))
        np.testing.assert_array_equal(plain, to_numpy(layer(x)))
        assert not np.allclose(plain, to_numpy(layer(x, training=True)))


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("cls", "options", "received"),
    [
        (LayerNormSimpleRNNCell, {"units": -3}, "units=-3"),
        (LayerNormSimpleRNNCell, {"units": 3, "epsilon": 0}, "epsilon=0"),
        (ESNCell, {"units": 0}, "units=0"),
        (ESNCell, {"units": 5, "leaky": 0.0}, "leaky=0.0"),
        (ESNCell, {"units": 5, "leaky": 1.5}, "leaky=1.5"),
        (ESNCell, {"units": 5, "connectivity": -0.1}, "connectivity=-0.1"),
        (ESNCell, {"units": 5, "spectral_radius": "big"}, "'big'"),
    ],
)
def test_bad_options_are_refused(cls, options, received):
    assert received in raised(cls, **options)[1]


def test_a_reservoir_without_loops_is_refused():
    cell = ESNCell(2, connectivity=1e-9)
    assert "connectivity=1e-09" in raised(cell.build, (None, 3))[1]
