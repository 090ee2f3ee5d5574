"""The cells with matrix states: references, other forms, options, errors."""

import numpy as np
import pytest
from against_reference import DTYPE, MASK, TOLERANCE, B, T, cases, check_case, make, to_numpy
from models_around import save_and_load, train
from portions import portion
from three_parts import raised

import cellkit
from cellkit.registry import cell_weights, set_cell_weights

CELLS = (
    "linear_attention",
    "retnet",
    "gla",
    "delta_net",
    "gated_delta_net",
    "mamba2",
    "rwkv6",
    "rwkv7",
)


@pytest.fixture
def rng():
    return np.random.default_rng(2006)


@pytest.mark.one_backend
@pytest.mark.parametrize(("name", "case"), cases(*CELLS))
def test_the_layer_computes_the_reference(name, case, rng):
    layer = check_case(name, case, rng, mask=MASK, given=name != "linear_attention")
    assert layer.engine_report().engine == "chunked"


@pytest.mark.parametrize("name", CELLS)
def test_steps_loop_and_chunks_agree(name, rng):
    """Over several chunks, in outputs and states, and in the gradients of a training step."""
    x = rng.normal(size=(B, 70, 4)).astype("float32")
    cell = cellkit.create(name, units=4, num_heads=2, seed=1)
    kinds = [cellkit.RNN(cell, return_sequences=True, engine=e) for e in ("loop", "chunked")]
    want, got = (to_numpy(layer(x)) for layer in kinds)
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)
    states, layer = kinds[0].get_initial_state(B), kinds[1]
    for t in range(3):
        y, states = layer.step(x[:, t], states)
        np.testing.assert_allclose(to_numpy(y), want[:, t], rtol=2e-4, atol=2e-5)


# Conformance compares the gradients of all of them on each backend (GRD-01).
@pytest.mark.parametrize("name", portion(CELLS))
def test_training_lowers_the_loss(name):
    train(name, epochs=25)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", CELLS)
def test_a_saved_model_computes_the_same(name, tmp_path):
    save_and_load(name, tmp_path)


# Each cell against another form of itself ---------------------------------------------------------


@pytest.mark.one_backend
def test_linear_attention_is_attention_with_features_for_a_softmax(rng):
    x = rng.normal(size=(B, T, 4)).astype(DTYPE)
    layer, _ = make("linear_attention", x, rng, units=3)
    w = cellkit.export_weights(layer.cell)
    q, k, v = (x @ w[f"W_{n}"] + w[f"b_{n}"] for n in "qkv")
    q, k = (np.where(a > 0, a + 1, np.exp(a)) for a in (q, k))
    scores = np.tril(q @ k.transpose(0, 2, 1))
    want = scores @ v / (scores.sum(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(to_numpy(layer(x)[0]), want, rtol=10 * TOLERANCE, atol=TOLERANCE)


@pytest.mark.one_backend
def test_a_delta_rule_replaces_the_value_of_a_key(rng):
    """With beta at 1, what a key reads is the last value stored under it."""
    x = np.eye(4)[[0, 1, 0, 2]][None].astype(DTYPE)
    layer, _ = make("delta_net", x, rng, units=4)
    weights = cell_weights(layer.cell)
    weights["kernel"][:, :8] = np.tile(np.eye(4), 2) * 20.0
    weights["kernel"][:, 12] = 0.0
    weights["bias"][:] = 0.0
    weights["bias"][12] = 80.0
    set_cell_weights(layer.cell, weights)
    v = (x @ weights["kernel"][:, 8:12])[0]
    found = to_numpy(layer(x)[0])[0] * 2.0  # sqrt(K)
    np.testing.assert_allclose(found, v, rtol=1e-4, atol=1e-6)


@pytest.mark.one_backend
def test_heads_of_retnet_fade_at_their_rates(rng):
    x = np.zeros((1, 9, 4), DTYPE)
    layer, _ = make("retnet", x, rng, units=4, num_heads=2, use_bias=False)
    s = rng.normal(size=(1, 2, 2, 2)).astype(DTYPE)
    last = to_numpy(layer(x, initial_state=[s])[1])
    fading = (1 - 2.0 ** np.array([-5, -6])) ** 9
    np.testing.assert_allclose(last, s * fading[:, None, None], rtol=1e-5)


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("linear_attention", {"feature_map": "exp"}, "feature_map='exp'"),
        ("linear_attention", {"epsilon": 0.0}, "epsilon=0.0"),
        ("retnet", {"num_heads": 2}, "units=3, num_heads=2"),
        ("retnet", {"num_heads": 0}, "num_heads=0"),
        ("gla", {"key_units": 4, "num_heads": 3}, "key_units=4, num_heads=3"),
        ("gla", {"gate_rank": 0}, "gate_rank=0"),
        ("gla", {"temperature": -1.0}, "temperature=-1.0"),
        ("delta_net", {"key_units": -2}, "key_units=-2"),
        ("mamba2", {"state_units": 0}, "state_units=0"),
        ("rwkv6", {"key_units": 4, "num_heads": 3}, "key_units=4, num_heads=3"),
        ("rwkv7", {"num_heads": 2}, "units=3, num_heads=2"),
        ("gated_delta_net", {"recurrent_dropout": 0.1}, "recurrent_dropout=0.1"),
    ],
)
def test_options_out_of_range(name, options, named):
    assert named in raised(cellkit.create, name, **{"units": 3, **options})[1]


@pytest.mark.one_backend
@pytest.mark.parametrize("name", CELLS)
def test_images_are_refused(name):
    layer = cellkit.RNN(cellkit.create(name, units=3))
    assert "(2, 4, 4)" in raised(layer, np.zeros((2, 5, 4, 4)))[1]
