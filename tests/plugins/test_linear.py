"""The linear cells: references, other implementations, initial weights, options, errors."""

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
    map_structure,
    random_states,
    to_numpy,
)
from models_around import save_and_load, train
from three_parts import raised

import cellkit
from cellkit.registry import cell_weights, export_weights, import_weights, set_cell_weights
from cellkit_linear import (
    FFMCell,
    LRUCell,
    MambaCell,
    MinGRUCell,
    MinLSTMCell,
    QRNNCell,
    RGLRUCell,
    RWKV4Cell,
    S4DCell,
    S5Cell,
    TGRUCell,
    TLSTMCell,
    positive,
)
from cellkit_linear._discrete import exponential_less_one
from cellkit_linear.s5 import hippo

CELLS = ("min_gru", "min_lstm", "qrnn", "lru", "rg_lru", "s5", "hgrn", "mamba")
MORE = ("t_gru", "t_lstm", "s4d", "ffm")


@pytest.fixture
def rng():
    return np.random.default_rng(2410)


def data(rng, features=4):
    return rng.normal(size=(B, T, features)).astype(DTYPE)


@pytest.mark.one_backend
@pytest.mark.parametrize(("name", "case"), cases(*CELLS, *MORE))
def test_the_layer_computes_the_reference(name, case, rng):
    layer = check_case(name, case, rng, mask=MASK)
    assert layer.engine_report().engine == "scan"


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_s5_computes_the_reference_for_gaps_that_are_inputs(discretization, rng):
    x, dt = data(rng), rng.random((B, T, 1)).astype(DTYPE)
    options = {"units": 3, "state_units": 5, "dt": None, "discretization": discretization}
    check("s5", (x, dt), rng, mask=MASK, **options)


# Conformance compares the gradients of all of them on each backend (GRD-01).
@pytest.mark.parametrize("name", CELLS)
def test_training_lowers_the_loss(name):
    """Through the scan, and with the weights that the initializers gave."""
    train(name, epochs=15)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", CELLS)
def test_a_saved_model_computes_the_same(name, tmp_path):
    save_and_load(name, tmp_path)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", CELLS)
def test_states_stay_wide_under_a_16_bit_policy(name):
    x = np.random.default_rng(1).normal(size=(2, 5, 3)).astype("float32")
    cell = cellkit.create(name, units=4, dtype="mixed_bfloat16", seed=1)
    layer = cellkit.RNN(cell, dtype="mixed_bfloat16", return_state=True)
    output, state, *_ = layer(x)
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    wide = "complex64" if name in ("lru", "s5") else "float32"
    assert keras.backend.standardize_dtype(state.dtype) == wide
    loop = cellkit.RNN(cell, dtype="mixed_bfloat16", return_state=True, engine="loop")
    np.testing.assert_allclose(to_numpy(state), to_numpy(loop(x)[1]), rtol=0.02, atol=0.02)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["t_gru", "t_lstm", "s4d", "rwkv4"])
def test_equals_another_implementation(name):
    check_golden(name)


# Strongly typed cells ---------------------------------------------------------------------------


@pytest.mark.one_backend
def test_a_typed_lstm_is_a_qrnn_without_its_activation(rng):
    """The two agree where tanh is the logistic function's twin, o = 2 s(2 a) - 1."""
    x = data(rng)
    typed, _ = make("t_lstm", x, rng, units=3, activation="sigmoid")
    other, _ = make("qrnn", x, rng, units=3, activation="linear")
    weights = cell_weights(typed.cell)
    gates = {k: np.split(w, 3, axis=-1) for k, w in weights.items()}
    set_cell_weights(other.cell, {k: np.concatenate(g, axis=-1) for k, g in gates.items()})
    for got, want in zip(typed(x), other(x), strict=True):
        np.testing.assert_allclose(to_numpy(got), to_numpy(want), rtol=TOLERANCE, atol=TOLERANCE)


# RWKV-4 -----------------------------------------------------------------------------------------


@pytest.mark.one_backend
@pytest.mark.parametrize(("name", "case"), cases("rwkv4"))
def test_rwkv4_computes_the_reference(name, case, rng):
    check_case(name, case, rng, mask=MASK, given=False)


@pytest.mark.one_backend
def test_rwkv4_is_a_weighted_mean_and_large_keys_overflow_nothing(rng):
    x = data(rng)
    layer, _ = make("rwkv4", x, rng, units=3)
    weights = cell_weights(layer.cell)
    weights["kernel"][:, :3] *= 300.0  # exp of such keys is infinite
    set_cell_weights(layer.cell, weights)
    y = to_numpy(layer(x)[0])
    values = x @ weights["kernel"][:, 3:]
    low, high = np.minimum.accumulate(values, axis=1), np.maximum.accumulate(values, axis=1)
    assert np.isfinite(y).all()
    assert (y >= low - 1e-5).all() and (y <= high + 1e-5).all()


