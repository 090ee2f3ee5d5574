"""Cells around cells: numbers against NumPy, any cell inside, what comes through, errors."""

import keras
import numpy as np
import pytest
from against_reference import DTYPE, MASK, TOLERANCE, B, T, map_structure
from three_parts import raised

import cellkit
from cellkit.registry import cell_weights, export_weights, import_weights, set_cell_weights
from cellkit_conformance.subject import oracle

WRAPPERS = (
    "residual",
    "highway",
    "norm",
    "dropout",
    "multiplicative",
    "fast_slow",
    "feedback",
    "attention",
)
CASES = [(name, case) for name in WRAPPERS for case in cellkit.get(name).spec.cases]
ON_TORCH = keras.backend.backend() == "torch"
rng = np.random.default_rng(5)
X = rng.normal(size=(B, T, 4))
MEMORY = rng.normal(size=(B, 7, 5))
PLACES = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]], bool)


def options_of(name, case=None):
    cases = cellkit.get(name).spec.cases
    return cases[case or next(iter(cases))]


def layer_of(cell, constants=None, **options):
    """Return a built layer around a cell, with random weights."""
    layer = cellkit.RNN(cell, return_sequences=True, return_state=True, dtype=DTYPE, **options)
    layer(X, constants=constants)
    draw = np.random.default_rng(3)
    set_cell_weights(
        layer.cell,
        {k: 0.1 + 0.6 * draw.normal(size=w.shape) for k, w in cell_weights(layer.cell).items()},
    )
    return layer


def to_numpy(tree):
    return map_structure(lambda x: np.array(keras.ops.convert_to_numpy(x)), tree)


def close(got, want, tolerance=TOLERANCE):
    got, want = (keras.tree.flatten(to_numpy(v)) for v in (got, want))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def expected(layer, states, mask=None, constants=None):
    """Run the reference of the layer's cell in a loop."""
    cell, spec = layer.cell, type(layer.cell).spec
    symbols = {k: np.asarray(v, "float64") for k, v in export_weights(cell).items()}
    config, extra = cell.get_config(), [] if constants is None else [constants]
    step = lambda x, s: spec.reference(symbols, x, s, config, *extra)  # noqa: E731
    run = oracle.run(step, X, states, mask=mask)
    return [run.sequence, *keras.tree.flatten(run.states)]


def states_of(layer):
    """Return random states in the structure that the layer has."""
    start, draw = to_numpy(layer.get_initial_state(B)), np.random.default_rng(8)
    return map_structure(lambda x: draw.normal(size=x.shape).astype(x.dtype), start)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_case_agrees_with_the_reference(name, case):
    constants = [MEMORY] if name == "attention" else None
    cell = cellkit.create(name, **options_of(name, case), dtype=DTYPE)
    layer = layer_of(cell, constants)
    states = states_of(layer)
    got = layer(X, initial_state=states, mask=MASK, constants=constants)
    close(got, expected(layer, states, MASK, constants))


def test_wrappers_nest_in_each_other_and_in_stacks():
    inner = cellkit.create("norm", inner="lstm", units=4, on="states", dtype=DTYPE)
    cell = cellkit.create("residual", inner=inner, dtype=DTYPE)
    cell = cellkit.create("highway", inner=[cell, "gru"], units=4, dtype=DTYPE)
    cell = cellkit.create("multiplicative", inner=cell, dtype=DTYPE)
    layer = layer_of(cell)
    states = states_of(layer)
    assert [s.shape for s in keras.tree.flatten(states)] == [(B, 4)] * 3
    # The references nest as the cells do, but for lists in the states, which they take flat.
    nested = cellkit.create("highway", inner=cell.inner.inner, dtype=DTYPE)
    flat = layer_of(nested)
    close(flat(X, initial_state=states), expected(flat, states))
    stack = cellkit.RNN([cellkit.create("residual", inner=cell, dtype=DTYPE), cell], dtype=DTYPE)
    assert tuple(stack(X).shape) == (B, 4)


