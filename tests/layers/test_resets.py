"""Resets: a row with resets gives what its pieces give as sequences of their own."""

import keras
import numpy as np
import pytest
from cell_numbers import DTYPE, TOLERANCE, draw, random_weights, sizes
from engine_runs import data, layer_of, npy
from keras import ops
from pieces import MASK, RESETS, ROWS, TIME, assert_pieces, start
from three_parts import raised

import cellkit

BACKEND = keras.backend.backend()
SEGMENTS = np.cumsum(RESETS, axis=1)
# Pieces of two lengths alone, so that few shapes are compiled.
FEW = np.zeros((ROWS, TIME), bool)
FEW[0, [0, 3]] = FEW[1, 4] = FEW[2, [3]] = FEW[3, [0, 4]] = True


def built(name):
    """Return a layer around a small cell with random weights, and inputs for it."""
    spec = cellkit.get(name).spec
    case = dict(next(iter(spec.cases.values())))
    if isinstance(case.get("units"), int):
        case["units"] = min(case["units"], 4)
    cell = cellkit.create(name, **case, dtype=DTYPE)
    x = _draw(spec.inputs)
    x = spec.draw_inputs(x) if spec.draw_inputs else x
    layer = cellkit.RNN(
        cell,
        dtype=DTYPE,
        return_sequences=True,
        return_state=True,
        go_backwards=len(name) % 2 == 0,
    )
    layer(x)
    random_weights(cell, np.random.default_rng(1))
    return layer, x


def _draw(shapes):
    if isinstance(shapes, dict):
        return {key: _draw(shape) for key, shape in shapes.items()}
    return draw(np.random.default_rng(2), sizes(shapes, (ROWS, TIME)))


# Conformance proves the cells with constants, which it feeds as inputs of every step.
ALONE = [name for name in cellkit.list_cells() if cellkit.get(name).spec.constants is None]


@pytest.mark.one_backend
@pytest.mark.part(3)
@pytest.mark.parametrize("name", ALONE)
def test_every_cell_gives_what_its_pieces_give(name):
    layer, x = built(name)
    states = [npy(s) for s in layer.runner.initial(ROWS)]
    rng = np.random.default_rng(4)
    moved = [
        s + 0.1 * np.abs(rng.normal(size=s.shape)) if "f" in s.dtype.kind else s for s in states
    ]
    moved = [m.astype(s.dtype) for m, s in zip(moved, states, strict=True)]
    for engine in ("loop", "auto"):
        assert_pieces(layer, x, moved, mask=MASK, engine=engine, tolerance=100 * TOLERANCE)


CELLS = {
    "loop": ("gru", {"units": 4}),
    "projected": ("gru", {"units": 4}),
    "fused": ("lstm", {"units": 4}),
    "kernel": ("lstm", {"units": 4}),
    "scan": ("qrnn", {"units": 4}),
    "chunked": ("gated_delta_net", {"units": 4, "num_heads": 2}),
    "stack": [("lstm", {"units": 3}), ("min_gru", {"units": 4})],
}


def layer_for(engine, **options):
    found = CELLS[engine]
    if isinstance(found, list):
        cells = [cellkit.create(name, **given, dtype=DTYPE) for name, given in found]
        found = cellkit.StackedCells(cells, dtype=DTYPE)
    return layer_of(found, return_sequences=True, **options)


# Both directions where they cost little; elsewhere every engine in one.
DIRECTIONS = [
    (engine, backwards)
    for i, engine in enumerate(CELLS)
    for backwards in (False, True)
    if engine in cellkit.engines.ENGINES and (BACKEND == "torch" or backwards == bool(i % 2))
]


@pytest.mark.parametrize(("engine", "backwards"), DIRECTIONS)
def test_every_engine_gives_what_the_pieces_give(engine, backwards):
    layer = layer_for(engine, go_backwards=backwards)
    mask = MASK if backwards else None
    assert_pieces(layer, data((ROWS, TIME, 3)), start(layer), mask=mask, engine=engine)


@pytest.mark.parametrize("engine", CELLS if BACKEND == "torch" else ["loop"])
def test_blocks_of_a_truncated_gradient_begin_anew(engine):
    layer = layer_for(engine, truncate_gradient=2, remat=2)
    x = data((ROWS, TIME, 3))
    assert_pieces(layer, x, start(layer), resets=FEW, mask=MASK, engine=engine)


