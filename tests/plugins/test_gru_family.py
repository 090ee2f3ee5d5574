"""Relatives of the GRU: references, other implementations, batch norm, missing values, errors."""

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
from cellkit.registry import cell_weights, set_cell_weights
from cellkit.registry.reference import sigmoid
from cellkit_gru import BlockGRUCell, GRUDCell, LiGRUCell, MGUCell, UGRNNCell

FAMILY = ("mgu", "ugrnn", "gru_d", "ligru", "block_gru")


@pytest.fixture
def rng():
    return np.random.default_rng(1402)


def series(rng, missing=0.0, gaps=3):
    """Draw a series of three variables; `missing` is written where a value is missing."""
    observed = rng.random((B, T, 3)) < 0.6
    values = np.where(observed, rng.normal(size=(B, T, 3)), missing)
    return {
        "values": values.astype(DTYPE),
        "observed": observed.astype(DTYPE),
        "dt": rng.random((B, T, gaps)).astype(DTYPE),
    }


@pytest.mark.one_backend
@pytest.mark.parametrize(("name", "case"), cases(*FAMILY))
def test_the_layer_computes_the_reference(name, case, rng):
    check_case(name, case, rng, mask=MASK)


@pytest.mark.parametrize("name", FAMILY)
def test_the_initial_states_are_those_of_the_reference(name, rng):
    check_case(name, "default", rng, given=False)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["mgu", "ligru", "ligru_batch_norm", "block_gru"])
def test_another_implementation_agrees(name):
    check_golden(name)


@pytest.mark.parametrize("how", ["loop", "fit"])
def test_batch_norm_of_ligru_takes_the_rows_of_a_step_and_keeps_running_averages(how, rng):
    x = rng.normal(size=(8, T, 4)).astype(DTYPE) + 2.0
    options = {"normalization": "batch", "momentum": 0.8, "epsilon": 0.01, "use_bias": False}
    layer, spec = make("ligru", x, rng, units=3, **options)
    w = {k: v.astype("float64") for k, v in cellkit.export_weights(layer.cell).items()}
    mean, variance = (np.concatenate([w[f"{c}_z"], w[f"{c}_n"]]) for c in "mv")
    h, outputs = np.zeros((8, 3)), []
    for t in range(T):
        fed = x[:, t] @ np.concatenate([w["W_z"], w["W_n"]], axis=1)
        now = {"m": fed.mean(axis=0), "v": fed.var(axis=0)}
        mean, variance = 0.8 * mean + 0.2 * now["m"], 0.8 * variance + 0.2 * now["v"]
        letters = {f"{c}_{g}": now[c][i : i + 3] for c in "mv" for g, i in (("z", 0), ("n", 3))}
        h, _ = spec.reference({**w, **letters}, x[:, t], [h], layer.cell.get_config())
        outputs.append(h)
    if how == "loop":
        got = to_numpy(layer(x, training=True)[0])
        np.testing.assert_allclose(got, np.stack(outputs, axis=1), rtol=TOLERANCE, atol=TOLERANCE)
    else:
        inputs = keras.Input((T, 4), dtype=DTYPE)
        model = keras.Model(inputs, layer(inputs)[0])
        model.compile(keras.optimizers.SGD(0.0), "mse")
        model.fit(x, np.zeros((8, T, 3), DTYPE), batch_size=8, verbose=0)
    moved = cellkit.export_weights(layer.cell)
    for letter, want in (("m", mean), ("v", variance)):
        have = np.concatenate([moved[f"{letter}_z"], moved[f"{letter}_n"]])
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)


def test_one_block_of_a_block_gru_is_a_full_matrix(rng):
    """Blocks are no more than zeros in larger matrices."""
    x = rng.normal(size=(B, T, 4)).astype(DTYPE)
    halves, _ = make("block_gru", x, rng, units=4, blocks=2, projection_units=3)
    whole, _ = make("block_gru", x, rng, units=4, blocks=1, projection_units=3)
    letters = dict(cellkit.export_weights(halves.cell))
    for name in ("A_1", "R", "N", "Z"):
        full = np.zeros((1, 4, 4), DTYPE)
        full[0, :2, :2], full[0, 2:, 2:] = letters[name]
        letters[name] = full
    cellkit.import_weights(whole.cell, letters)
    got, want = to_numpy(whole(x)[0]), to_numpy(halves(x)[0])
    np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)


