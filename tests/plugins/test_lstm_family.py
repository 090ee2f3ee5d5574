"""The LSTM family: numbers against references and other implementations, options, errors."""

import keras
import numpy as np
import pytest
from cell_numbers import (
    DTYPE,
    TOLERANCE,
    cases,
    compare,
    compare_golden,
    layer_of,
    random_weights,
    sizes,
    to_numpy,
    worst,
)
from three_parts import raised

import cellkit
from cellkit.cells.initializers import ChronoInitializer
from cellkit.registry import cell_weights, export_weights, import_weights, set_cell_weights
from cellkit_lstm import (
    CIFGLSTMCell,
    JANETCell,
    LayerNormLSTMCell,
    LSTMPCell,
    MLSTMCell,
    NASCell,
    NestedLSTMCell,
    PeepholeLSTMCell,
    PhasedLSTMCell,
    SLSTMCell,
    ZoneoutLSTMCell,
)

NAMES = (
    "peephole_lstm",
    "cifg_lstm",
    "lstmp",
    "layer_norm_lstm",
    "zoneout_lstm",
    "janet",
    "nested_lstm",
    "phased_lstm",
    "nas",
    "slstm",
    "mlstm",
)
FROZEN = [name for name in NAMES if name not in ("zoneout_lstm", "janet", "nested_lstm")]


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def run(cell, inputs, states=None, **kwargs):
    layer = cellkit.RNN(cell, return_sequences=True, return_state=True, dtype=DTYPE)
    return to_numpy(layer(inputs, initial_state=states, **kwargs))


def built(cell, features=5, seed=1):
    """Build a cell and give it random weights."""
    cell.build((None, features) if isinstance(features, int) else features)
    random_weights(cell, np.random.default_rng(seed))
    return cell


# --- numbers -----------------------------------------------------------------------------------


@pytest.mark.one_backend
@pytest.mark.part(3)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize(("name", "case"), cases(*NAMES))
def test_layer_equals_the_reference_over_time(name, case, masked):
    assert compare(name, case, masked) < TOLERANCE


@pytest.mark.one_backend
@pytest.mark.parametrize("name", FROZEN)
def test_equals_another_implementation(name):
    error, dtype = compare_golden(name)
    assert error < (1e-12 if dtype == DTYPE == "float64" else 1e-5)


def test_the_golden_file_tells_the_forms_of_a_cell_apart():
    assert compare_golden("nas", third_gate="add")[0] > 1e-2
    assert compare_golden("layer_norm_lstm", form="tfa")[0] > 1e-2
    assert compare_golden("phased_lstm", alpha=0.001)[0] > 1e-4
    assert compare_golden("slstm", forget_gate="exp")[0] > 1e-2


@pytest.mark.one_backend
@pytest.mark.parametrize(("name", "case"), cases(*NAMES))
def test_symbols_and_weights_are_inverse(name, case):
    found = cellkit.get(name)
    options = found.spec.cases[case]
    layer, spec, _ = layer_of(name, options, sizes(spec_inputs(name), (2, 3)))
    weights, config = cell_weights(layer.cell), layer.cell.get_config()
    back = spec.symbols.from_symbols(spec.symbols.to_symbols(weights, config), config)
    assert set(back) == set(weights)
    for path, w in weights.items():
        np.testing.assert_array_equal(back[path], w)


def spec_inputs(name):
    return cellkit.get(name).spec.inputs


# --- cells that are other cells in special cases -------------------------------------------------


def lstm_weights(cell):
    """Return the weights of a plain LSTM that is equal to `cell` where that is one."""
    return [np.asarray(cell_weights(cell)[k]) for k in ("kernel", "recurrent_kernel", "bias")]


@pytest.mark.parametrize(
    "cell",
    [
        PeepholeLSTMCell(4, peepholes=False, dtype=DTYPE),
        NestedLSTMCell(4, depth=1, dtype=DTYPE),
        ZoneoutLSTMCell(4, zoneout_h=0.0, zoneout_c=0.0, dtype=DTYPE),
    ],
    ids=lambda cell: type(cell).__name__,
)
def test_is_the_lstm_without_what_is_special(cell):
    # Keras' LSTM computes in float32 on some backends, whatever the dtype.
    built(cell)
    plain = keras.layers.LSTM(4, return_sequences=True)
    plain.build((None, None, 5))
    plain.set_weights(lstm_weights(cell))
    x = normal(3, 6, 5).astype("float32")
    y, *_ = run(cell, x)
    np.testing.assert_allclose(y, to_numpy(plain(x)), atol=1e-5)