# minGRU and minLSTM -----------------------------------------------------------------------------


def test_positive_is_positive_monotonic_and_found_by_name():
    x = np.linspace(-40, 5, 91)
    y = to_numpy(positive(keras.ops.convert_to_tensor(x, dtype=DTYPE)))
    assert (y > 0).all() and (np.diff(y) >= 0).all()
    np.testing.assert_allclose(y[x >= 0], x[x >= 0] + 0.5, rtol=1e-6)
    for cls in (MinGRUCell, MinLSTMCell):
        assert cls.from_config(cls(3).get_config()).activation is positive


def test_closed_gates_of_min_lstm_still_share_the_state(rng):
    """The quotient of the two gates is 0 / 0 as it stands where both are closed."""
    layer, _ = make("min_lstm", data(rng), rng, units=2)
    weights = cell_weights(layer.cell)
    weights["kernel"][...] = 0.0
    weights["bias"] = np.array([-800.0, -800.0, -801.0, -799.0, 1.0, 1.0])
    set_cell_weights(layer.cell, weights)
    h = to_numpy(layer(np.zeros((1, 1, 4)), initial_state=[np.zeros((1, 2))])[1])
    share = 1 / (1 + np.exp([1.0, -1.0]))
    np.testing.assert_allclose(h[0], share * 1.5, rtol=1e-5)


# QRNN -------------------------------------------------------------------------------------------


def test_the_window_of_qrnn_is_a_causal_convolution(rng):
    x = data(rng)
    layer, _ = make("qrnn", x, rng, units=2, kernel_width=3, pooling="f")
    kernel, bias = cell_weights(layer.cell).values()
    padded = np.concatenate([np.zeros((B, 2, 4)), x], axis=1)
    gates = sum(padded[:, k : k + T] @ kernel[4 * k : 4 * k + 4] for k in range(3)) + bias
    z, f, c = np.tanh(gates[..., :2]), 1 / (1 + np.exp(-gates[..., 2:])), 0.0
    for t in range(T):
        c = f[:, t] * c + (1 - f[:, t]) * z[:, t]
    got = to_numpy(layer(x)[0])[:, -1]
    np.testing.assert_allclose(got, c, rtol=10 * TOLERANCE, atol=10 * TOLERANCE)


def test_masked_inputs_are_in_no_window(rng):
    """Steps in between change nothing, and the memory at the end is of those that count."""
    x = data(rng)
    layer, _ = make("qrnn", x, rng, units=2, kernel_width=3)
    keep = np.array([1, 0, 1, 1, 0, 1], bool)
    output, c, memory = layer(x, mask=np.broadcast_to(keep, (B, T)))
    want, want_c, want_memory = layer(x[:, keep])
    np.testing.assert_allclose(to_numpy(output)[:, keep], to_numpy(want), atol=TOLERANCE)
    np.testing.assert_allclose(to_numpy(c), to_numpy(want_c), atol=TOLERANCE)
    np.testing.assert_array_equal(to_numpy(memory), x[:, [3, 5]])
    np.testing.assert_array_equal(to_numpy(want_memory), x[:, [3, 5]])


# LRU, RG-LRU, S5: where the weights start --------------------------------------------------------


@pytest.mark.one_backend
def test_eigenvalues_of_lru_start_on_a_ring_and_keep_the_size_of_the_input():
    cell = LRUCell(500, r_min=0.8, r_max=0.9, max_phase=1.0, seed=1)
    cell.build((None, 3))
    w = cell_weights(cell)
    radius, phase = np.exp(-np.exp(w["nu_log"])), np.exp(w["theta_log"])
    assert radius.min() >= 0.8 - 1e-6 and radius.max() <= 0.9 + 1e-6
    assert 0 <= phase.min() and phase.max() <= 1.0
    # Uniform in the area: half of the numbers lie outside of this circle.
    assert 0.4 < np.mean(radius > np.sqrt((0.64 + 0.81) / 2)) < 0.6
    np.testing.assert_allclose(np.exp(w["gamma_log"]), np.sqrt(1 - radius**2), rtol=1e-4)
    assert abs(w["kernel"].var() * 2 * 3 - 1) < 0.15


