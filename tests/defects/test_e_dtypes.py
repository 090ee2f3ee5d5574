"""Table E of docs/keras-defects.md: dtypes."""

import contextlib

import keras
import numpy as np
import pytest
from defect_classes import (
    RNN,
    Bidirectional,
    gru,
    gru_cell,
    lstm,
    lstm_cell,
    simple_rnn,
)
from defect_tools import (
    BACKEND,
    MASK,
    TanhCell,
    WideCell,
    built,
    close,
    data,
    loop,
    lstm_step,
    model_of,
    npy,
    randomise,
    tanh_step,
)
from keras import layers, ops

import cellkit
from cellkit.registry import cell_weights

ZERO = np.zeros((3, 4))
COMPUTE = {
    "float16": "float16",
    "mixed_float16": "float16",
    "mixed_bfloat16": "bfloat16",
    "bfloat16": "bfloat16",
}
# The spacing of numbers near one, times a few roundings per step.
ROUGH = {"float16": 1e-2, "bfloat16": 6e-2}


def dtype_of(x):
    return keras.backend.standardize_dtype(x.dtype)


def assert_rough(y, expected, policy):
    assert dtype_of(y) == COMPUTE[policy]
    close(npy(ops.cast(y, "float32")), expected, ROUGH[COMPUTE[policy]])


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_e1_stack_under_mixed_precision(policy, masked, unroll):
    """TF: crash with a mask; JAX: crash without one; the stack itself stays float32."""
    cells = [lstm_cell(4, dtype=policy), TanhCell(4, dtype=policy)]
    layer = built(RNN(cells, dtype=policy, unroll=unroll), 3, 5, 3)
    x, mask = data(3, 5, 3), MASK if masked else None
    lower, upper = layer.cell.cells
    below, above = lstm_step(lower), tanh_step(upper)

    def step(inputs, states):
        h, low = below(inputs, states[0])
        out, high = above(h, states[1])
        return out, [low, high]

    _, last, _ = loop(step, x, [[ZERO, ZERO], [ZERO]], mask)
    assert_rough(layer(x, mask=mask), last, policy)
    assert dtype_of(lower.kernel) == "float32"


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", ["gru", "gru reset before", "lstm"])
def test_e2_no_bias_under_mixed_precision(name, policy, masked):
    """JAX: crash for the GRU, its missing bias is float32."""
    make = {
        "gru": lambda **k: gru(4, **k),
        "gru reset before": lambda **k: gru(4, reset_after=False, **k),
        "lstm": lambda **k: lstm(4, **k),
    }[name]
    layer = built(make(use_bias=False, dtype=policy), 3, 5, 3)
    exact = built(make(use_bias=False), 3, 5, 3)
    x, mask = data(3, 5, 3), MASK if masked else None
    assert_rough(layer(x, mask=mask), npy(exact(x, mask=mask)), policy)


@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["lstm", "gru", "simple_rnn", "custom", "bidirectional"])
def test_e3_pure_half_precision(name, policy):
    """All backends: crash with the default orthogonal matrices; with others, all is right."""
    make = {
        "lstm": lambda **k: lstm(4, **k),
        "gru": lambda **k: gru(4, **k),
        "simple_rnn": lambda **k: simple_rnn(4, **k),
        "custom": lambda **k: RNN(TanhCell(4, **k), **k),
        "bidirectional": lambda **k: Bidirectional(lstm(4, **k), **k),
    }[name]
    layer, exact = built(make(dtype=policy), 3, 5, 3), built(make(), 3, 5, 3)
    x = data(3, 5, 3)
    for mask in (None, MASK):
        assert_rough(layer(x, mask=mask), npy(exact(x, mask=mask)), policy)


@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["lstm", "gru", "simple_rnn"])
def test_e3_orthogonal_matrices_in_pure_half_precision(name, policy):
    """All backends: no QR decomposition in half precision; cellkit's cells draw in float32."""
    layer = RNN(cellkit.create(name, units=4, dtype=policy), dtype=policy)
    layer.build((3, 5, 3))
    matrix = npy(ops.cast(layer.cell.recurrent_kernel, "float32"))
    assert dtype_of(layer.cell.recurrent_kernel) == policy
    # Orthogonal rows: exactly how the gates share them is the cell's business.
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(4), atol=2e-2)
    y = layer(data(3, 5, 3), mask=MASK)
    assert dtype_of(y) == policy
    assert np.isfinite(npy(ops.cast(y, "float32"))).all()


@contextlib.contextmanager
def float64():
    """Run with 64-bit numbers, which JAX has only on request."""
    if BACKEND == "jax":
        import jax

        with jax.enable_x64(True):
            yield
    else:
        yield


