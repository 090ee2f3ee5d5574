"""Registered cells that are written as equations: their frozen witnesses, files, options."""

import keras
import numpy as np
import pytest
from against_reference import DTYPE, check_golden, to_numpy
from three_parts import raised

import cellkit
from cellkit.registry import registry

pytestmark = pytest.mark.one_backend

CELLS = sorted(
    name
    for name in registry.declarations()
    if issubclass(registry.get(name).cls, cellkit.EquationCell)
)
FROZEN = sorted(
    alias for name in [*CELLS, "intersection_rnn"] for alias in registry.get(name).spec.aliases
)


def test_there_are_many():
    assert len(CELLS) >= 30
    assert len(FROZEN) >= 28


@pytest.mark.parametrize("name", FROZEN)
def test_equals_another_implementation(name):
    check_golden(name)


@pytest.mark.parametrize("name", CELLS)
def test_the_paper_and_the_weights_have_names(name):
    found = registry.get(name)
    assert found.spec.paper.authors != "Unpublished"
    cell = found.cls(4, dtype=DTYPE)
    cell.build((None, 4))
    assert len({w.name for w in cell.weights}) == len(cell.weights)


def test_an_intersection_rnn_says_how_wide_its_inputs_must_be():
    _, received, expected, fix = raised(
        lambda: cellkit.RNN(cellkit.create("intersection_rnn", units=4))(np.ones((2, 3, 5)))
    )
    assert "5 features for units=4" in received
    assert "as many features as units" in expected
    assert "units=5" in fix and "Dense(4)" in fix


@pytest.mark.parametrize("name", CELLS)
def test_a_saved_model_computes_the_same(name, tmp_path):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(2, 5, 4)).astype("float32")
    model = keras.Sequential(
        [keras.Input((5, 4)), cellkit.RNN(cellkit.create(name, units=4), return_sequences=True)]
    )
    model.set_weights([rng.normal(size=w.shape) * 0.5 for w in model.get_weights()])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(again(x)), to_numpy(model(x)))