@pytest.mark.one_backend
def test_decays_of_rg_lru_start_in_their_range():
    cell = RGLRUCell(400, c=4.0, min_decay=0.5, max_decay=0.7, seed=1)
    cell.build((None, 400))
    decay = (1 / (1 + np.exp(-cell_weights(cell)["decay"].astype("float64")))) ** 4.0
    assert 0.5 - 1e-5 <= decay.min() < 0.52 and 0.68 < decay.max() <= 0.7 + 1e-5
    assert abs(decay.mean() - 0.6) < 0.02


def test_a_closed_gate_of_rg_lru_has_finite_gradients(rng):
    from cellkit_conformance.subject import backend

    x = np.full((1, 2, 3), -300.0, "float32")
    cell = RGLRUCell(3, seed=1)
    layer = cellkit.RNN(cell)
    layer.build(x.shape)
    weights = cell_weights(cell)
    weights["kernel"][...] = np.eye(3).repeat(2, 0).reshape(3, 6)
    weights["bias"] = np.full(6, -300.0)
    set_cell_weights(cell, weights)
    found = backend.differentiate(
        layer,
        lambda y, counts: keras.ops.sum(y * counts[0]),
        x,
        None,
        np.ones(1, "float32"),
        compiled={},
    )
    assert all(g is not None and np.isfinite(g).all() for _, g in found.items())


@pytest.mark.one_backend
def test_rg_lru_takes_blocks_and_the_names_of_its_authors():
    rng = np.random.default_rng(0)
    x, cell = data(rng), RGLRUCell(4, num_heads=2, whole_first_input=True, dtype=DTYPE)
    layer = cellkit.RNN(cell, dtype=DTYPE, return_sequences=True)
    layer.build(x.shape)
    w = {n: rng.normal(size=(2, 2, 2)) for n in ("a_gate.w", "input_gate.w")}
    w |= {n: rng.normal(size=(2, 2)) for n in ("a_gate.b", "input_gate.b")}
    import_weights(cell, {**w, "a_param": rng.normal(size=4)})
    want = to_numpy(layer(x))
    symbols = export_weights(cell)
    np.testing.assert_array_equal(symbols["W_a"], w["a_gate.w"].astype(DTYPE))
    full = np.zeros((4, 4))
    full[:2, :2], full[2:, 2:] = symbols["W_a"]
    import_weights(cell, {**symbols, "W_a": full})
    np.testing.assert_array_equal(to_numpy(layer(x)), want)
    full[0, 3] = 1.0
    assert "(4, 4), and num_heads=2" in raised(import_weights, cell, {**symbols, "W_a": full})[1]