def test_flax_computes_another_function(rng):
    x = rng.normal(size=(B, T, 4))
    paper, _ = make("mgu", x, rng, units=3, use_bias=False)
    flax, _ = make("mgu", x, rng, units=3, use_bias=False, variant="flax")
    set_cell_weights(flax.cell, cell_weights(paper.cell))
    assert np.abs(to_numpy(paper(x)[0]) - to_numpy(flax(x)[0])).max() > 0.1


def test_one_step_of_the_flax_form_by_hand():
    cell = MGUCell(1, variant="flax", dtype=DTYPE)
    cell.build((None, 1))
    weights = {
        "kernel": [[0.5, -1.0]],
        "recurrent_kernel": [[2.0, 3.0]],
        "bias": [0.1, 0.2],
        "recurrent_bias": [-0.7],
    }
    set_cell_weights(cell, weights)
    h, _ = cell(np.array([[1.5]]), [np.array([[0.4]])])
    f = sigmoid(np.array(0.5 * 1.5 + 2.0 * 0.4 + 0.1))
    n = np.tanh(-1.0 * 1.5 + 0.2 + f * (3.0 * 0.4 - 0.7))
    np.testing.assert_allclose(to_numpy(h), [[(1 - f) * n + f * 0.4]], rtol=TOLERANCE)


@pytest.mark.parametrize(("unit", "first"), [(True, 1.0), (False, 0.0)])
def test_the_gate_of_ugrnn_starts_open(unit, first):
    cell = UGRNNCell(2, unit_update_bias=unit)
    cell.build((None, 3))
    np.testing.assert_array_equal(to_numpy(cell.bias), [first, first, 0, 0])


# GRU-D --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize("given", [True, False], ids=["given states", "initial states"])
def test_gru_d_counts_the_time_since_the_last_observation(mask, given, rng):
    check("gru_d", series(rng, gaps=1), rng, mask, given, units=4, gaps="step")


def test_both_kinds_of_gaps_are_one_cell(rng):
    """The count that the cell keeps is the paper's recursion over the gaps."""
    step, data = rng.random((B, T, 1)), series(rng)
    gaps = np.zeros((B, T, 3))
    gaps[:, 0] = step[:, 0]
    for t in range(1, T):
        gaps[:, t] = step[:, t] + (1 - data["observed"][:, t - 1]) * gaps[:, t - 1]
    paper, _ = make("gru_d", data, rng, units=4)
    counting, _ = make("gru_d", {**data, "dt": step}, rng, units=4, gaps="step")
    set_cell_weights(counting.cell, cell_weights(paper.cell))
    want = to_numpy(paper({**data, "dt": gaps})[0])
    got = to_numpy(counting({**data, "dt": step})[0])
    np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)


def test_missing_values_are_not_looked_at(rng):
    data = series(rng)
    layer, _ = make("gru_d", data, rng, units=4)
    hole = np.where(data["observed"] > 0, data["values"], np.nan)
    for got, want in zip(layer({**data, "values": hole}), layer(data), strict=True):
        np.testing.assert_array_equal(to_numpy(got), to_numpy(want))


def test_missing_values_reach_no_gradient(rng):
    data = {k: x.astype("float32") for k, x in series(rng, missing=np.nan).items()}
    inputs = {k: keras.Input(x.shape[1:], name=k) for k, x in data.items()}
    model = keras.Model(inputs, cellkit.RNN(GRUDCell(4))(inputs))
    model.compile("sgd", "mse")
    before = [w.copy() for w in model.get_weights()]
    model.train_on_batch(data, np.ones((B, 4), "float32"))
    after = model.get_weights()
    assert all(np.isfinite(w).all() for w in after)
    assert sum(np.abs(a - b).max() > 0 for a, b in zip(after, before, strict=True)) >= 7