def randomise64(layer, seed=1):
    rng = np.random.default_rng(seed)
    for v in layer.trainable_variables:
        v.assign(rng.normal(size=v.shape, scale=0.5))
    return layer


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_e4_float64_stack(masked, unroll):
    """TF: crash with a mask; JAX: float32 unless asked for 64-bit numbers."""
    with float64():
        cells = [lstm_cell(4, dtype="float64"), TanhCell(4, dtype="float64")]
        layer = RNN(cells, dtype="float64", unroll=unroll)
        layer.build((3, 5, 3))
        randomise64(layer)
        x, mask = data(3, 5, 3, dtype="float64"), MASK if masked else None
        lower, upper = layer.cell.cells
        below, above = lstm_step(lower), tanh_step(upper)

        def step(inputs, states):
            h, low = below(inputs, states[0])
            out, high = above(h, states[1])
            return out, [low, high]

        _, last, _ = loop(step, x, [[ZERO, ZERO], [ZERO]], mask)
        y = layer(x, mask=mask)
        assert dtype_of(y) == "float64"
        # `keras.ops.matmul` of float64 gives float32 on Torch, and `keras.ops.tanh` of it on JAX;
        # these cells, which are not cellkit's, call both.
        close(y, last, 1e-12 if BACKEND == "tensorflow" else 1e-6)


@pytest.mark.parametrize("name", ["lstm", "gru", "simple_rnn"])
def test_e4_cellkit_cells_are_exact_in_float64(name):
    """Torch: `keras.ops.matmul` of float64 returns float32, so all cells lose half the digits."""
    with float64():
        cell = cellkit.create(name, units=4, dtype="float64")
        layer = RNN(cell, dtype="float64", return_state=True)
        layer.build((3, 5, 3))
        randomise64(layer)
        x = data(3, 5, 3, dtype="float64")
        spec = cellkit.get(name).spec
        symbols = spec.symbols.to_symbols(cell_weights(cell), cell.get_config())

        def step(inputs, states):
            return spec.reference(symbols, inputs, states, cell.get_config())

        count = 2 if name == "lstm" else 1
        _, last, states = loop(step, x, [ZERO] * count, MASK)
        outputs = layer(x, mask=MASK)
        assert {dtype_of(y) for y in outputs} == {"float64"}
        close(outputs, [last, *states], 1e-12)


def test_e4_float64_stateful_fit():
    """Torch: a stateful LSTM crashes in training."""
    with float64():
        layer = lstm(4, stateful=True, dtype="float64")
        model = model_of(layer, input_shape=(5, 3), batch_size=2, dtype="float64")
        history = model.fit(
            data(4, 5, 3), data(4, 4), batch_size=2, epochs=2, shuffle=False, verbose=0
        )
        assert np.isfinite(history.history["loss"]).all()
        assert {dtype_of(s) for s in layer.states} == {"float64"}


FITTED = {
    "lstm": lambda: lstm(4),
    "stateful gru": lambda: gru(4, stateful=True),
    "bidirectional": lambda: Bidirectional(lstm(4)),
    "stateful custom": lambda: RNN(WideCell(4), stateful=True),
    "dropout": lambda: lstm(4, dropout=0.2, recurrent_dropout=0.2),
    "stack": lambda: RNN([lstm_cell(4), gru_cell(4)]),
}


@pytest.mark.parametrize(
    ("policy", "name"),
    [*(("mixed_float16", n) for n in FITTED), ("mixed_bfloat16", "stack")],
)
def test_e_fit_under_mixed_precision(policy, name):
    """Keras is right here, but for what A2 and E1 say."""
    keras.config.set_dtype_policy(policy)
    model = keras.Sequential(
        [
            keras.Input((5, 3), batch_size=2),
            layers.Masking(0.0),
            FITTED[name](),
            layers.Dense(1, dtype="float32"),
        ]
    )
    # Without loss scaling, which skips first steps until its scale fits.
    model.compile(keras.optimizers.SGD(0.01), "mse", auto_scale_loss=False)
    randomise(model)
    before = npy(model.trainable_variables)
    x = np.where(MASK[:2, :, None], data(2, 5, 3), 0)
    history = model.fit(x, np.ones((2, 1)), batch_size=2, epochs=2, shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert history.history["loss"][1] != history.history["loss"][0]
    for old, v in zip(before, model.trainable_variables, strict=True):
        assert dtype_of(v) == "float32"
        assert np.abs(npy(v) - old).max() > 0, v.path
