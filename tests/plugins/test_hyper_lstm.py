"""The hyper-LSTM: references, labml, how it starts, errors."""

import numpy as np
import pytest
from against_reference import MASK, cases, check_case, check_golden
from three_parts import raised

from cellkit.registry import export_weights, import_weights
from cellkit_lstm import HyperLSTMCell

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize(("name", "case"), cases("hyper_lstm"))
def test_the_layer_computes_the_reference(name, case):
    check_case(name, case, np.random.default_rng(1609), mask=MASK)


def test_labml_agrees():
    check_golden("hyper_lstm")


def test_every_scale_starts_at_a_tenth():
    cell = HyperLSTMCell(5, hyper_units=3, hyper_features=2)
    cell.build((None, 4))
    w = export_weights(cell)
    p = np.random.default_rng(1).normal(size=(7, 3))
    for kernel, bias, scales in (("A", "a", "D"), ("B", "e", "E")):
        for gate in "ifgo":
            features = p @ w[f"{kernel}_{gate}"] + w[f"{bias}_{gate}"]
            np.testing.assert_allclose(features @ w[f"{scales}_{gate}"], 0.1, rtol=1e-6)


def test_letters_and_weights_are_two_names_for_one_thing():
    cell = HyperLSTMCell(3, hyper_units=2, hyper_features=2)
    cell.build((None, 4))
    rng = np.random.default_rng(2)
    letters = {k: rng.normal(size=w.shape) for k, w in export_weights(cell).items()}
    import_weights(cell, letters)
    for name, value in export_weights(cell).items():
        np.testing.assert_allclose(value, letters[name], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"hyper_units": 0}, "hyper_units=0"),
        ({"hyper_features": 1.5}, "hyper_features=1.5"),
        ({"epsilon": 0.0}, "epsilon=0.0"),
    ],
)
def test_options_out_of_range(options, named):
    assert named in raised(HyperLSTMCell, **{"units": 3, **options})[1]