@keras.saving.register_keras_serializable(package="wrappers")
class Counting(cellkit.Cell):
    """States in a dict: a counter that stays exact, and one that is learned."""

    @property
    def state_size(self):
        return {
            "start": cellkit.TensorSpec(self.units, trainable=True, initializer=0.5),
            "seen": cellkit.TensorSpec((), dtype="int32"),
        }

    @property
    def output_size(self):
        return self.units

    def build(self, input_shape):
        super().build(input_shape)
        self.kernel = self.add_kernel((input_shape[-1], self.units))

    def step(self, inputs, states):
        h = keras.ops.tanh(keras.ops.matmul(inputs, self.kernel) + states["start"])
        return h, {"start": h, "seen": states["seen"] + 1}


class Plain:
    """A cell that is a plain object, not a Keras layer."""

    state_size = output_size = 4

    def call(self, inputs, states):
        return inputs + states[0], [0.5 * states[0] + inputs]


@pytest.mark.parametrize("name", ["residual", "highway", "norm", "dropout", "feedback"])
@pytest.mark.parametrize(
    "inner",
    [
        lambda: keras.layers.LSTMCell(4),
        lambda: [keras.layers.GRUCell(4), cellkit.create("lstm", units=4)],
        lambda: Counting(4),
        Plain,
    ],
    ids=["keras", "list", "dict", "plain"],
)
def test_any_cell_goes_inside(name, inner):
    if name == "feedback" and inner is Plain:
        return  # it has no weights to take a wider input with
    more = {"head": 3} if name == "feedback" else {}
    layer = cellkit.RNN(
        cellkit.create(name, inner=inner(), **more), return_sequences=True, return_state=True
    )
    x = X.astype("float32")
    output, *states = layer(x, mask=MASK, training=True)
    assert tuple(output.shape) == (B, T, 3 if name == "feedback" else 4)
    y, state = [], None
    whole = layer(x)
    for t in range(T):
        out, state = layer.step(x[:, t], state)
        y.append(out)
    close(keras.ops.stack(y, axis=1), whole[0], 1e-5)
    for s in keras.tree.flatten(states):
        assert s.shape[0] == B


def test_a_counter_stays_exact_and_a_learned_start_is_the_cells():
    cell = cellkit.create(
        "residual", inner=Counting(4, dtype="mixed_float16"), dtype="mixed_float16"
    )
    layer = cellkit.RNN(cell, return_state=True, dtype="mixed_float16")
    x = np.zeros((B, T, 4), "float16")
    _, states = layer(x, mask=MASK)
    np.testing.assert_array_equal(to_numpy(states["seen"]), MASK.sum(axis=1))
    assert keras.backend.standardize_dtype(states["seen"].dtype) == "int32"
    (start,) = cell.inner.initial_state_variables.values()
    start.assign(np.arange(4.0))
    np.testing.assert_allclose(to_numpy(layer.get_initial_state(2)["start"])[1], np.arange(4.0))
    assert len([v for v in layer.trainable_variables if "initial_state" in v.path]) == 1


@pytest.mark.parametrize("make", [keras.layers.GRUCell, keras.layers.LSTMCell])
def test_masks_and_seeds_of_the_cell_inside_come_through(make):
    def run(cell):
        layer = cellkit.RNN(cell, return_sequences=True)
        layer.build(X.shape)
        draw = np.random.default_rng(0)
        layer.set_weights([draw.normal(size=w.shape) for w in layer.get_weights()])
        return layer(X.astype("float32"), training=True)

    options = {"dropout": 0.5, "recurrent_dropout": 0.4, "seed": 3}
    alone = run(make(4, **options))
    wrapped = run(cellkit.create("dropout", inner=make(4, **options)))
    assert np.abs(to_numpy(alone)).max() > 0.1
    close(wrapped, alone, 1e-5)


