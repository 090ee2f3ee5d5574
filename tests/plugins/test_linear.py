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
    make,
    map_structure,
    random_states,
    to_numpy,
)
from three_parts import raised

import cellkit
from cellkit.registry import cell_weights, export_weights, import_weights, set_cell_weights
from cellkit_linear import LRUCell, MinGRUCell, MinLSTMCell, QRNNCell, RGLRUCell, S5Cell, positive
from cellkit_linear.s5 import exponential_less_one, hippo

CELLS = ("min_gru", "min_lstm", "qrnn", "lru", "rg_lru", "s5")


@pytest.fixture
def rng():
    return np.random.default_rng(2410)


def data(rng, features=4):
    return rng.normal(size=(B, T, features)).astype(DTYPE)


@pytest.mark.one_backend
@pytest.mark.parametrize(("name", "case"), cases(*CELLS))
def test_the_layer_computes_the_reference(name, case, rng):
    layer = check_case(name, case, rng, mask=MASK)
    assert layer.engine_report().engine == "scan"


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_s5_computes_the_reference_for_gaps_that_are_inputs(discretization, rng):
    x, dt = data(rng), rng.random((B, T, 1)).astype(DTYPE)
    options = {"units": 3, "state_units": 5, "dt": None, "discretization": discretization}
    check("s5", (x, dt), rng, mask=MASK, **options)


@pytest.mark.parametrize("name", CELLS)
def test_training_lowers_the_loss(name):
    """Through the scan, and with the weights that the initializers gave."""
    keras.utils.set_random_seed(1)
    x = np.random.default_rng(0).normal(size=(16, 12, 3)).astype("float32")
    y = x[:, -4:].sum(axis=(1, 2))[:, None]
    model = keras.Sequential(
        [keras.Input((12, 3)), cellkit.RNN(cellkit.create(name, units=6)), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False)
    losses = model.fit(x, y, epochs=15, batch_size=16, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0]


@pytest.mark.one_backend
@pytest.mark.parametrize("name", CELLS)
def test_a_saved_model_computes_the_same(name, tmp_path):
    x = np.random.default_rng(1).normal(size=(2, 5, 3)).astype("float32")
    layer = cellkit.RNN(cellkit.create(name, units=4, dropout=0.1), return_sequences=True)
    model = keras.Sequential([keras.Input((5, 3)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded(x)), to_numpy(model(x)))
    assert loaded.layers[-1].cell.get_config() == layer.cell.get_config()


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


# minGRU and minLSTM -----------------------------------------------------------------------------


def test_positive_is_positive_monotonic_and_found_by_name():
    x = np.linspace(-40, 5, 91)
    y = to_numpy(positive(keras.ops.convert_to_tensor(x, dtype=DTYPE)))
    assert (y > 0).all() and (np.diff(y) >= 0).all()
    np.testing.assert_allclose(y[x >= 0], x[x >= 0] + 0.5, rtol=1e-6)
    for cls in (MinGRUCell, MinLSTMCell):
        assert cls.from_config(cls(3).get_config()).activation is positive


def test_closed_gates_of_min_lstm_still_share_the_state(rng):
    """Where both gates are closed, the quotient of the two is 0 / 0 as it stands."""
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
        (RGLRUCell, {"c": -1}, "c=-1"),
        (RGLRUCell, {"min_decay": 0.9999}, "min_decay=0.9999, max_decay=0.999"),
        (S5Cell, {"discretization": "euler"}, "discretization='euler'"),
        (S5Cell, {"dt": -1.0}, "dt=-1.0"),
        (S5Cell, {"dt": True}, "dt=True"),
        (S5Cell, {"dt_min": 0.2}, "dt_min=0.2, dt_max=0.1"),
        (S5Cell, {"zoneout": 0.1}, "zoneout=0.1"),
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
def test_an_unstable_system_is_no_symbol_of_s5():
    cell = S5Cell(3)
    cell.build((None, 3))
    symbols = map_structure(np.array, export_weights(cell))
    import_weights(cell, symbols)
    symbols["lam"][1] = 0.1
    assert "0.1" in raised(import_weights, cell, symbols)[1]