@pytest.mark.one_backend
@pytest.mark.parametrize("engine", ["loop", "projected", "fused", "scan", "chunked", "kernel"])
def test_rows_of_no_two_alike_blocks(engine):
    layer = layer_for(engine, truncate_gradient=2, go_backwards=True)
    x = data((ROWS, TIME, 3))
    assert_pieces(layer, x, start(layer), mask=MASK, engine=engine)


class Starting(cellkit.get("simple_rnn").cls):
    """Starts from a weight, and counts steps beside it."""

    @property
    def state_size(self):
        spec = cellkit.TensorSpec
        return [spec((self.units,), initializer="normal", trainable=True), spec((), dtype="int32")]

    def call(self, inputs, states, training=False):
        y, new = super().call(inputs, states[:1], training=training)
        return y, [*keras.tree.flatten(new), states[1] + 1]


def test_a_reset_goes_back_to_a_learned_start_and_to_a_counter_at_zero():
    layer = cellkit.RNN(
        Starting(4, dtype=DTYPE), return_sequences=True, return_state=True, dtype=DTYPE
    )
    x = data((ROWS, TIME, 3))
    layer.build(x.shape)
    random_weights(layer.cell, np.random.default_rng(1))
    count = np.array([5, 6, 7, 8], "int32")
    assert_pieces(layer, x, [data((ROWS, 4)), count], mask=MASK, engine="loop")
    *_, counted = layer(x, resets=RESETS)
    np.testing.assert_array_equal(npy(counted), [4, 1, 7, 2])


@pytest.mark.parametrize("engine", ["loop", "fused", "scan", "chunked"])
def test_no_number_passes_a_reset(engine):
    layer = layer_for(engine)
    layer.engine = engine
    x = data((ROWS, TIME, 3))
    clean = x.copy()
    x[0, :3], x[1, :2], x[3, 1:5] = np.nan, np.inf, np.nan

    def run(x):
        return layer(x, resets=RESETS)[0]

    if BACKEND == "tensorflow":
        import tensorflow as tf

        run = tf.function(run, autograph=False)
    y, want = npy(run(ops.convert_to_tensor(x))), npy(run(ops.convert_to_tensor(clean)))
    for row, steps in (
        (0, slice(3, None)),
        (1, slice(2, None)),
        (2, slice(None)),
        (3, slice(5, None)),
    ):
        np.testing.assert_allclose(y[row, steps], want[row, steps], atol=TOLERANCE)
    assert not np.isfinite(y[0, :3]).any()


def test_segments_cut_where_the_number_changes_in_either_direction():
    x = data((ROWS, TIME, 3), dtype="float32")
    numbers = 100 - 7 * SEGMENTS  # any numbers
    for backwards in (False, True):
        layer = cellkit.RNN("gru", units=4, return_sequences=True, go_backwards=backwards)
        cut = numbers[:, 1:] != numbers[:, :-1]
        none = np.zeros((ROWS, 1), bool)
        resets = np.concatenate([cut, none] if backwards else [none, cut], axis=1)
        want = npy(layer(x, resets=resets))
        np.testing.assert_array_equal(npy(layer(x, segments=numbers)), want)
        # Both together cut at the steps of each.
        more = np.zeros((ROWS, TIME), "int32")
        more[:, 2] = 3
        both = npy(layer(x, segments=numbers, resets=more))
        np.testing.assert_array_equal(both, npy(layer(x, resets=resets | (more > 0))))
        assert np.abs(both - want).max() > 1e-3
    wide = numbers.astype("int64") + (SEGMENTS.astype("int64") << 33)
    np.testing.assert_array_equal(npy(layer(x, segments=wide)), want)


def test_both_directions_cut_at_the_same_places():
    x = data((ROWS, TIME, 3), dtype="float32")
    layer = cellkit.Bidirectional(cellkit.RNN("gru", units=4, return_sequences=True))
    y = npy(layer(x, segments=SEGMENTS, mask=MASK))
    for row in range(ROWS):
        for number in np.unique(SEGMENTS[row]):
            own = SEGMENTS[row] == number
            alone = layer(x[row : row + 1, own], mask=MASK[row : row + 1, own])
            np.testing.assert_allclose(y[row : row + 1, own], npy(alone), atol=1e-5)