def test_dropout_of_a_cell_of_ours_comes_through_with_its_seed():
    options = {"units": 4, "dropout": 0.5, "recurrent_dropout": 0.4, "seed": 3}
    inner = [cellkit.create("lstm", **options) for _ in range(2)]
    layers = [
        cellkit.RNN(cell, return_sequences=True)
        for cell in (inner[0], cellkit.create("dropout", inner=inner[1]))
    ]
    for layer in layers:
        layer.build(X.shape)
        draw = np.random.default_rng(0)
        layer.set_weights([draw.normal(size=w.shape) for w in layer.get_weights()])
    alone, wrapped = (layer(X.astype("float32"), training=True) for layer in layers)
    close(wrapped, alone, 1e-5)


def test_dtypes_of_the_cell_inside_come_through():
    inner = cellkit.create("lstm", units=4, dtype="float32")
    cell = cellkit.create("residual", inner=inner, dtype="bfloat16")
    layer = cellkit.RNN(cell, return_state=True, dtype="bfloat16")
    output, *states = layer(X.astype("float32"))
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    assert {keras.backend.standardize_dtype(s.dtype) for s in states} == {"float32"}
    by_name = cellkit.create("residual", inner="lstm", units=4, dtype="mixed_bfloat16")
    assert by_name.inner.compute_dtype == "bfloat16"
    assert by_name.inner.variable_dtype == "float32"


@pytest.mark.skipif(not ON_TORCH, reason="these engines are chosen on PyTorch alone")
@pytest.mark.parametrize("name", [n for n in WRAPPERS if n != "attention"])
def test_the_engine_looks_inside(name):
    layer = cellkit.RNN(cellkit.create(name, **options_of(name)), return_sequences=True)
    layer(X.astype("float32"), training=True)
    assert layer.engine_report().engine == "fused"


def test_what_is_changed_inside_is_noticed():
    cell = cellkit.create("residual", inner="gru", units=4)
    layer = cellkit.RNN(cell)
    x = X.astype("float32")
    before = to_numpy(layer(x))
    cell.inner.activation = keras.activations.relu
    assert np.abs(to_numpy(layer(x)) - before).max() > 1e-3


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_saved_model_computes_the_same(name, tmp_path):
    inner = {"inner": keras.layers.LSTMCell(4)}
    if name == "fast_slow":
        inner = {"inner": [keras.layers.GRUCell(4), cellkit.create("gru", units=4)], "slow": "lstm"}
        inner["units"] = 4
    if name == "feedback":
        inner["head"] = keras.layers.Dense(3, activation="softmax")
    inputs = keras.Input((None, 4))
    extra, given = {}, [X.astype("float32")]
    if name == "attention":
        inner["memory_units"] = 5
        memory, mask = keras.Input((None, 5)), keras.Input((None,), dtype="bool")
        extra, given = {"constants": [memory, mask]}, [*given, MEMORY.astype("float32"), PLACES]
    layer = cellkit.RNN(cellkit.create(name, **inner), return_sequences=True)
    flat = [inputs, *extra.get("constants", [])]
    model = keras.Model(flat, layer(inputs, **extra))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    close(loaded(given), model(given), 0)
    again = type(layer.cell).from_config(layer.cell.get_config())
    assert again.get_config() == layer.cell.get_config()


def test_weights_travel_by_the_symbols_of_the_papers():
    cell = cellkit.create("highway", inner=["lstm", "gru"], units=4)
    cell.build((None, 4))
    symbols = export_weights(cell)
    assert {"W_t", "b_t", "inner.0.U_f", "inner.1.W_z"} <= set(symbols)
    other = cellkit.create("highway", inner=["lstm", "gru"], units=4)
    other.build((None, 4))
    import_weights(other, symbols)
    assert all(
        np.array_equal(a, b) for a, b in zip(cell.get_weights(), other.get_weights(), strict=True)
    )


# --- attention ---------------------------------------------------------------------------------


def attention(**options):
    return cellkit.create("attention", inner="gru", memory_units=5, units=4, dtype=DTYPE, **options)