def test_nested_cells_see_the_gated_input_and_the_gated_memory():
    """Two levels by hand: the inner cell is an LSTM cell on (i * g, f * c)."""
    cell = built(NestedLSTMCell(3, depth=2, dtype=DTYPE))
    w = cell_weights(cell)
    inner = PeepholeLSTMCell(3, peepholes=False, dtype=DTYPE)
    inner.build((None, 3))
    set_cell_weights(inner, {k: w[f"{k}_2"] for k in ("kernel", "recurrent_kernel", "bias")})
    x, h, c1, c2 = normal(2, 5), normal(2, 3, seed=1), normal(2, 3, seed=2), normal(2, 3, seed=3)
    z = x @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"]
    i, f, g, o = np.split(z, 4, axis=-1)
    i, f, o = (1 / (1 + np.exp(-v)) for v in (i, f, o))
    new_c1, (_, new_c2) = inner(i * np.tanh(g), [f * c1, c2])
    y, states = cell(x, [h, c1, c2])
    assert worst(to_numpy([states[1], states[2]]), to_numpy([new_c1, new_c2])) < TOLERANCE
    assert worst(to_numpy([y]), [o * np.tanh(to_numpy(new_c1))]) < TOLERANCE


def test_coupled_gates_are_a_lstm_with_a_forget_gate_made_from_the_input_gate():
    cell = built(CIFGLSTMCell(3, peepholes=True, dtype=DTYPE))
    symbols = export_weights(cell)
    # s(-a) = 1 - s(a): a forget gate with the weights of the input gate, negated.
    symbols.update({k.replace("_i", "_f"): -v for k, v in symbols.items() if k.endswith("_i")})
    full = PeepholeLSTMCell(3, dtype=DTYPE)
    full.build((None, 5))
    import_weights(full, symbols)
    x, states = normal(2, 4, 5), [normal(2, 3, seed=1), normal(2, 3, seed=2)]
    assert worst(run(cell, x, states), run(full, x, states)) < TOLERANCE


def test_heads_of_slstm_are_separate_cells():
    cell = built(SLSTMCell(6, num_heads=3, dtype=DTYPE))
    symbols = export_weights(cell)
    x = normal(2, 4, 5)
    whole = run(cell, x)
    for head in range(3):
        part = slice(2 * head, 2 * head + 2)
        alone = SLSTMCell(2, dtype=DTYPE)
        alone.build((None, 5))
        import_weights(
            alone,
            {k: v[part, part] if k.startswith("U") else v[..., part] for k, v in symbols.items()},
        )
        assert worst(run(alone, x), [a[..., part] for a in whole]) < TOLERANCE


def test_first_step_of_slstm_holds_per_row():
    """A row that starts empty gives what it gives alone, beside a row that does not."""
    cell = built(SLSTMCell(4, dtype=DTYPE))
    x = normal(2, 5, 5)
    started = [normal(1, 4, seed=s) for s in (1, 2)] + [np.full((1, 4), 0.7), normal(1, 4, seed=3)]
    # m of the empty row means nothing, however large.
    empty = [np.zeros((1, 4)), np.zeros((1, 4)), np.zeros((1, 4)), np.full((1, 4), 50.0)]
    both = [np.concatenate(pair) for pair in zip(started, empty, strict=True)]
    together, alone = run(cell, x, both), run(cell, x[1:], empty)
    assert worst([a[1:] for a in together], alone) < TOLERANCE
    assert worst(alone, run(cell, x[1:])) < TOLERANCE


def test_slstm_stays_finite_with_large_gates():
    cell = built(SLSTMCell(4))
    x = 1e3 * normal(3, 8, 5).astype("float32")
    for a in run(cell, x):
        assert np.isfinite(a).all()


