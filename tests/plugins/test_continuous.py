"""CfC: numbers against the reference and ncps, its modes, time gaps, errors."""

import keras
import numpy as np
import pytest
from against_reference import (
    DTYPE,
    MASK,
    TOLERANCE,
    B,
    T,
    cases,
    check,
    check_case,
    check_golden,
    make,
    to_numpy,
)
from three_parts import raised

import cellkit
from cellkit.registry import cell_weights, export_weights, import_weights, set_cell_weights
from cellkit_continuous import CfCCell, lecun_tanh


@pytest.fixture
def rng():
    return np.random.default_rng(2106)


def data(rng):
    return rng.normal(size=(B, T, 4)).astype(DTYPE), rng.random((B, T, 1)).astype(DTYPE)


@pytest.mark.one_backend
@pytest.mark.parametrize(("name", "case"), cases("cfc"))
def test_the_layer_computes_the_reference(name, case, rng):
    check_case(name, case, rng, mask=MASK)


@pytest.mark.parametrize("mode", ["default", "no_gate", "pure"])
def test_the_constant_gap_computes_the_reference(mode, rng):
    x, _ = data(rng)
    check("cfc", x, rng, given=False, units=4, backbone_units=6, mode=mode, dt=0.3)


def test_ncps_agrees():
    check_golden("cfc", ("x", "dt"))


def test_a_constant_gap_is_the_same_gap_at_every_step(rng):
    x, _ = data(rng)
    regular, _ = make("cfc", x, rng, units=4, backbone_units=6, dt=0.7)
    given, _ = make("cfc", (x, x[..., :1]), rng, units=4, backbone_units=6)
    set_cell_weights(given.cell, cell_weights(regular.cell))
    got = to_numpy(given((x, np.full((B, T, 1), 0.7)))[0])
    np.testing.assert_allclose(got, to_numpy(regular(x)[0]), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("mode", ["default", "no_gate", "pure"])
def test_the_gap_of_a_step_changes_it_and_what_follows(mode, rng):
    x, dt = data(rng)
    layer, _ = make("cfc", (x, dt), rng, units=4, backbone_units=6, mode=mode)
    later = dt.copy()
    later[:, 3] += 1.0
    difference = np.abs(to_numpy(layer((x, later))[0]) - to_numpy(layer((x, dt))[0])).max(axis=2)
    assert (difference[:, :3] == 0).all() and (difference[:, 3:] > 0).all()


def test_a_pure_cell_comes_to_rest_at_its_target(rng):
    x, dt = data(rng)
    layer, _ = make("cfc", (x, dt), rng, units=4, backbone_units=6, mode="pure")
    target = cell_weights(layer.cell)["target"]
    got = to_numpy(layer((x, np.full_like(dt, 1e6)))[0])
    np.testing.assert_allclose(got, np.broadcast_to(target, got.shape), rtol=1e-6)


def test_dropout_leaves_the_time_gaps_whole():
    """With x at zero nothing is left to drop, so training changes nothing."""
    x, dt = np.zeros((40, T, 4), DTYPE), np.ones((40, T, 1), DTYPE)
    layer, _ = make("cfc", (x, dt), np.random.default_rng(0), units=4, dropout=0.5)
    want = to_numpy(layer((x, dt))[0])
    np.testing.assert_array_equal(to_numpy(layer((x, dt), training=True)[0]), want)
    x = x + 1.0
    want = to_numpy(layer((x, dt))[0])
    assert (to_numpy(layer((x, dt), training=True)[0]) != want).any(axis=(1, 2)).sum() > 30


def test_lecun_tanh_keeps_its_dtype_and_is_found_by_name():
    x = np.linspace(-3, 3, 7)
    got = to_numpy(lecun_tanh(keras.ops.convert_to_tensor(x, dtype=DTYPE)))
    np.testing.assert_allclose(got, 1.7159 * np.tanh(0.666 * x), rtol=TOLERANCE, atol=TOLERANCE)
    cell = CfCCell(3)
    again = CfCCell.from_config(cell.get_config())
    assert again.backbone_activation is lecun_tanh is cell.backbone_activation


def test_biases_need_a_cell_that_has_them():
    cell = CfCCell(2, backbone_units=3, use_bias=False)
    cell.build(((None, 3), (None, 1)))
    symbols = export_weights(cell)
    import_weights(cell, symbols)
    symbols["b_a"] = np.ones(2)
    assert "use_bias=False" in raised(import_weights, cell, symbols)[1]


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"units": -1}, "units=-1"),
        ({"mode": "gated"}, "mode='gated'"),
        ({"backbone_units": 0}, "backbone_units=0"),
        ({"backbone_layers": -1}, "backbone_layers=-1"),
        ({"backbone_layers": 1.5}, "backbone_layers=1.5"),
        ({"dt": -0.1}, "dt=-0.1"),
        ({"dt": float("nan")}, "dt=nan"),
        ({"dt": "1"}, "dt='1'"),
    ],
)
def test_options_out_of_range(options, named):
    assert named in raised(CfCCell, **{"units": 3, **options})[1]


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((2, 5, 3)),
        (np.zeros((2, 5, 3)), np.zeros((2, 5, 2))),
        (np.zeros((2, 5, 3)), np.zeros((2, 5, 1)), np.zeros((2, 5, 1))),
    ],
    ids=["no gaps", "two gaps", "three inputs"],
)
def test_the_time_gap_is_asked_for(inputs):
    what, _, wanted, fix = raised(cellkit.RNN(CfCCell(3)), inputs)
    assert "time gap" in what and "(batch, 1)" in wanted and "dt=1.0" in fix


def test_time_cannot_run_backwards(rng):
    x, dt = data(rng)
    layer, _ = make("cfc", (x, dt), rng, units=4, backbone_units=6, mode="pure")
    expected = to_numpy(layer((x, dt), mask=MASK)[0])
    behind = dt.copy()
    behind[1, 2] = -0.25
    what, received, wanted, fix = raised(layer, (x, behind))
    assert "CfCCell" in what and "-0.25 at step 2 of row 1" in received
    assert "0 or more" in wanted and "np.diff" in fix
    behind = np.where(MASK[..., None], dt, -1e9)  # what stands in the padding is nobody's concern
    np.testing.assert_array_equal(to_numpy(layer((x, behind), mask=MASK)[0]), expected)