def test_a_stateful_layer_takes_a_reset_at_the_first_step_of_a_batch():
    x = data((ROWS, TIME, 3), dtype="float32")
    layer = cellkit.RNN("lstm", units=4, return_sequences=True, stateful=True)
    layer.build(x.shape)
    want = npy(layer(x, resets=FEW))
    layer.reset_state()
    parts = [npy(layer(x[:, a:b], resets=FEW[:, a:b])) for a, b in ((0, 3), (3, 7))]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), want, atol=1e-5)


def test_steps_of_a_stream_take_resets_and_segments():
    x = data((ROWS, TIME, 3), dtype="float32")
    layer = cellkit.RNN(["lstm", "gru"], units=4, return_sequences=True)
    want, cut = npy(layer(x, resets=RESETS)), npy(layer(x, segments=SEGMENTS))
    states = others = None
    for t in range(TIME):
        y, states = layer.step(x[:, t], states, resets=RESETS[:, t])
        np.testing.assert_allclose(npy(y), want[:, t], atol=1e-5)
        pair = (SEGMENTS[:, max(t - 1, 0)], SEGMENTS[:, t])
        y, others = layer.step(x[:, t], others, segments=pair)
        np.testing.assert_allclose(npy(y), cut[:, t], atol=1e-5)


@pytest.mark.parametrize("name", ["lstm", "min_gru"])
def test_the_last_output_is_that_of_the_sequence_and_held_ones_are_zero(name, monkeypatch):
    from cellkit.engines.backend import backend

    monkeypatch.setattr(backend, "block", 3)
    x = data((ROWS, TIME, 3), dtype="float32")
    layer = cellkit.RNN(name, units=4, return_sequences=True)
    late = MASK.copy()
    late[0, 3:] = late[1, 6] = False  # no step counts behind the last reset
    sequence = npy(layer(x, resets=RESETS, mask=late))
    layer.return_sequences = False
    last = npy(layer(x, resets=RESETS, mask=late))
    np.testing.assert_allclose(last, sequence[:, -1], atol=1e-5)
    assert not last[:2].any() and last[2:].all()


def test_plans_tell_calls_with_resets_from_others():
    x = ops.convert_to_tensor(data((ROWS, TIME, 3), dtype="float32"))
    layer = cellkit.RNN("gru", units=4, return_sequences=True)
    plain, cut, flipped = (
        npy(layer(x, **call)) for call in ({}, {"resets": RESETS}, {"resets": ~RESETS})
    )
    for _ in range(2):
        np.testing.assert_array_equal(npy(layer(x)), plain)
        np.testing.assert_array_equal(npy(layer(x, resets=RESETS)), cut)
        np.testing.assert_array_equal(npy(layer(x, resets=(~RESETS).astype("int64"))), flipped)
        np.testing.assert_array_equal(npy(layer(x, segments=0 * SEGMENTS)), plain)
    assert np.abs(plain - cut).max() > 1e-3 and np.abs(flipped - cut).max() > 1e-3


def model_of():
    x = keras.Input((None, 3), name="x")
    resets = keras.Input((None,), dtype="bool", name="resets")
    segments = keras.Input((None,), dtype="int32", name="segments")
    h = cellkit.RNN("gru", units=4, return_sequences=True)(x, resets=resets, segments=segments)
    h = cellkit.Bidirectional(cellkit.RNN("gru", units=2, return_sequences=True))(
        h, segments=segments
    )
    return keras.Model([x, resets, segments], keras.layers.Dense(1)(h))


class Batches(keras.utils.PyDataset):
    def __init__(self, inputs, targets):
        super().__init__()
        self.inputs, self.targets = inputs, targets

    def __len__(self):
        return 2

    def __getitem__(self, index):
        rows = slice(2 * index, 2 * index + 2)
        return {k: v[rows] for k, v in self.inputs.items()}, self.targets[rows]


