"""Continuous cells: references, other implementations, time gaps, options, errors."""

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
from cellkit_continuous import (
    AntisymmetricRNNCell,
    CfCCell,
    CTGRUCell,
    GatedAntisymmetricRNNCell,
    LipschitzRNNCell,
    LTCCell,
    TauGRUCell,
    lecun_tanh,
)

CELLS = (
    "cfc",
    "ltc",
    "antisymmetric_rnn",
    "gated_antisymmetric_rnn",
    "tau_gru",
    "lipschitz_rnn",
    "ct_gru",
)


@pytest.fixture
def rng():
    return np.random.default_rng(2106)


def data(rng):
    return rng.normal(size=(B, T, 4)).astype(DTYPE), rng.random((B, T, 1)).astype(DTYPE)


@pytest.mark.one_backend
@pytest.mark.parametrize(("name", "case"), cases(*CELLS))
def test_the_layer_computes_the_reference(name, case, rng):
    check_case(name, case, rng, mask=MASK)


@pytest.mark.parametrize("mode", ["default", "no_gate", "pure"])
def test_the_constant_gap_computes_the_reference(mode, rng):
    x, _ = data(rng)
    check("cfc", x, rng, given=False, units=4, backbone_units=6, mode=mode, dt=0.3)


@pytest.mark.parametrize("name", ["cfc", "ltc"])
def test_ncps_agrees(name):
    check_golden(name, ("x", "dt"))


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["antisymmetric_rnn", "gated_antisymmetric_rnn", "tau_gru"])
def test_torchrecurrent_agrees(name):
    check_golden(name)


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


def test_a_constant_gap_of_a_ct_gru_computes_the_reference(rng):
    x, _ = data(rng)
    check("ct_gru", x, rng, given=False, units=4, scales=3, dt=0.3)


def test_a_ct_gru_that_asks_for_a_scale_forgets_at_its_speed(rng):
    """After a long pause, what is left of two events is in the ratio of their time scales."""
    x, dt = data(rng)
    tau = 2.0 * 3.0 ** np.arange(4)
    left = []
    for scale in tau:
        layer, _ = make("ct_gru", (x, dt), rng, units=2, scales=4, shortest=2.0, ratio=3.0)
        letters = {k: 0 * w for k, w in export_weights(layer.cell).items()}
        # Far from zero a softmax of distances is sharp, on the nearest scale alone.
        far = 1e3 * np.sign(np.log(scale) - np.log(tau).mean())
        letters |= {"b_s": far + letters["b_s"], "b_q": 1.0 + letters["b_q"]}
        import_weights(layer.cell, letters)
        left.append(to_numpy(layer((x[:, :1], np.full((B, 1, 1), 2.5, DTYPE)))[0]).mean())
    ends = np.tanh(1.0) * np.exp(-2.5 / tau[[0, 0, 3, 3]])
    np.testing.assert_allclose(left, ends, rtol=1e-5)


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


# Antisymmetric RNNs -------------------------------------------------------------------------------


@pytest.mark.one_backend
@pytest.mark.parametrize("cls", [AntisymmetricRNNCell, GatedAntisymmetricRNNCell])
def test_only_what_is_antisymmetric_of_a_matrix_counts(cls, rng):
    cell = cls(4)
    cell.build((None, 3))
    symbols = export_weights(cell)
    symmetric = rng.normal(size=(4, 4))
    import_weights(cell, {**symbols, "U": symbols["U"] + symmetric + symmetric.T})
    np.testing.assert_allclose(export_weights(cell)["U"], symbols["U"], rtol=1e-5, atol=1e-5)


@pytest.mark.one_backend
def test_an_antisymmetric_rnn_of_one_unit_has_no_recurrent_weight():
    layer = cellkit.RNN(AntisymmetricRNNCell(1))
    assert tuple(layer(np.ones((2, 5, 3), "float32")).shape) == (2, 1)
    assert layer.cell.recurrent_kernel is None
    import_weights(layer.cell, export_weights(layer.cell))


# Lipschitz RNN ------------------------------------------------------------------------------------


@pytest.mark.one_backend
def test_its_authors_agree():
    check_golden("lipschitz_rnn")


@pytest.mark.one_backend
def test_a_lipschitz_rnn_without_its_linear_part_is_an_antisymmetric_rnn(rng):
    x, _ = data(rng)
    given = {"units": 4, "epsilon": 0.3, "gamma": 0.2}
    lipschitz, _ = make("lipschitz_rnn", x, rng, beta=1.0, **given)
    other, _ = make("antisymmetric_rnn", x, rng, **given)
    w = export_weights(lipschitz.cell)
    # A = -gamma I is left of the linear part of a symmetric M_A, so both lose gamma * h beside it.
    import_weights(lipschitz.cell, {**w, "M_A": np.zeros((4, 4))})
    import_weights(other.cell, {"U": w["M_W"], "W": w["U"], "b": w["b"]})
    h = rng.normal(size=(B, 4)).astype(DTYPE)
    x = x[:, :1]
    got, want = (to_numpy(layer(x, initial_state=[h])[1]) for layer in (lipschitz, other))
    np.testing.assert_allclose(got, want - 0.3 * 0.2 * h, rtol=TOLERANCE, atol=TOLERANCE)