@pytest.mark.parametrize("forget_gate", ["sigmoid", "exp"])
def test_mlstm_equals_the_parallel_form_of_the_paper(forget_gate):
    """h_t is a weighted sum of the values so far, with weights from gates, keys and queries."""
    cell = built(MLSTMCell(6, num_heads=2, epsilon=1e-30, forget_gate=forget_gate, dtype=DTYPE))
    w, x = export_weights(cell), normal(2, 7, 5)
    got, *_ = run(cell, x)
    a = {name: x @ w[f"W_{name}"] + w[f"b_{name}"] for name in "qkvifo"}
    log_f = -np.logaddexp(0, -a["f"]) if forget_gate == "sigmoid" else a["f"]
    total = np.cumsum(log_f, axis=1)
    want = np.zeros((2, 7, 6))
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        q, k, v = (a[name][..., part] for name in "qkv")
        for t in range(7):
            decay = total[:, t, None, head] - total[:, : t + 1, head] + a["i"][:, : t + 1, head]
            score = np.einsum("bd,bsd->bs", q[:, t], k[:, : t + 1]) / np.sqrt(3) * np.exp(decay)
            scale = np.maximum(np.abs(score.sum(axis=1)), 1)
            want[:, t, part] = np.einsum("bs,bsd->bd", score, v[:, : t + 1]) / scale[:, None]
    want /= 1 + np.exp(-a["o"])
    assert worst([got], [want]) < 20 * TOLERANCE


def test_layer_norm_of_an_lstm_ignores_the_scale_of_the_inputs():
    cell = built(LayerNormLSTMCell(4, epsilon=1e-12, dtype=DTYPE))
    x, states = normal(2, 1, 5), [normal(2, 4, seed=1), normal(2, 4, seed=2)]
    assert worst(run(cell, x, states), run(cell, 10 * x, states)) < 30 * TOLERANCE


def test_tfa_form_stores_the_normalised_cell_state():
    cell = built(LayerNormLSTMCell(4, form="tfa", epsilon=1e-12, dtype=DTYPE))
    w = export_weights(cell)
    _, _, c = run(cell, normal(2, 3, 5))
    normed = (c - w["beta_c"]) / w["gamma_c"]
    assert abs(normed.mean(axis=-1)).max() < 1e-4
    assert abs(normed.std(axis=-1) - 1).max() < 1e-4


# --- time ----------------------------------------------------------------------------------------


def test_phased_units_move_only_while_they_are_open():
    cell = built(PhasedLSTMCell(4, leak_at_inference=False, dtype=DTYPE), [(None, 5), (None, 1)])
    weights = {**cell_weights(cell), "tau": np.full(4, 10.0), "r_on": np.full(4, 0.2)}
    set_cell_weights(cell, {**weights, "shift": np.array([0.0, 2.0, 4.0, 6.0])})
    states = [normal(1, 4, seed=1), normal(1, 4, seed=2)]
    for t, moving in ((1.0, 0), (3.0, 1), (5.0, 2), (7.0, 3), (-9.0, 0), (13.0, 1)):
        h = to_numpy(cell((normal(1, 5), np.array([[t]])), states)[0])
        moved = np.abs(h - states[0])[0] > 1e-6  # states are float32 on JAX
        assert moved.tolist() == [unit == moving for unit in range(4)], t


def test_phased_leak_without_inference_is_for_training_alone():
    cell = built(
        PhasedLSTMCell(4, leak_at_inference=False, alpha=0.5, dtype=DTYPE), [(None, 5), (None, 1)]
    )
    set_cell_weights(
        cell,
        {**cell_weights(cell), "tau": np.ones(4), "shift": np.zeros(4), "r_on": np.full(4, 0.1)},
    )
    states, inputs = (
        [normal(1, 4, seed=1), normal(1, 4, seed=2)],
        (normal(1, 5), np.full((1, 1), 0.5)),
    )
    still = to_numpy(cell(inputs, states)[0])
    moved = to_numpy(cell(inputs, states, training=True)[0])
    np.testing.assert_allclose(still, states[0], atol=1e-7)
    assert np.abs(moved - states[0]).min() > 1e-4


def test_phased_clock_can_run_backwards():
    cell = built(PhasedLSTMCell(3, dtype=DTYPE), [(None, 5), (None, 1)])
    x, t = normal(2, 6, 5), np.cumsum(np.abs(normal(2, 6, 1, seed=1)), axis=1)
    layer = cellkit.RNN(cell, go_backwards=True, return_sequences=True, dtype=DTYPE)
    forward = run(cell, (x[:, ::-1], t[:, ::-1]))[0]
    assert worst([to_numpy(layer((x, t)))], [forward]) < TOLERANCE