def test_functional_models_train_and_come_back_from_a_file(tmp_path):
    inputs = {
        "x": data((ROWS, TIME, 3), dtype="float32"),
        "resets": FEW,
        "segments": SEGMENTS.astype("int32"),
    }
    targets = data((ROWS, TIME, 1), seed=9, dtype="float32")
    model = model_of()
    model.compile("sgd", "mse")
    before = [npy(w) for w in model.trainable_weights]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        batches = tf.data.Dataset.from_tensor_slices((inputs, targets)).batch(2)
        model.fit(batches, shuffle=False, verbose=0)
    else:
        model.fit(Batches(inputs, targets), verbose=0)
    model.fit(inputs, targets, batch_size=2, verbose=0)
    assert all(
        np.abs(npy(w) - b).max() > 0 for w, b in zip(model.trainable_weights, before, strict=True)
    )
    want = model.predict(inputs, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(inputs, verbose=0), want, atol=1e-6)
    for name in ("resets", "segments"):
        other = loaded.predict({**inputs, name: np.zeros_like(inputs[name])}, verbose=0)
        assert np.abs(other - want).max() > 1e-4


@pytest.mark.one_backend
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_the_kernel_says_which_way_it_took(mask):
    layer = layer_for("kernel")
    layer.engine = "kernel"
    layer(data((ROWS, TIME, 3)), resets=RESETS, mask=mask)
    assert "in 10 pieces of 4 rows in" in layer.engine_report().note
    assert "in 10 pieces of 4 rows in" in str(layer.engine_report())
    # A single reset in many rows is not worth to cut them.
    few = np.zeros((30, 200), bool)
    few[3, 20] = True
    keep = None if mask is None else np.ones((30, 200), bool)
    layer(data((30, 200, 3)), resets=few, mask=keep)
    assert "in 2 spans of 30 rows between" in layer.engine_report().note
    layer(data((ROWS, TIME, 3)))
    assert not layer.engine_report().note


@pytest.mark.skipif(BACKEND != "torch", reason="an engine of PyTorch")
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("way", ["pieces", "spans"])
def test_both_ways_of_the_kernel_give_what_the_pieces_give(monkeypatch, way, cell):
    from cellkit.engines.torch import kernel

    monkeypatch.setattr(kernel, "_costs", lambda *_: {way: 1.0})
    for backwards, mask in ((False, None), (False, MASK), (True, MASK)):
        options = {"return_sequences": True, "go_backwards": backwards}
        layer = layer_of((cell, {"units": 4}), **options)
        assert_pieces(layer, data((ROWS, TIME, 3)), start(layer), mask=mask, engine="kernel")
        assert f" {way} of" in layer.engine_report().note


BAD = {
    "another length": ({"resets": RESETS[:, :3]}, "resets of shape (4, 3)"),
    "another batch": ({"segments": SEGMENTS[:2]}, "segments of shape (2, 7)"),
    "one axis more": ({"resets": RESETS[..., None]}, "resets of shape (4, 7, 1)"),
    "one axis less": ({"resets": [True] * TIME}, "resets of shape (7,)"),
    "floats": ({"resets": RESETS.astype("float32")}, "resets of dtype float32"),
    "flags as segments": ({"segments": RESETS}, "segments of dtype bool"),
    "segments in floats": ({"segments": SEGMENTS.astype("float64")}, "segments of dtype float64"),
    "words": ({"segments": np.full((ROWS, TIME), "a")}, "segments of dtype <U1"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_have_three_parts(case):
    call, received = BAD[case]
    x = data((ROWS, TIME, 3), dtype="float32")
    layer = cellkit.RNN("gru", units=2)
    for one in (layer, cellkit.Bidirectional(cellkit.RNN("gru", units=2))):
        assert received in raised(lambda one=one: one(x, **call))[1]
    layer(x, resets=RESETS)


def test_errors_of_symbolic_calls_and_of_steps():
    layer, x = cellkit.RNN("gru", units=2), keras.Input((TIME, 3))
    flags = keras.Input((TIME - 1,), dtype="bool")
    assert "(None, 6)" in raised(lambda: layer(x, resets=flags))[1]
    numbers = keras.Input((TIME,), dtype="float32")
    assert "float32" in raised(lambda: layer(x, segments=numbers))[1]
    step = data((ROWS, 3), dtype="float32")
    assert "(4, 7)" in raised(lambda: layer.step(step, resets=RESETS))[1]
    assert "segments=" in raised(lambda: layer.step(step, segments=SEGMENTS[:, 0]))[1]


def test_a_layer_of_keras_knows_no_resets():
    layer = cellkit.Bidirectional(keras.layers.GRU(2))
    assert "resets" in raised(lambda: layer(data((ROWS, TIME, 3)), resets=RESETS))[1]