@pytest.mark.one_backend
def test_the_first_input_of_rg_lru_is_taken_whole_once():
    """Also after masked steps, and by a state that is handed on only where no step was before."""
    x = data(np.random.default_rng(0))
    layer, spec = make("rg_lru", x, np.random.default_rng(1), units=4, whole_first_input=True)
    w = export_weights(layer.cell)
    first = x[:, 2] / (1 + np.exp(-(x[:, 2] @ w["W_x"] + w["b_x"])))
    mask = np.arange(T) >= 2
    output, *states = layer(x, mask=np.broadcast_to(mask, (B, T)))
    np.testing.assert_allclose(to_numpy(output)[:, 2], first, rtol=TOLERANCE, atol=TOLERANCE)
    whole = to_numpy(layer(x[:, 2:])[0])
    parts = layer(x[:, 2:4])[1:]
    later = to_numpy(layer(x[:, 4:], initial_state=parts)[0])
    np.testing.assert_allclose(later, whole[:, 2:], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.one_backend
def test_s5_starts_from_the_normal_part_of_hippo():
    n = 6
    root = np.sqrt(np.arange(n) + 0.5)
    legs = -np.tril(2 * np.outer(root, root), -1) - np.diag(np.arange(n) + 1.0)
    normal = legs + np.outer(root, root)
    lam, vectors = hippo(n, conjugate_pairs=False)
    np.testing.assert_allclose(normal @ vectors, vectors * lam, atol=1e-12)
    half, _ = hippo(n // 2, conjugate_pairs=True)
    assert (half.imag > 0).all()
    np.testing.assert_allclose(np.sort(half.imag), np.sort(lam.imag)[n // 2 :], atol=1e-12)


@pytest.mark.one_backend
def test_s5_with_half_of_the_pairs_is_the_whole_system():
    """A real system: the outputs of 3 of 6 states, doubled, are those of all 6."""
    x = data(np.random.default_rng(0), 2)
    cells = [S5Cell(2, state_units=n, conjugate_pairs=n == 3, seed=1, dtype=DTYPE) for n in (3, 6)]
    layers = [cellkit.RNN(cell, dtype=DTYPE, return_sequences=True) for cell in cells]
    for layer in layers:
        layer.build(x.shape)
    half = export_weights(cells[0])
    pairs = {k: np.concatenate([half[k], half[k].conj()]) for k in ("lam", "C")}
    pairs["B"] = np.concatenate([half["B"], half["B"].conj()], axis=1)
    pairs["log_step"] = np.tile(half["log_step"], 2)
    import_weights(cells[1], {**pairs, "D": half["D"]})
    np.testing.assert_allclose(to_numpy(layers[0](x)), to_numpy(layers[1](x)), atol=1e-11)


def test_small_steps_lose_no_digits():
    real, imaginary = np.array([-1e-6, -0.5, 0.0]), np.array([2e-6, 3.0, 1e-5])
    tensors = (keras.ops.convert_to_tensor(v.astype("float32")) for v in (real, imaginary))
    got = to_numpy(exponential_less_one(*tensors))
    z = real.astype("float32") + 1j * imaginary.astype("float32").astype("float64")
    want = np.expm1(z)
    np.testing.assert_allclose(got.real, want.real, rtol=1e-5, atol=1e-16)
    np.testing.assert_allclose(got.imag, want.imag, rtol=1e-5, atol=1e-16)


def test_dropout_of_s5_leaves_the_time_gaps_whole():
    x, dt = np.zeros((20, 3, 4), DTYPE), np.ones((20, 3, 1), DTYPE)
    layer, _ = make("s5", (x, dt), np.random.default_rng(0), units=4, dt=None, dropout=0.5)
    states = random_states(layer, np.random.default_rng(1))
    states = [np.resize(s, (20, *s.shape[1:])) for s in states]
    want = to_numpy(layer((x, dt), initial_state=states)[0])
    got = to_numpy(layer((x, dt), initial_state=states, training=True)[0])
    np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)
    x = x + 1.0
    got, want = (to_numpy(layer((x, dt), training=flag)[0]) for flag in (True, False))
    assert (np.abs(got - want) > 1e-6).any(axis=(1, 2)).sum() > 15


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("cls", "options", "named"),
    [
        (MinGRUCell, {"units": 0}, "units=0"),
        (MinGRUCell, {"recurrent_dropout": 0.1}, "recurrent_dropout=0.1"),
        (MinLSTMCell, {"recurrent_activation": "tanh"}, "recurrent_activation='tanh'"),
        (QRNNCell, {"kernel_width": 0}, "kernel_width=0"),
        (QRNNCell, {"pooling": "of"}, "pooling='of'"),
        (QRNNCell, {"zoneout": 0.1}, "zoneout=0.1, kernel_width=2"),
        (LRUCell, {"state_units": -1}, "state_units=-1"),
        (LRUCell, {"r_min": 0.9, "r_max": 0.8}, "r_min=0.9, r_max=0.8"),
        (LRUCell, {"r_max": 1.1}, "r_max=1.1"),
        (LRUCell, {"max_phase": 0.0}, "max_phase=0.0"),
        (LRUCell, {"zoneout": 0.1}, "zoneout=0.1"),
        (MambaCell, {"inner_units": 0}, "inner_units=0"),
        (MambaCell, {"state_units": -1}, "state_units=-1"),
        (MambaCell, {"kernel_width": 0}, "kernel_width=0"),
        (MambaCell, {"step_rank": 1.5}, "step_rank=1.5"),
        (RGLRUCell, {"c": -1}, "c=-1"),
        (RGLRUCell, {"num_heads": 2}, "units=3, num_heads=2"),
        (RGLRUCell, {"num_heads": 0}, "num_heads=0"),
        (RGLRUCell, {"min_decay": 0.9999}, "min_decay=0.9999, max_decay=0.999"),
        (S5Cell, {"discretization": "euler"}, "discretization='euler'"),
        (S5Cell, {"dt": -1.0}, "dt=-1.0"),
        (S5Cell, {"dt": True}, "dt=True"),
        (S5Cell, {"dt_min": 0.2}, "dt_min=0.2, dt_max=0.1"),
        (S5Cell, {"zoneout": 0.1}, "zoneout=0.1"),
        (S4DCell, {"discretization": "euler"}, "discretization='euler'"),
        (S4DCell, {"start": "random"}, "start='random'"),
        (S4DCell, {"state_units": 0}, "state_units=0"),
        (S4DCell, {"dt_min": 0.2}, "dt_min=0.2, dt_max=0.1"),
        (S4DCell, {"zoneout": 0.1}, "zoneout=0.1"),
        (TGRUCell, {"zoneout": 0.1}, "zoneout=0.1"),
        (TLSTMCell, {"zoneout": 0.1}, "zoneout=0.1"),
        (TLSTMCell, {"recurrent_dropout": 0.1}, "recurrent_dropout=0.1"),
        (RWKV4Cell, {"zoneout": 0.1}, "zoneout=0.1"),
        (RWKV4Cell, {"recurrent_dropout": 0.1}, "recurrent_dropout=0.1"),
    ],
)
def test_options_out_of_range(cls, options, named):
    assert named in raised(cls, **{"units": 3, **options})[1]


@pytest.mark.one_backend
@pytest.mark.parametrize("name", CELLS)
def test_images_are_refused(name):
    layer = cellkit.RNN(cellkit.create(name, units=3))
    assert "(2, 4, 4)" in raised(layer, np.zeros((2, 5, 4, 4)))[1]


@pytest.mark.one_backend
def test_s4d_says_how_wide_its_inputs_must_be():
    _, received, expected, fix = raised(cellkit.RNN(S4DCell(4)), np.zeros((2, 5, 3)))
    assert "3 features for units=4" in received and "as many features" in expected
    assert "units=3" in fix and "Dense(4)" in fix


@pytest.mark.one_backend
def test_memax_agrees():
    check_golden("ffm")


@pytest.mark.one_backend
def test_ffm_starts_with_even_rates_and_periods():
    cell = FFMCell(3, traces=3, contexts=4, max_decay=0.3, min_period=2.0, max_period=8.0)
    cell.build((None, 2))
    letters = export_weights(cell)
    np.testing.assert_allclose(letters["alpha"], [1e-6, 0.15, 0.3], rtol=1e-4)
    np.testing.assert_allclose(2 * np.pi / letters["omega"], [2, 4, 6, 8], rtol=1e-5)


@pytest.mark.one_backend
def test_ffm_lets_inputs_pass_that_are_as_wide_as_itself():
    layer = cellkit.RNN(FFMCell(4, skip="identity"))
    _, received, expected, fix = raised(layer, np.zeros((2, 5, 3), "float32"))
    assert "3 features for units=4" in received and "as many features" in expected
    assert "units=3" in fix


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("cls", "options", "named"),
    [
        (FFMCell, {"traces": 0}, "traces=0"),
        (FFMCell, {"contexts": 1.5}, "contexts=1.5"),
        (FFMCell, {"skip": "none"}, "skip='none'"),
        (FFMCell, {"max_decay": 0.0}, "max_decay=0.0"),
        (FFMCell, {"min_period": 5.0, "max_period": 2.0}, "min_period=5.0, max_period=2.0"),
        (FFMCell, {"epsilon": 0.0}, "epsilon=0.0"),
        (FFMCell, {"zoneout": 0.1}, "zoneout=0.1"),
        (MambaCell, {"zoneout": 0.1}, "zoneout=0.1, kernel_width=4"),
    ],
)
def test_options_of_ffm_and_mamba_out_of_range(cls, options, named):
    assert named in raised(cls, **{"units": 3, **options})[1]


@pytest.mark.one_backend
@pytest.mark.parametrize("gaps", [0, 2], ids=["none", "two"])
def test_the_time_gap_of_s5_is_asked_for(gaps):
    x = np.zeros((2, 5, 3))
    inputs = (x, np.zeros((2, 5, gaps))) if gaps else x
    assert "(x, dt)" in raised(cellkit.RNN(S5Cell(3, dt=None)), inputs)[2]


def test_s5_refuses_gaps_that_run_backwards():
    x, dt = np.zeros((2, 5, 4), "float32"), np.ones((2, 5, 1), "float32")
    dt[1, 3] = -0.5
    layer = cellkit.RNN(S5Cell(3, dt=None))
    assert "a time gap of -0.5 at step 3 of row 1" in raised(layer, (x, dt))[1]
    mask = np.ones((2, 5), bool)
    mask[1, 3:] = False
    layer((x, dt), mask=mask)  # what is masked is never looked at


@pytest.mark.one_backend
@pytest.mark.parametrize("cls", [S5Cell, S4DCell])
def test_an_unstable_system_is_no_symbol(cls):
    cell = cls(3)
    cell.build((None, 3))
    symbols = map_structure(np.array, export_weights(cell))
    import_weights(cell, symbols)
    symbols["lam"][1] = 0.1
    assert "0.1" in raised(import_weights, cell, symbols)[1]