def test_phased_periods_span_their_range():
    cell = PhasedLSTMCell(400, period_range=(2.0, 50.0), seed=1)
    cell.build([(None, 3), (None, 1)])
    w = cell_weights(cell)
    assert 2.0 <= w["tau"].min() < 2.5 and 40 < w["tau"].max() <= 50.0
    assert (w["shift"] >= 0).all() and (w["shift"] < w["tau"]).all()
    assert abs(np.log(w["tau"]).mean() - np.log(10)) < 0.2  # uniform in the logarithm


# --- randomness ----------------------------------------------------------------------------------


def test_zoneout_is_drawn_anew_at_every_step():
    """With a frozen input the LSTM's own change is smooth; what stays put is zoned out."""
    cell = built(ZoneoutLSTMCell(200, zoneout_h=0.3, zoneout_c=0.0, seed=3))
    layer = cellkit.RNN(cell, return_sequences=True)
    y = to_numpy(layer(normal(4, 6, 5).astype("float32"), training=True))
    kept = y[:, 1:] == y[:, :-1]
    assert 0.25 < kept.mean() < 0.35
    for t in range(4):
        assert 0.05 < (kept[:, t] & kept[:, t + 1]).mean() < 0.13  # 0.09, not 0.3
    assert not (kept[0] == kept[1]).all()
    again = to_numpy(layer(normal(4, 6, 5).astype("float32"), training=True))
    assert not np.array_equal(y, again)


def test_zoneout_of_the_two_states_has_its_own_rate():
    cell = built(ZoneoutLSTMCell(500, zoneout_h=0.1, zoneout_c=0.6, seed=3))
    h, c = normal(2, 500, seed=1).astype("float32"), normal(2, 500, seed=2).astype("float32")
    y, (new_h, new_c) = to_numpy(cell(normal(2, 5).astype("float32"), [h, c], training=True))
    assert 0.06 < (new_h == h).mean() < 0.14
    assert 0.55 < (new_c == c).mean() < 0.65
    np.testing.assert_array_equal(y, new_h)


def test_zoneout_takes_the_expectation_at_inference():
    options = {"zoneout_h": 0.2, "zoneout_c": 0.5}
    cell, plain = (
        ZoneoutLSTMCell(3, **options, dtype=DTYPE),
        ZoneoutLSTMCell(3, zoneout_h=0.0, zoneout_c=0.0, dtype=DTYPE),
    )
    built(cell)
    plain.build((None, 5))
    set_cell_weights(plain, cell_weights(cell))
    x, h, c = normal(2, 5), normal(2, 3, seed=1), normal(2, 3, seed=2)
    _, got = to_numpy(cell(x, [h, c]))
    _, (full_h, full_c) = to_numpy(plain(x, [h, c]))
    assert worst(got, [0.2 * h + 0.8 * full_h, 0.5 * c + 0.5 * full_c]) < TOLERANCE


@pytest.mark.one_backend
@pytest.mark.parametrize("name", [n for n in NAMES if n != "mlstm"])
def test_recurrent_dropout_acts_in_training_alone(name):
    shape = sizes(spec_inputs(name), (2, 4))
    units = {"units": 6}
    layer, _, rng = layer_of(name, {**units, "recurrent_dropout": 0.5, "seed": 1}, shape)
    if name == "zoneout_lstm":
        layer, _, rng = layer_of(
            name,
            {**units, "recurrent_dropout": 0.5, "seed": 1, "zoneout_h": 0, "zoneout_c": 0},
            shape,
        )
    x = tuple(normal(*s) for s in shape) if isinstance(shape[0], tuple) else normal(*shape)
    states = [np.abs(normal(2, *s.shape, seed=4)) + 0.5 for s in layer.cell.state_spec()]
    plain = to_numpy(layer(x, initial_state=states))[0]
    np.testing.assert_array_equal(plain, to_numpy(layer(x, initial_state=states))[0])
    first, second = (to_numpy(layer(x, initial_state=states, training=True))[0] for _ in range(2))
    assert not np.allclose(first, plain)
    assert not np.allclose(first, second)


