"""Spiking cells: references, snntorch, sinabs, surrogate gradients, adaptation, errors."""

import keras
import numpy as np
import pytest
from against_reference import DTYPE, MASK, cases, check_case, check_golden, to_numpy
from three_parts import raised

import cellkit
from cellkit.registry import export_weights, import_weights
from cellkit_spiking import ALIFCell, LIFCell

pytestmark = pytest.mark.one_backend


@pytest.fixture
def rng():
    return np.random.default_rng(2109)


@pytest.mark.parametrize(("name", "case"), cases("lif", "alif"))
def test_the_layer_computes_the_reference(name, case, rng):
    check_case(name, case, rng, mask=MASK)


def test_snntorch_agrees():
    check_golden("lif")


def test_sinabs_agrees():
    check_golden("alif_sinabs")


def test_outputs_are_spikes(rng):
    x = rng.normal(size=(4, 9, 3)).astype(DTYPE)
    layer = cellkit.RNN(LIFCell(6, seed=1, dtype=DTYPE), return_sequences=True, dtype=DTYPE)
    assert set(np.unique(to_numpy(layer(3 * x)))) == {0.0, 1.0}


def test_a_constant_current_makes_an_adaptive_neuron_fire_ever_more_rarely():
    cell = ALIFCell(1, rho=0.99, beta=0.5, recurrent=False, dtype=DTYPE)
    layer = cellkit.RNN(cell, return_sequences=True, dtype=DTYPE)
    layer.build((1, 200, 1))
    import_weights(cell, {**export_weights(cell), "W": np.ones((1, 1)), "b": np.zeros(1)})
    spikes = to_numpy(layer(np.ones((1, 200, 1), DTYPE)))[0, :, 0]
    pauses = np.diff(np.flatnonzero(spikes))
    assert pauses[:10].max() < pauses[-10:].min()


@pytest.mark.parametrize("surrogate", ["atan", "fast_sigmoid", "triangle"])
def test_the_surrogate_has_the_derivative_that_is_said(surrogate):
    v = np.linspace(-2, 2, 9)
    slope = 0.7
    smooth = {
        "atan": slope / 2 / (1 + (np.pi / 2 * slope * v) ** 2),
        "fast_sigmoid": 1 / (1 + slope * np.abs(v)) ** 2,
        "triangle": slope * np.maximum(0, 1 - np.abs(v)),
    }[surrogate]
    # The potential of a neuron is its current where nothing leaks, so its weight is a probe.
    cell = LIFCell(9, beta=0.0, threshold=1.0, surrogate=surrogate, slope=slope, dtype=DTYPE)
    layer = cellkit.RNN(cell, dtype=DTYPE)
    model = keras.Sequential([keras.Input((1, 1)), layer])
    weights = {"W": (v + 1.0)[None], "b": np.zeros(9)}
    import_weights(cell, weights)
    model.compile(keras.optimizers.SGD(1.0), lambda _, y: keras.ops.sum(y, axis=-1))
    model.fit(np.ones((1, 1, 1), DTYPE), np.zeros((1, 9), DTYPE), verbose=0)
    moved = weights["W"] - to_numpy(export_weights(cell)["W"])
    np.testing.assert_allclose(moved[0], smooth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("surrogate", ["atan", "fast_sigmoid"])
@pytest.mark.parametrize("recurrent", [False, True])
def test_training_lowers_the_loss_though_spikes_have_no_derivative(surrogate, recurrent, rng):
    keras.utils.set_random_seed(1)
    x = rng.normal(size=(64, 6, 3)).astype("float32")
    cell = LIFCell(12, surrogate=surrogate, recurrent=recurrent, seed=1)
    model = keras.Sequential([keras.Input((6, 3)), cellkit.RNN(cell), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.02), "mse")
    before = [np.array(w) for w in cell.get_weights()]
    losses = model.fit(x, x[:, -1, :1], epochs=8, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    for old, new in zip(before, cell.get_weights(), strict=True):
        assert (old != new).all()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"alpha": 1.0}, "alpha=1.0"),
        ({"rho": -0.1}, "rho=-0.1"),
        ({"beta": 0}, "beta=0"),
        ({"threshold": -1.0}, "threshold=-1.0"),
        ({"reset": "none"}, "reset='none'"),
        ({"surrogate": "relu"}, "surrogate='relu'"),
        ({"slope": 0.0}, "slope=0.0"),
        ({"recurrent_dropout": 0.2, "recurrent": False}, "recurrent_dropout=0.2, recurrent=False"),
    ],
)
def test_options_of_adaptive_neurons_out_of_range(options, named):
    assert named in raised(ALIFCell, **{"units": 3, **options})[1]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"beta": 1.0}, "beta=1.0"),
        ({"threshold": 0.0}, "threshold=0.0"),
        ({"reset": "hard"}, "reset='hard'"),
        ({"surrogate": "relu"}, "surrogate='relu'"),
        ({"slope": -1.0}, "slope=-1.0"),
        ({"recurrent_dropout": 0.2}, "recurrent_dropout=0.2, recurrent=False"),
    ],
)
def test_options_out_of_range(options, named):
    assert named in raised(LIFCell, **{"units": 3, **options})[1]


def test_currents_are_as_wide_as_the_cell():
    layer = cellkit.RNN(LIFCell(4, input_weights=False))
    _, received, expected, fix = raised(layer, np.zeros((2, 5, 3), "float32"))
    assert "3 features for units=4" in received and "as many features" in expected
    assert "units=3" in fix