def test_a_value_decays_to_the_mean_with_the_time_since_it_was_seen():
    cell = GRUDCell(2, mean=[3.0], dtype=DTYPE)
    cell.build({"values": (None, 1), "observed": (None, 1), "dt": (None, 1)})
    weights = cell_weights(cell)
    seen = np.array([[7.0]])

    def filled(observed, dt):
        """Return the first variable as the gates see it, through a cell that only copies it."""
        copy = {k: np.zeros_like(w) for k, w in weights.items()}
        copy |= {"input_decay": np.array([0.5]), "empirical_mean": np.array([3.0])}
        copy["bias"][:2] = 100.0  # z = 1
        copy["kernel"][0, 4] = 0.01  # n = tanh(0.01 * x^)
        set_cell_weights(cell, copy)
        inputs = {"values": np.array([[-5.0]]), "observed": observed, "dt": np.array([[dt]])}
        h, _ = cell(inputs, [np.zeros((1, 2)), seen])
        return np.arctanh(to_numpy(h)[0, 0]) / 0.01

    yes, no = np.array([[1]]), np.array([[0]])
    close = {"rtol": 1e-9 if DTYPE == "float64" else 1e-4}
    np.testing.assert_allclose(filled(yes, 2.0), -5.0, **close)
    np.testing.assert_allclose(filled(no, 0.0), 7.0, **close)
    np.testing.assert_allclose(filled(no, 2.0), 3 + 4 * np.exp(-1), **close)
    np.testing.assert_allclose(filled(no, 1e3), 3.0, **close)


def test_gru_d_takes_a_tuple_and_flags(rng):
    data = series(rng)
    layer, _ = make("gru_d", data, rng, units=4)
    flags = {**data, "observed": data["observed"] > 0}
    want = to_numpy(layer(data)[0])
    # An engine may join operations of one dtype alone: equal up to rounding.
    close = {"rtol": TOLERANCE, "atol": TOLERANCE}
    np.testing.assert_allclose(to_numpy(layer(flags)[0]), want, **close)
    other = cellkit.RNN(GRUDCell(4, dtype=DTYPE), return_sequences=True, dtype=DTYPE)
    parts = (data["values"], data["observed"], data["dt"])
    other.build(tuple(x.shape for x in parts))
    set_cell_weights(other.cell, cell_weights(layer.cell))
    np.testing.assert_allclose(to_numpy(other(parts)), want, **close)


def test_gru_d_drops_values_and_leaves_masks_and_gaps_whole(rng):
    """Variable 0 alone enters the gates, so a row is dropped from end to end or not at all."""
    data = series(rng)
    data["observed"] = np.ones_like(data["observed"])
    data["values"] = rng.normal(size=(B, T, 3)).astype(DTYPE)
    layer, _ = make("gru_d", data, rng, units=4, dropout=0.5, seed=3)
    weights = {k: np.zeros_like(w) for k, w in cell_weights(layer.cell).items()}
    weights["kernel"][0] = 1.0
    set_cell_weights(layer.cell, weights)
    output = to_numpy(layer(data, training=True)[0])
    dropped = (output == 0).all(axis=(1, 2))
    whole = (output != 0).all(axis=(1, 2))
    assert (dropped | whole).all()
    many = {k: np.repeat(x, 20, axis=0) for k, x in data.items()}
    output = to_numpy(layer(many, training=True)[0])
    assert 10 < (output == 0).all(axis=(1, 2)).sum() < 50
    weights["kernel"][0], weights["mask_kernel"][1] = 0.0, 1.0
    set_cell_weights(layer.cell, weights)
    output = to_numpy(layer(many, training=True)[0])
    assert (output != 0).all()