# --- options -------------------------------------------------------------------------------------


@pytest.mark.one_backend
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_states_in_their_dtypes(name, policy):
    shape = sizes(spec_inputs(name), (2, 5))
    narrow = policy.removeprefix("mixed_")
    cell = cellkit.create(name, units=4, dtype=policy)
    layer = cellkit.RNN(cell, return_state=True, return_sequences=True, dtype=policy)
    x = tuple(normal(*s) for s in shape) if isinstance(shape[0], tuple) else normal(*shape)
    y, *states = layer(x)
    dtypes = [keras.backend.standardize_dtype(a.dtype) for a in (y, *states)]
    sums = {"slstm": 3, "mlstm": 3}.get(name, 0)
    assert dtypes == [narrow] * (1 + len(states) - sums) + ["float32"] * sums
    assert all(v.dtype == "float32" for v in cell.trainable_variables)
    wide = cellkit.create(name, units=4, dtype="float32")
    wide.build(cell_shape(shape))
    set_cell_weights(wide, cell_weights(cell))
    want = to_numpy(cellkit.RNN(wide, return_sequences=True)(x))
    got = to_numpy(keras.ops.cast(y, "float32"))
    assert np.abs(got - want).max() < (0.01 if narrow == "float16" else 0.08)


def cell_shape(shape):
    if isinstance(shape[0], tuple):
        return tuple(cell_shape(s) for s in shape)
    return (shape[0], *shape[2:])


@pytest.mark.one_backend
@pytest.mark.parametrize(("name", "case"), cases(*NAMES))
def test_config_makes_the_same_cell(name, case):
    found = cellkit.get(name)
    cell = found.cls(**found.spec.cases[case])
    config = cell.get_config()
    assert found.cls.from_config(config).get_config() == config
    for option, value in found.spec.cases[case].items():
        assert config[option] == value


@pytest.mark.one_backend
@pytest.mark.parametrize("name", NAMES)
def test_saved_model_gives_the_same_numbers(name, tmp_path):
    shape = sizes(spec_inputs(name), (2, 5))
    shapes = shape if isinstance(shape[0], tuple) else (shape,)
    inputs = [keras.Input(s[1:]) for s in shapes]
    x = [normal(*s).astype("float32") for s in shapes]
    layer = cellkit.RNN(cellkit.create(name, units=4))
    model = keras.Model(inputs, layer(tuple(inputs) if len(inputs) > 1 else inputs[0]))
    random_weights(layer.cell, np.random.default_rng(1))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model.predict(x, verbose=0), again.predict(x, verbose=0))


def bias_of(cell, gate):
    cell.build((None, 5))
    return export_weights(cell)[f"b_{gate}"]


@pytest.mark.parametrize(
    "cls", [PeepholeLSTMCell, LSTMPCell, LayerNormLSTMCell, ZoneoutLSTMCell, NestedLSTMCell]
)
def test_forget_gates_start_open(cls):
    assert (bias_of(cls(4), "f") == 1).all()
    assert (bias_of(cls(4, unit_forget_bias=False), "f") == 0).all()
    cell = cls(4, max_time=50)
    f = bias_of(cell, "f")
    assert (f >= 0).all() and (f <= np.log(49)).all() and np.ptp(f) > 0
    np.testing.assert_array_equal(export_weights(cell)["b_i"], -f)


def test_input_gate_of_coupled_gates_starts_closed():
    assert (bias_of(CIFGLSTMCell(4), "i") == -1).all()
    assert (bias_of(CIFGLSTMCell(4, max_time=50), "i") <= 0).all()
    assert (bias_of(JANETCell(4, max_time=50), "f") >= 0).all()


def test_heads_of_mlstm_start_with_memories_of_several_lengths():
    np.testing.assert_allclose(bias_of(MLSTMCell(8, num_heads=4), "f"), [3, 4, 5, 6])


def test_chrono_initializer_is_serialisable_and_reproducible():
    first = ChronoInitializer(30)
    twin = keras.initializers.deserialize(keras.initializers.serialize(first))
    np.testing.assert_array_equal(to_numpy(first((7,))), to_numpy(twin((7,))))
    keras.utils.set_random_seed(5)
    seed = ChronoInitializer(30).seed
    keras.utils.set_random_seed(5)
    assert ChronoInitializer(30).seed == seed