@pytest.mark.parametrize("score", ["additive", "multiplicative"])
def test_what_the_mask_hides_has_no_effect(score):
    cell = attention(score=score, return_weights=True)
    layer = layer_of(cell, (MEMORY, PLACES))
    got = layer(X, constants=(MEMORY, PLACES))
    poisoned = np.where(PLACES[..., None], MEMORY, np.nan)
    close(layer(X, constants=(poisoned, PLACES)), got)
    weights = to_numpy(got[0]["weights"])
    assert weights.shape == (B, T, 7)
    np.testing.assert_allclose(
        weights.sum(axis=-1), np.array([[1.0], [1], [0]]) * np.ones(T), atol=1e-5
    )
    assert not weights[~PLACES[:, None].repeat(T, axis=1)].any()
    # A row reads as one whose other places are cut out.
    kept = MEMORY[1:2][:, PLACES[1]]
    short = layer(X[1:2], constants=[kept])
    close(short[0]["output"], got[0]["output"][1:2])
    close(got[0]["output"][2, :, 4:], np.zeros((T, 5)))


def test_the_gradient_of_a_row_without_places_is_a_number():
    layer = layer_of(attention(), (MEMORY, PLACES))
    weights = [w.numpy() if hasattr(w, "numpy") else np.asarray(w) for w in layer.get_weights()]
    inputs, memory = keras.Input((None, 4)), keras.Input((None, 5))
    mask = keras.Input((None,), dtype="bool")
    output = layer(inputs, constants=[memory, mask])[0]
    model = keras.Model([inputs, memory, mask], output)
    model.compile("sgd", "mse")
    poisoned = np.where(PLACES[..., None], MEMORY, np.nan)
    model.fit([X, poisoned, PLACES], np.zeros((B, T, 9)), verbose=0)
    assert all(np.isfinite(after).all() for after in layer.get_weights())
    assert any((a != b).any() for a, b in zip(weights, layer.get_weights(), strict=True))


@pytest.mark.skipif(not ON_TORCH, reason="the other backends compile the loop")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"score": "multiplicative", "output_units": 3, "feed": False},
        {"return_weights": True, "dropout": 0.3, "seed": 1},
        {"inner": "lstm", "output_units": 4, "around": "residual"},
    ],
    ids=["additive", "multiplicative", "weights", "nested"],
)
def test_attention_runs_fast_with_the_gradients_of_the_loop(options):
    import torch

    options = {"inner": "gru", **options}
    around = options.pop("around", None)
    cell = cellkit.create("attention", memory_units=5, units=4, dtype=DTYPE, **options)
    cell = cellkit.create(around, inner=cell, dtype=DTYPE) if around else cell
    x = torch.tensor(X, dtype=getattr(torch, DTYPE))
    resets = np.zeros((B, T), bool)
    resets[0, [0, 2]] = resets[1, 1] = True
    layer = layer_of(cell, (MEMORY, PLACES))
    for call in ({}, {"mask": MASK, "resets": resets}):
        found = []
        for engine in ("loop", "fused"):
            layer.engine = engine
            for v in layer.non_trainable_variables:
                v.assign(np.array([7, 0], "uint32"))
            memory = torch.tensor(MEMORY, dtype=x.dtype, requires_grad=True)
            results = layer(x, constants=(memory, PLACES), training=True, **call)
            total = sum(
                (i + 1) * (y.cos() * y).sum() for i, y in enumerate(keras.tree.flatten(results))
            )
            weights = [w.value for w in layer.trainable_variables]
            found.append(
                [*keras.tree.flatten(results), *torch.autograd.grad(total, [memory, *weights])]
            )
        assert layer.engine_report().engine == "fused"
        close([y.detach() for y in found[1]], [y.detach() for y in found[0]], 50 * TOLERANCE)
        assert found[0][-len(weights) - 1].abs().max() > 1e-2


