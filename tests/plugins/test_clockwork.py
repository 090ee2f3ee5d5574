"""The clockwork cell and SCRN: numbers against their references, periods, the context, errors."""

import numpy as np
import pytest
from against_reference import (
    DTYPE,
    MASK,
    TOLERANCE,
    B,
    T,
    cases,
    check_case,
    check_golden,
    expected,
    make,
    to_numpy,
)
from three_parts import raised

import cellkit
from cellkit.registry import cell_weights, export_weights, import_weights, set_cell_weights
from cellkit_clockwork import ClockworkCell, SCRNCell


@pytest.fixture
def rng():
    return np.random.default_rng(1412)


@pytest.mark.one_backend
@pytest.mark.parametrize(("name", "case"), cases("clockwork", "scrn"))
def test_the_layer_computes_the_reference(name, case, rng):
    check_case(name, case, rng, mask=MASK)


@pytest.mark.parametrize("name", ["clockwork", "scrn"])
def test_the_initial_states_are_those_of_the_reference(name, rng):
    check_case(name, "default", rng, given=False)


@pytest.mark.parametrize("name", ["clockwork", "scrn"])
def test_theanets_agrees(name):
    check_golden(name)


# Clockwork ----------------------------------------------------------------------------------------


def test_blocks_tick_at_their_periods_and_hold_between(rng):
    x = rng.normal(size=(B, T, 4))
    layer, _ = make("clockwork", x, rng, units=6, periods=[1, 2, 4])
    output = to_numpy(layer(x)[0]).reshape(B, T, 3, 2)
    changed = (np.diff(output, axis=1) != 0).all(axis=(0, 3))
    held = (np.diff(output, axis=1) == 0).all(axis=(0, 3))
    ticks = np.array([[t % period == 0 for period in (1, 2, 4)] for t in range(1, T)])
    np.testing.assert_array_equal(changed, ticks)
    np.testing.assert_array_equal(held, ~ticks)


def test_every_row_has_its_own_counter(rng):
    """A masked step does not count, so the rows come to tick at different steps."""
    x = rng.normal(size=(B, T, 4))
    layer, spec = make("clockwork", x, rng, units=4, periods=[1, 3])
    states = [np.zeros((B, 4), DTYPE), np.array([0, 1, 2], "int32")]
    output, _, t = layer(x, initial_state=states, mask=MASK)
    assert str(to_numpy(t).dtype) == "int32"
    np.testing.assert_array_equal(to_numpy(t), [0, 1, 2] + MASK.sum(axis=1))
    run = expected(layer, spec, x, states, MASK)
    np.testing.assert_allclose(to_numpy(output), run.sequence, rtol=TOLERANCE, atol=TOLERANCE)


def test_slow_blocks_do_not_hear_fast_ones(rng):
    x = rng.normal(size=(B, T, 4))
    layer, _ = make("clockwork", x, rng, units=6, periods=[2, 1, 4])
    before = to_numpy(layer(x)[0])
    weights = cell_weights(layer.cell)
    fast = np.arange(6) // 2 == 1
    weights["kernel"][:, fast] += 1.0  # what the fast block does changes
    set_cell_weights(layer.cell, weights)
    after = to_numpy(layer(x)[0])
    np.testing.assert_array_equal(after[..., ~fast], before[..., ~fast])
    assert (after[..., fast] != before[..., fast]).all()


def test_one_period_of_one_is_the_simple_cell(rng):
    x = rng.normal(size=(B, T, 4))
    clockwork, _ = make("clockwork", x, rng, units=3, periods=[1])
    simple, _ = make("simple_rnn", x, rng, units=3)
    weights = cell_weights(clockwork.cell)
    weights["recurrent_kernel"] = weights.pop("recurrent_0")
    set_cell_weights(simple.cell, weights)
    got, want = to_numpy(clockwork(x)[0]), to_numpy(simple(x)[0])
    np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_stream_ticks_as_a_sequence_does(rng):
    x = rng.normal(size=(B, T, 4))
    layer, _ = make("clockwork", x, rng, units=4, periods=[1, 3])
    want, states = to_numpy(layer(x)[0]), None
    for t in range(T):
        y, states = layer.step(x[:, t], states)
        np.testing.assert_allclose(to_numpy(y), want[:, t], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.one_backend
@pytest.mark.parametrize("periods", [(), [0, 1], (1, -2), (1, 2.5), (True, 2), 3, "12"])
def test_periods_must_be_positive_integers(periods):
    what, received, _, _ = raised(ClockworkCell, 4, periods=periods)
    assert "periods" in what and repr(periods) in received


def test_units_must_divide_among_the_blocks():
    _, received, wanted, fix = raised(ClockworkCell, 7, periods=(1, 2, 4))
    assert "units=7" in received and "multiple of 3" in wanted and "units=6" in fix


# SCRN ---------------------------------------------------------------------------------------------


def test_the_output_of_scrn_is_no_state(rng):
    x = rng.normal(size=(B, T, 4))
    options = {"units": 5, "context_units": 3, "output_units": 2}
    layer, _ = make("scrn", x, rng, **options)
    output, h, s = layer(x)
    assert [tuple(v.shape) for v in (output, h, s)] == [(B, T, 2), (B, 5), (B, 3)]
    weights = cell_weights(layer.cell)
    weights["bias"] += 1.0
    set_cell_weights(layer.cell, weights)
    other, h2, s2 = layer(x)
    assert (to_numpy(other) != to_numpy(output)).all()
    np.testing.assert_array_equal(to_numpy(h2), to_numpy(h))
    np.testing.assert_array_equal(to_numpy(s2), to_numpy(s))


@pytest.mark.parametrize("learn", [True, False])
def test_alpha_trains_when_it_is_told_to(learn):
    cell = SCRNCell(4, context_units=3, alpha=0.8, learn_alpha=learn, dtype=DTYPE)
    cell.build((None, 2))
    np.testing.assert_allclose(export_weights(cell)["a"], [0.8] * 3, rtol=1e-6)
    assert ("alpha_logit" in [v.name for v in cell.trainable_variables]) == learn


def test_the_matrices_of_scrn_start_apart():
    cell = SCRNCell(4)
    cell.build((None, 4))
    weights = cell_weights(cell)
    squares = [w for w in weights.values() if w.shape == (4, 4)]
    assert len(squares) == 6
    assert all(np.abs(a - b).max() > 0 for i, a in enumerate(squares) for b in squares[:i])


def test_an_output_bias_needs_a_cell_that_has_one():
    cell = SCRNCell(2, use_bias=False)
    cell.build((None, 3))
    symbols = export_weights(cell)
    import_weights(cell, symbols)
    symbols["b"] = np.ones(2)
    assert "use_bias=False" in raised(import_weights, cell, symbols)[1]


@pytest.mark.one_backend
@pytest.mark.parametrize("alpha", [0, 1.0, -0.1, "0.9", True])
def test_alpha_must_be_between_zero_and_one(alpha):
    assert f"alpha={alpha!r}" in raised(SCRNCell, 3, alpha=alpha)[1]


@pytest.mark.parametrize("name", ["units", "context_units", "output_units"])
def test_sizes_must_be_positive_integers(name):
    assert f"{name}=-2" in raised(SCRNCell, **{"units": 3, name: -2})[1]


def test_two_rows_of_features_are_refused():
    assert "(2, 3, 4)" in raised(cellkit.RNN(SCRNCell(3)), np.zeros((2, 5, 3, 4)))[1]