def test_states_of_a_nested_lstm_follow_its_depth():
    assert [NestedLSTMCell(3, depth=d).state_size for d in (1, 2, 4)] == [[3] * 2, [3] * 3, [3] * 5]


def test_slstm_takes_the_blocks_of_its_heads_one_by_one():
    cell = built(SLSTMCell(4, num_heads=2))
    symbols = export_weights(cell)
    apart = {
        k: np.stack([v[:2, :2], v[2:, 2:]]) if k.startswith("U") else v for k, v in symbols.items()
    }
    other = SLSTMCell(4, num_heads=2)
    other.build((None, 5))
    import_weights(other, apart)
    for path, w in cell_weights(cell).items():
        np.testing.assert_array_equal(cell_weights(other)[path], w)


# --- errors --------------------------------------------------------------------------------------

BAD_OPTIONS = [
    *[
        (cls, {"units": u}, repr(u))
        for cls in (PeepholeLSTMCell, NASCell, MLSTMCell)
        for u in (-1, 0)
    ],
    (LSTMPCell, {"units": 4, "projection_units": 0}, "projection_units=0"),
    (NestedLSTMCell, {"units": 4, "depth": 0}, "depth=0"),
    (SLSTMCell, {"units": 4, "num_heads": 3}, "num_heads=3"),
    (MLSTMCell, {"units": 4, "num_heads": 3}, "num_heads=3"),
    (SLSTMCell, {"units": 4, "num_heads": -2}, "num_heads=-2"),
    (SLSTMCell, {"units": 4, "forget_gate": "relu"}, "'relu'"),
    (MLSTMCell, {"units": 4, "recurrent_dropout": 0.1}, "0.1"),
    (MLSTMCell, {"units": 4, "epsilon": 0}, "epsilon=0"),
    (NASCell, {"units": 4, "third_gate": "subtract"}, "'subtract'"),
    (LayerNormLSTMCell, {"units": 4, "form": "labml"}, "'labml'"),
    (LayerNormLSTMCell, {"units": 4, "epsilon": -1.0}, "epsilon=-1.0"),
    (ZoneoutLSTMCell, {"units": 4, "zoneout_h": 1.0}, "zoneout_h=1.0"),
    (ZoneoutLSTMCell, {"units": 4, "zoneout": 0.1}, "zoneout=0.1"),
    (PhasedLSTMCell, {"units": 4, "ratio_on": 0.0}, "ratio_on=0.0"),
    (PhasedLSTMCell, {"units": 4, "alpha": 1.5}, "alpha=1.5"),
    (PhasedLSTMCell, {"units": 4, "period_range": (10.0, 1.0)}, "(10.0, 1.0)"),
    (JANETCell, {"units": 4, "max_time": 1}, "max_time=1"),
    (CIFGLSTMCell, {"units": 4, "peephole": True}, "peephole=True"),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("cls", "options", "received"), BAD_OPTIONS)
def test_bad_options_are_refused(cls, options, received):
    assert received in raised(cls, **options)[1]


@pytest.mark.parametrize("shape", [(2, 4, 3), [(2, 4, 3), (2, 4)], [(2, 4, 3), (2, 4, 2)]])
def test_phased_lstm_asks_for_the_time(shape):
    inputs = np.zeros(shape) if isinstance(shape, tuple) else tuple(map(np.zeros, shape))
    what, _, expected, fix = raised(cellkit.RNN(PhasedLSTMCell(4)), inputs)
    assert "time" in what and "(batch, 1)" in expected and "(x, t)" in fix


def test_full_matrices_do_not_fit_heads():
    cell = built(SLSTMCell(4, num_heads=2))
    symbols = {**export_weights(cell), "U_f": np.ones((4, 4))}
    assert "U_f" in raised(import_weights, cell, symbols)[0]


def test_random_biases_differ_from_gate_to_gate():
    cell = PeepholeLSTMCell(6, bias_initializer="random_normal", unit_forget_bias=False)
    cell.build((None, 5))
    symbols = export_weights(cell)
    assert len({symbols[f"b_{gate}"].tobytes() for gate in "ifgo"}) == 4