def test_constants_reach_the_attention_inside_of_others():
    inner = attention(output_units=4)
    outer = cellkit.create("residual", inner=inner, dtype=DTYPE)
    layer, bare = (
        layer_of(outer, (MEMORY, PLACES)),
        cellkit.RNN(inner, return_sequences=True, dtype=DTYPE),
    )
    constants = (MEMORY, PLACES)
    bare = to_numpy(bare(X, constants=constants))
    close(layer(X, constants=constants)[0], bare + X)
    assert "constants" in raised(layer, X)[1]
    stack = cellkit.RNN(["gru", attention()], units=4, dtype=DTYPE)
    assert tuple(stack(X, constants=constants).shape) == (B, 9)
    y, states = [], None
    for t in range(T):
        out, states = layer.step(X[:, t], states, constants=constants)
        y.append(out)
    close(keras.ops.stack(y, axis=1), layer(X, constants=constants)[0])


class Doubled(cellkit.get("attention").cls):
    """Has a `call` of its own, that changes the memory and hands it on."""

    def call(self, inputs, states, constants=None, training=False):
        return super().call(inputs, states, training, constants=2 * constants[0])


@pytest.mark.parametrize("places", [1, 4])
def test_a_call_of_its_own_hands_constants_on(places):
    draw = np.random.default_rng(6)
    x = draw.normal(size=(B, T, 3)).astype("float32")
    memory = draw.normal(size=(B, places, 5)).astype("float32")
    options = {"inner": "gru", "memory_units": 5, "units": 4}
    layers = [cellkit.RNN(Doubled(**options)), cellkit.RNN(cellkit.create("attention", **options))]
    for layer in layers:
        layer.build(x.shape, constants_shape=[memory.shape])
    layers[1].set_weights(layers[0].get_weights())
    got = layers[0](x, constants=[memory])
    want = layers[1](x, constants=[2 * memory])
    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (got, want)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("constants", "said"),
    [
        (MEMORY[..., :4], "memory_units=4"),
        (MEMORY[:, 0], "(batch, places, width)"),
        (MEMORY[:2], "(2, 7, 5) for 3 rows"),
        ((MEMORY, PLACES[:, :3]), "memory_mask"),
        ((MEMORY, PLACES, PLACES), "memory_mask"),
    ],
)
def test_a_memory_that_does_not_fit(constants, said):
    layer = cellkit.RNN(attention(), dtype=DTYPE)
    assert said in " ".join(raised(layer, X, constants=constants))


# --- feedback ----------------------------------------------------------------------------------


def feedback(**options):
    return cellkit.create("feedback", inner="gru", units=4, head=4, dtype=DTYPE, **options)


def test_a_target_is_fed_in_the_place_of_the_output():
    free = layer_of(feedback())
    out = to_numpy(free(X)[0])
    target = np.random.default_rng(1).normal(size=(B, T, 4))
    forced = cellkit.RNN(free.cell, return_sequences=True, dtype=DTYPE)
    close(forced((X, out)), out)  # told what it says itself
    got = to_numpy(forced((X, target)))
    assert np.abs(got[:, 1:] - out[:, 1:]).max() > 0.05
    close(got[:, 0], out[:, 0])
    # The same cell without feedback, on the targets one step late.
    late = np.concatenate([np.zeros((B, 1, 4)), target[:, :-1]], axis=1)
    inner = cellkit.RNN(free.cell.inner, return_sequences=True, dtype=DTYPE)
    o = to_numpy(inner(np.concatenate([X, late], axis=-1)))
    w = cell_weights(free.cell)
    close(got, o @ w["head_kernel"] + w["head_bias"], max(TOLERANCE, 1e-10))


def test_sampling_feeds_own_outputs_at_its_rate():
    cell = feedback(sampling=1.0, seed=1)
    free = layer_of(cell)
    out = to_numpy(free(X)[0])
    target = 3 + np.random.default_rng(1).normal(size=(B, T, 4))
    layer = cellkit.RNN(cell, return_sequences=True, dtype=DTYPE)
    close(layer((X, target), training=True), out)
    told = to_numpy(layer((X, target), training=False))
    assert np.abs(told[:, 1:] - out[:, 1:]).max() > 0.1
    cell.sampling = 0.0
    close(layer((X, target), training=True), told)
    cell.sampling = 0.25
    rows = np.repeat(X[:1], 400, axis=0)
    targets = np.repeat(target[:1], 400, axis=0)
    y = to_numpy(layer((rows, targets), training=True))[:, 1]
    own = np.abs(y - out[0, 1]).max(axis=-1) < 1e-4
    forced = np.abs(y - told[0, 1]).max(axis=-1) < 1e-4
    assert (own | forced).all() and 0.15 < own.mean() < 0.35