def test_the_means_are_a_weight_that_does_not_train(rng):
    layer, _ = make("gru_d", series(rng), rng, units=4)
    assert "empirical_mean" in cell_weights(layer.cell)
    assert "empirical_mean" not in [v.name for v in layer.cell.trainable_variables]
    cell = GRUDCell(2, mean=np.array([1, 2.5]))
    cell.build({"values": (None, 2), "observed": (None, 2), "dt": (None, 2)})
    np.testing.assert_array_equal(to_numpy(cell.get_initial_state(3)[1]), [[1, 2.5]] * 3)
    assert GRUDCell.from_config(cell.get_config()).mean == [1.0, 2.5]


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.one_backend
@pytest.mark.parametrize("cls", [MGUCell, UGRNNCell, GRUDCell])
@pytest.mark.parametrize("units", [-1, 0, 2.5])
def test_units_must_be_a_positive_integer(cls, units):
    _, received, _, _ = raised(cls, units)
    assert f"units={units}" in received


@pytest.mark.parametrize(
    ("cls", "options", "named"),
    [
        (BlockGRUCell, {"blocks": 3}, "units=4, blocks=3"),
        (BlockGRUCell, {"blocks": 0}, "blocks=0"),
        (BlockGRUCell, {"projection_units": -1}, "projection_units=-1"),
        (BlockGRUCell, {"depth": 0}, "depth=0"),
        (BlockGRUCell, {"norm": "batch"}, "norm='batch'"),
        (BlockGRUCell, {"update_bias": "-1"}, "update_bias='-1'"),
        (BlockGRUCell, {"epsilon": 0.0}, "epsilon=0.0"),
        (LiGRUCell, {"normalization": "layer"}, "normalization='layer'"),
        (LiGRUCell, {"momentum": 1.0}, "momentum=1.0"),
        (LiGRUCell, {"epsilon": -1.0}, "epsilon=-1.0"),
        (LiGRUCell, {"activation": "tanhshrink"}, "activation='tanhshrink'"),
    ],
)
def test_options_out_of_range(cls, options, named):
    defaults = {"units": 4, **({"blocks": 2} if cls is BlockGRUCell else {})}
    assert named in raised(cls, **{**defaults, **options})[1]


def test_unknown_options_are_named():
    assert "'paper' or 'flax'" in raised(MGUCell, 3, variant="haiku")[2]
    assert "'variable'" in raised(GRUDCell, 3, gaps="both")[2]


@pytest.mark.parametrize("mean", ["zero", [1.0, np.nan], [[1.0]], 3.0])
def test_means_must_be_numbers(mean):
    assert "mean=" in raised(GRUDCell, 3, mean=mean)[1]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        ({"values": (2, 5, 3), "observed": (2, 5, 2), "dt": (2, 5, 3)}, {}),
        ({"values": (2, 5, 3), "observed": (2, 5, 3), "dt": (2, 5, 1)}, {}),
        ({"values": (2, 5, 3), "observed": (2, 5, 3), "dt": (2, 5, 3)}, {"gaps": "step"}),
        ({"values": (2, 5, 3), "observed": (2, 5, 3), "dt": (2, 5, 3)}, {"mean": [1.0, 2.0]}),
        ({"values": (2, 5, 3), "observed": (2, 5, 3)}, {}),
        ((2, 5, 3), {}),
    ],
    ids=["mask", "gaps", "gaps per step", "means", "no gaps", "values alone"],
)
def test_inputs_of_gru_d_must_fit(shapes, options):
    def call():
        shape = isinstance(shapes, tuple)
        data = np.zeros(shapes) if shape else {k: np.zeros(s) for k, s in shapes.items()}
        cellkit.RNN(GRUDCell(4, **options))(data)

    assert "dt" in raised(call)[2]


def test_gru_d_refuses_time_that_runs_backwards(rng):
    x = rng.normal(size=(2, 3, 3)).astype(DTYPE)
    inputs = {"values": x, "observed": np.ones_like(x), "dt": np.full_like(x, -1.0)}
    layer, _ = make("gru_d", inputs, rng, units=4)
    assert "-1 at step 0 of row 0" in raised(layer, inputs)[1]
