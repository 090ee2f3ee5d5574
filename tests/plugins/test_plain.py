"""Plain cells that are written by hand: references, other implementations, options, errors."""

import numpy as np
import pytest
from against_reference import MASK, cases, check_case, check_golden, to_numpy
from three_parts import raised

import cellkit
from cellkit.registry import cell_weights, export_weights, import_weights
from cellkit_plain import RHNCell

pytestmark = pytest.mark.one_backend


@pytest.fixture
def rng():
    return np.random.default_rng(1607)


@pytest.mark.parametrize(("name", "case"), cases("rhn"))
def test_the_layer_computes_the_reference(name, case, rng):
    check_case(name, case, rng, mask=MASK)


def test_labml_agrees():
    check_golden("rhn")


def test_transform_gates_start_nearly_shut():
    cell = RHNCell(3, depth=2, coupled=False)
    cell.build((None, 5))
    for d in (1, 2):
        bias = cell_weights(cell)[f"bias_{d}"]
        np.testing.assert_array_equal(bias, [0, 0, 0, -2, -2, -2, 0, 0, 0])


def test_every_layer_of_a_step_is_dropped_by_a_mask_of_its_own(rng):
    x = rng.normal(size=(1, 1, 3)).astype("float32")
    cell = RHNCell(40, depth=2, recurrent_dropout=0.5, transform_bias=50.0, seed=1)
    layer = cellkit.RNN(cell)
    layer.build(x.shape)
    eye = np.eye(40, dtype="float32")
    zeros = {k: 0 * w for k, w in export_weights(cell).items()}
    open_gates = {f"b_t{d}": 50.0 + np.zeros(40, "float32") for d in (1, 2)}
    import_weights(cell, {**zeros, **open_gates, "U_p1": eye, "U_p2": eye})
    start = np.full((1, 40), 0.1, "float32")
    kept = to_numpy(layer(x, initial_state=[start], training=True)) != 0
    assert 3 < kept.sum() < 17  # a quarter of 40: two masks, not one


def test_biases_need_a_cell_that_has_them():
    cell = RHNCell(2, use_bias=False)
    cell.build((None, 3))
    symbols = export_weights(cell)
    import_weights(cell, symbols)
    symbols["b_p2"] = np.ones(2)
    assert "'b_p2' is a bias" in raised(import_weights, cell, symbols)[0]


def test_depth_must_be_a_positive_integer():
    assert "depth=0" in raised(RHNCell, 3, depth=0)[1]