def test_dropout_spares_the_targets():
    cell = feedback(dropout=0.5, seed=1)
    layer_of(cell)
    layer = cellkit.RNN(cell, return_sequences=True, dtype=DTYPE)
    zeros, target = np.zeros_like(X), np.random.default_rng(1).normal(size=(B, T, 4))
    close(layer((zeros, target), training=True), layer((zeros, target), training=False))


# --- the others --------------------------------------------------------------------------------


def test_a_norm_of_states_keeps_the_output_the_state():
    layer = layer_of(
        cellkit.create("norm", inner=keras.layers.GRUCell(4), on="states", dtype=DTYPE)
    )
    output, state = layer(X)
    close(output[:, -1], state, 0)


def test_zoneout_acts_on_every_state():
    cell = cellkit.create("residual", inner=keras.layers.LSTMCell(4), zoneout=0.5, dtype=DTYPE)
    layer = layer_of(cell)
    states = states_of(layer)
    _, h, c = to_numpy(layer(X[:, :1], initial_state=states, training=True))
    for new, old in ((h, states[0]), (c, states[1])):
        kept = np.isclose(new, old)
        assert kept.any() and not kept.all()


BAD = {
    "no cell": (lambda: cellkit.create("residual", inner=3), "cell"),
    "no size": (lambda: cellkit.create("residual", inner="lstm"), "units"),
    "no such name": (lambda: cellkit.create("residual", inner="lstn", units=3), "lstm"),
    "other units": (
        lambda: cellkit.create("residual", inner=keras.layers.GRUCell(3), units=4),
        "units=4",
    ),
    "recurrent dropout": (
        lambda: cellkit.create("residual", inner="lstm", units=3, recurrent_dropout=0.2),
        "recurrent_dropout",
    ),
    "a layer": (lambda: cellkit.create("norm", inner=cellkit.RNN("gru", units=3)), "layer"),
    "widths": (lambda: cellkit.create("residual", inner="lstm", units=3).build((None, 4)), "(3,)"),
    "widths of a highway": (
        lambda: cellkit.create("highway", inner="lstm", units=3).build((None, 4)),
        "(3,)",
    ),
    "kind of norm": (lambda: cellkit.create("norm", inner="gru", units=3, kind="batch"), "batch"),
    "place of norm": (lambda: cellkit.create("norm", inner="gru", units=3, on="inputs"), "inputs"),
    "rate": (lambda: cellkit.create("dropout", inner="gru", units=3, output_dropout=1.0), "1.0"),
    "score": (
        lambda: cellkit.create("attention", inner="gru", memory_units=2, units=3, score="dot"),
        "dot",
    ),
    "sampling": (
        lambda: cellkit.create("feedback", inner="gru", units=3, sampling=2),
        "sampling=2",
    ),
    "head": (lambda: cellkit.create("feedback", inner="gru", units=3, head="dense"), "head"),
    "target": (
        lambda: cellkit.create("feedback", inner="gru", units=3, head=2).build([(2, 4), (2, 3)]),
        "(batch, 2)",
    ),
    "one fast cell": (
        lambda: cellkit.create("fast_slow", inner=["gru"], slow="gru", units=3),
        "two",
    ),
    "states of fast cells": (
        lambda: cellkit.create("fast_slow", inner=["gru", "lstm"], slow="gru", units=3).build(
            (None, 4)
        ),
        "states",
    ),
    "no vector": (
        lambda: cellkit.create("multiplicative", inner=keras.layers.ConvLSTM1D(2, 3).cell).build(
            (None, 5, 1)
        ),
        "vector",
    ),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("what", BAD)
def test_what_does_not_fit_is_refused(what):
    function, said = BAD[what]
    assert said in " ".join(raised(function))