# tau-GRU ------------------------------------------------------------------------------------------


@pytest.mark.one_backend
def test_the_delay_line_of_tau_gru_holds_the_states_before(rng):
    x, _ = data(rng)
    layer, _ = make("tau_gru", x, rng, units=3, delay=2)
    outputs, _, past = map(to_numpy, layer(x))
    np.testing.assert_array_equal(past, outputs[:, -3:-1])


# LTC ----------------------------------------------------------------------------------------------


@pytest.mark.one_backend
def test_potentials_of_ltc_stay_where_no_time_passes(rng):
    x, dt = data(rng)
    layer, _ = make("ltc", (x, dt), rng, units=4)
    start = rng.normal(size=(B, 4)).astype(DTYPE)
    _, v = layer((x, 0 * dt), initial_state=[start])
    np.testing.assert_allclose(to_numpy(v), start, rtol=TOLERANCE)


@pytest.mark.one_backend
def test_conductances_of_ltc_start_in_the_range_of_ncps():
    cell = LTCCell(30, dt=1.0)
    cell.build((None, 20))
    found = export_weights(cell)
    ranges = {"w": (0.001, 1), "sensory_w": (0.001, 1), "gleak": (0.001, 1), "cm": (0.4, 0.6)}
    for name, (low, high) in {**ranges, "sigma": (3, 8), "mu": (0.3, 0.8)}.items():
        assert low - 1e-4 <= found[name].min() and found[name].max() <= high + 1e-4
        assert found[name].std() > 0.2 * (high - low)
    assert set(np.unique(found["erev"])) == {-1.0, 1.0}
    assert 0.6 < (found["erev"] > 0).mean() < 0.73


@pytest.mark.one_backend
def test_a_conductance_must_be_positive():
    cell = LTCCell(3, dt=1.0)
    cell.build((None, 2))
    symbols = export_weights(cell)
    symbols["w"] = -symbols["w"]
    _, received, expected, _ = raised(import_weights, cell, symbols)
    assert "w down to -" in received and "above 0" in expected


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("cls", "options", "named"),
    [
        (CfCCell, {"units": -1}, "units=-1"),
        (CfCCell, {"mode": "gated"}, "mode='gated'"),
        (CfCCell, {"backbone_units": 0}, "backbone_units=0"),
        (CfCCell, {"backbone_layers": -1}, "backbone_layers=-1"),
        (CfCCell, {"backbone_layers": 1.5}, "backbone_layers=1.5"),
        (CfCCell, {"dt": -0.1}, "dt=-0.1"),
        (CfCCell, {"dt": float("nan")}, "dt=nan"),
        (CfCCell, {"dt": "1"}, "dt='1'"),
        (AntisymmetricRNNCell, {"epsilon": 0.0}, "epsilon=0.0"),
        (AntisymmetricRNNCell, {"gamma": -0.1}, "gamma=-0.1"),
        (GatedAntisymmetricRNNCell, {"gamma": float("inf")}, "gamma=inf"),
        (LipschitzRNNCell, {"beta": 1.5}, "beta=1.5"),
        (LipschitzRNNCell, {"beta": -0.5}, "beta=-0.5"),
        (LipschitzRNNCell, {"epsilon": -1.0}, "epsilon=-1.0"),
        (LipschitzRNNCell, {"gamma": True}, "gamma=True"),
        (TauGRUCell, {"delay": 0}, "delay=0"),
        (TauGRUCell, {"zoneout": 0.1}, "zoneout=0.1"),
        (CTGRUCell, {"scales": 0}, "scales=0"),
        (CTGRUCell, {"shortest": 0.0}, "shortest=0.0"),
        (CTGRUCell, {"ratio": 1.0}, "ratio=1.0"),
        (CTGRUCell, {"ratio": float("inf")}, "ratio=inf"),
        (CTGRUCell, {"dt": -1.0}, "dt=-1.0"),
        (LTCCell, {"output_units": 4}, "output_units=4, units=3"),
        (LTCCell, {"ode_unfolds": 0}, "ode_unfolds=0"),
        (LTCCell, {"epsilon": 0}, "epsilon=0"),
        (LTCCell, {"dt": -1.0}, "dt=-1.0"),
        (LTCCell, {"recurrent_dropout": 0.1}, "recurrent_dropout=0.1"),
    ],
)
def test_options_out_of_range(cls, options, named):
    assert named in raised(cls, **{"units": 3, **options})[1]


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((2, 5, 3)),
        (np.zeros((2, 5, 3)), np.zeros((2, 5, 2))),
        (np.zeros((2, 5, 3)), np.zeros((2, 5, 1)), np.zeros((2, 5, 1))),
    ],
    ids=["no gaps", "two gaps", "three inputs"],
)
@pytest.mark.parametrize("cls", [CfCCell, CTGRUCell, LTCCell])
def test_the_time_gap_is_asked_for(cls, inputs):
    what, _, wanted, fix = raised(cellkit.RNN(cls(3)), inputs)
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
