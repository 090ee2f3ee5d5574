"""The mass-conserving LSTM: references, neuralhydrology, conservation, errors."""

import numpy as np
import pytest
from against_reference import DTYPE, MASK, TOLERANCE, B, T, cases, check_case, make, to_numpy
from three_parts import raised

import cellkit
from cellkit_lstm import MassConservingLSTMCell

pytestmark = pytest.mark.one_backend


@pytest.fixture
def rng():
    return np.random.default_rng(2101)


def data(rng):
    return rng.random((B, T, 2)).astype(DTYPE), rng.normal(size=(B, T, 3)).astype(DTYPE)


@pytest.mark.parametrize(("name", "case"), cases("mass_conserving_lstm"))
def test_the_layer_computes_the_reference(name, case, rng):
    check_case(name, case, rng, mask=MASK, given=False)


@pytest.mark.parametrize("training", [False, True])
def test_no_mass_is_lost(training, rng):
    inputs = data(rng)
    options = {"dropout": 0.3, "recurrent_dropout": 0.3, "seed": 1}
    layer, _ = make("mass_conserving_lstm", inputs, rng, units=4, **options)
    start = rng.random((B, 4)).astype(DTYPE)
    out, stored = map(to_numpy, layer(inputs, initial_state=[start], training=training))
    before = inputs[0].sum(axis=(1, 2)) + start.sum(axis=1)
    after = out.sum(axis=(1, 2)) + stored.sum(axis=1)
    np.testing.assert_allclose(after, before, rtol=10 * TOLERANCE)
    assert (out >= 0).all() and (stored >= 0).all()


def test_a_row_does_not_depend_on_its_batch(rng):
    inputs = data(rng)
    layer, _ = make("mass_conserving_lstm", inputs, rng, units=4, variant="hydrology")
    whole = to_numpy(layer(inputs)[0])
    alone = to_numpy(layer(tuple(x[1:2] for x in inputs))[0])
    np.testing.assert_allclose(alone, whole[1:2], rtol=TOLERANCE, atol=TOLERANCE)


def test_masses_cannot_be_negative(rng):
    mass, seen = data(rng)
    mass[1, 2, 0] = -0.25
    layer = cellkit.RNN(MassConservingLSTMCell(4))
    _, received, expected, _ = raised(layer, (mass, seen))
    assert "a mass of -0.25 at step 2 of row 1" in received and "0 or more" in expected


def test_masses_and_other_inputs_are_asked_for(rng):
    what, _, expected, _ = raised(cellkit.RNN(MassConservingLSTMCell(4)), data(rng)[0])
    assert "masses" in what and "(xm, xa)" in expected


@pytest.mark.parametrize(
    ("options", "named"),
    [({"variant": "nature"}, "variant='nature'"), ({"zoneout": 0.1}, "zoneout=0.1")],
)
def test_options_out_of_range(options, named):
    assert named in raised(MassConservingLSTMCell, **{"units": 3, **options})[1]
