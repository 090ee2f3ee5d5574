"""Registered cells that are written as equations: their frozen witnesses, files, options."""

import json

import keras
import numpy as np
import pytest
from against_reference import DTYPE, GOLDEN, check_golden, to_numpy
from three_parts import raised

import cellkit
from cellkit.registry import registry

pytestmark = pytest.mark.one_backend

CELLS = sorted(
    name
    for name in registry.declarations()
    if issubclass(registry.get(name).cls, cellkit.EquationCell)
)
FORMS = {
    form
    for name in [*CELLS, "intersection_rnn"]
    for form in (name, *registry.get(name).spec.aliases)
}
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8"))
FROZEN = sorted(FORMS & {entry["cell"] for entry in MANIFEST["cells"]})


def test_there_are_many():
    assert len(CELLS) >= 30
    assert len(FROZEN) >= 28


@pytest.mark.parametrize("name", FROZEN)
def test_equals_another_implementation(name):
    check_golden(name)


def shapes(name, *leading):
    """Return the shapes of a cell's inputs, each as wide as 4 units where that is free."""
    spec = registry.get(name).spec
    several = isinstance(spec.inputs, list)
    found = [
        (*leading, *(4 if isinstance(size, str) else size for size in shape))
        for shape in (spec.inputs if several else [spec.inputs])
    ]
    return found if several else found[0]


@pytest.mark.parametrize("name", CELLS)
def test_the_paper_and_the_weights_have_names(name):
    found = registry.get(name)
    assert found.spec.paper.authors != "Unpublished"
    cell = found.cls(4, dtype=DTYPE)
    cell.build(shapes(name, None))
    assert len({w.name for w in cell.weights}) == len(cell.weights)


def test_an_intersection_rnn_says_how_wide_its_inputs_must_be():
    _, received, expected, fix = raised(
        lambda: cellkit.RNN(cellkit.create("intersection_rnn", units=4))(np.ones((2, 3, 5)))
    )
    assert "5 features for units=4" in received
    assert "as many features as units" in expected
    assert "units=5" in fix and "Dense(4)" in fix


@pytest.mark.part(3)
@pytest.mark.parametrize("name", CELLS)
def test_a_saved_model_computes_the_same(name, tmp_path):
    rng = np.random.default_rng(5)
    sizes = shapes(name, 5)
    several = isinstance(sizes, list)
    x = [rng.random((2, *size), "float32") for size in (sizes if several else [sizes])]
    inputs = [keras.Input(size) for size in (sizes if several else [sizes])]
    layer = cellkit.RNN(cellkit.create(name, units=4), return_sequences=True)
    inputs, x = (inputs, x) if several else (inputs[0], x[0])
    model = keras.Model(inputs, layer(inputs))
    model.set_weights([rng.normal(size=w.shape) * 0.5 for w in model.get_weights()])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(again(x)), to_numpy(model(x)))


@pytest.mark.parametrize("name", ["time_aware_lstm", "ode_lstm"])
def test_time_cannot_run_backwards(name):
    x, dt = np.zeros((2, 5, 3), "float32"), np.ones((2, 5, 1), "float32")
    dt[1, 3] = -0.5
    _, received, expected, _ = raised(lambda: cellkit.RNN(cellkit.create(name, units=3))((x, dt)))
    assert "a time gap of -0.5 at step 3 of row 1" in received and "0 or more" in expected


def test_a_time_aware_lstm_without_gaps_is_an_lstm():
    """With dt = 1 and decay "inverse" nothing is discounted."""
    rng = np.random.default_rng(3)
    x, dt = rng.normal(size=(2, 5, 3)).astype(DTYPE), np.ones((2, 5, 1), DTYPE)
    cell = cellkit.create("time_aware_lstm", units=4, decay="inverse", dtype=DTYPE)
    other = cellkit.create("lstm", units=4, dtype=DTYPE)
    aware, plain = (cellkit.RNN(c, dtype=DTYPE) for c in (cell, other))
    got, want = aware((x, dt)), plain(x)
    letters = {k: rng.normal(size=w.shape) for k, w in cellkit.export_weights(cell).items()}
    cellkit.import_weights(cell, letters)
    cellkit.import_weights(other, {k: w for k, w in letters.items() if not k.endswith("_d")})
    got, want = to_numpy(aware((x, dt))), to_numpy(plain(x))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_a_mogrifier_with_a_matrix_for_each_round_can_share_them():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(2, 5, 3)).astype(DTYPE)
    layers = {
        name: cellkit.RNN(cellkit.create("mogrifier_lstm", units=4, matrices=name, dtype=DTYPE))
        for name in ("shared", "each", "low_rank")
    }
    for layer in layers.values():
        layer.build(x.shape)
    shapes = cellkit.export_weights(layers["shared"].cell)
    letters = {k: 0.5 * rng.normal(size=w.shape) for k, w in shapes.items()}
    letters |= {"b_Q": np.zeros(3), "b_R": np.zeros(4)}
    Q, R = letters["Q"], letters["R"]
    rounds = {f"{'Q' if k % 2 else 'R'}_{k}": (Q if k % 2 else R) for k in range(1, 6)}
    factors = {f"{'P' if k % 2 else 'S'}_{k}": np.eye(4) for k in (1, 3, 5)}
    factors |= {f"S_{k}": R[:, :4] for k in (2, 4)}
    low = {**rounds, **factors, **{f"R_{k}": np.eye(4) for k in (2, 4)}}
    lstm = {k: v for k, v in letters.items() if k not in ("Q", "R", "b_Q", "b_R")}
    for name, more in (("shared", letters), ("each", rounds), ("low_rank", low)):
        cellkit.import_weights(layers[name].cell, {**lstm, **more})
    want = to_numpy(layers["shared"](x))
    for name in ("each", "low_rank"):
        np.testing.assert_allclose(to_numpy(layers[name](x)), want, rtol=1e-5, atol=1e-6)


def test_gates_of_ur_lstm_start_evenly_spread():
    cell = cellkit.create("ur_lstm", units=5)
    cell.build((None, 3))
    u = 1 / (1 + np.exp(-cellkit.export_weights(cell)["b"]))
    np.testing.assert_allclose(u, [0.2, 0.35, 0.5, 0.65, 0.8], rtol=1e-5)


def test_an_ode_lstm_stands_still_where_no_time_passes():
    rng = np.random.default_rng(4)
    x, dt = rng.normal(size=(2, 5, 3)).astype(DTYPE), np.zeros((2, 5, 1), DTYPE)
    h, c = (rng.normal(size=(2, 4)).astype(DTYPE) for _ in range(2))
    layer = cellkit.RNN(cellkit.create("ode_lstm", units=4, dtype=DTYPE), dtype=DTYPE)
    np.testing.assert_array_equal(to_numpy(layer((x, dt), initial_state=[h, c])), h)
