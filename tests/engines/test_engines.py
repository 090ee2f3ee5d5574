"""Every engine computes what the plain loop computes: outputs, states, gradients, randomness."""

import dataclasses

import keras
import numpy as np
import pytest
from cell_numbers import DTYPE, TOLERANCE
from engine_runs import (
    BATCH,
    FEATURES,
    MASK,
    RIGHT,
    TIME,
    assert_equal,
    data,
    initial,
    layer_of,
    npy,
    outcome,
)
from keras import ops
from three_parts import raised

import cellkit
from cellkit import engines

BACKEND = keras.backend.backend()


class TwoOutputs(cellkit.GatedCell):
    """Has an output that is not a state, and a state that the gates do not reach."""

    gates = {"a": "activation", "b": "recurrent_activation", "c": "recurrent_activation"}

    @property
    def state_size(self):
        return [self.units, self.units]

    def combine(self, gates, states):
        h = gates["a"] * gates["b"] + 0.3 * states[0] * states[1]
        slow = 0.9 * states[1] + 0.1
        return gates["c"] * ops.tanh(h) + slow, [h, slow]


CELLS = {
    "kernel": [
        ("lstm", {"units": 4}),
        ("gru", {"units": 4}),
        ("lstm", {"units": 4, "use_bias": False}),
        ("gru", {"units": 4, "use_bias": False}),
    ],
    "fused": [
        ("lstm", {"units": 4}),
        ("ugrnn", {"units": 4, "activation": "relu", "use_bias": False}),
        ("simple_rnn", {"units": 4}),
    ],
    "projected": [("gru", {"units": 4, "reset_after": False}), ("cifg_lstm", {"units": 4})],
}
PAIRS = [(e, c) for e, cells in CELLS.items() if e in engines.ENGINES for c in cells]
IDS = [f"{e}-{c[0]}" for e, c in PAIRS]


@pytest.mark.parametrize(("engine", "cell"), PAIRS, ids=IDS)
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize("backwards", [False, True], ids=["", "backwards"])
def test_an_engine_computes_what_the_loop_computes(engine, cell, mask, backwards):
    layer = layer_of(cell, return_sequences=True, go_backwards=backwards)
    x = data((BATCH, TIME, FEATURES))
    if mask is not None:
        x[~mask] = np.nan
    assert_equal(layer, engine, x, initial(layer), mask=mask)


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_any_combination_of_the_gates_is_differentiated(mask):
    if "fused" not in engines.ENGINES:
        pytest.skip(f"no fused engine on {BACKEND}")
    layer = layer_of(TwoOutputs(4, dtype=DTYPE), return_sequences=True)
    assert_equal(layer, "fused", data((BATCH, TIME, FEATURES)), initial(layer), mask=mask)


@pytest.mark.parametrize(("engine", "cell"), PAIRS, ids=IDS)
def test_an_engine_returns_the_last_output_alone(engine, cell):
    layer = layer_of(cell)
    x = data((BATCH, TIME, FEATURES))
    assert_equal(layer, engine, x, mask=MASK)
    layer.zero_output_for_mask = layer.return_sequences = True
    assert_equal(layer, engine, x, mask=RIGHT)


@pytest.mark.parametrize(
    ("engine", "cell", "zoneout"),
    [("projected", "gru", 0.2), ("projected", "lstm", 0.0), ("fused", "lstm", 0.0)],
)
def test_an_engine_drops_what_the_loop_drops(engine, cell, zoneout):
    if engine not in engines.ENGINES:
        pytest.skip(f"no engine {engine!r} on {BACKEND}")
    options = {"units": 4, "dropout": 0.4, "recurrent_dropout": 0.3, "zoneout": zoneout, "seed": 3}
    layer = layer_of((cell, options), return_sequences=True)
    x = data((BATCH, TIME, FEATURES))
    assert_equal(layer, engine, x, mask=MASK, training=True)


@pytest.mark.parametrize(
    ("engine", "cells", "policy"),
    [
        ("fused", ["lstm"], "mixed_float16"),
        ("fused", ["ugrnn"], "mixed_bfloat16"),
        ("projected", ["gru"], "mixed_float16"),
        ("scan", ["min_gru"], "mixed_float16"),
        ("stack", ["min_gru", "lstm"], "mixed_float16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_an_engine_rounds_no_more_than_the_loop_in_mixed_precision(engine, cells, policy):
    made = [cellkit.create(name, units=4, dtype=policy) for name in cells]
    cell = made[0] if len(made) == 1 else cellkit.StackedCells(made, dtype=policy)
    layer = layer_of(cell, return_sequences=True, dtype=policy)
    x = data((BATCH, TIME, FEATURES), dtype="float32")
    # Each of six steps, forward and back, rounds some numbers to one part in 2048 (or 256).
    tolerance = 16 * 2.0 ** (-11 if policy == "mixed_float16" else -8)
    assert_equal(layer, engine, x, mask=MASK, tolerance=tolerance)
    layer.engine = "auto"
    assert layer.compute_dtype == keras.backend.standardize_dtype(layer(x)[0].dtype)


def test_inputs_of_any_structure_are_projected():
    layer = layer_of(
        ("phased_lstm", {"units": 4, "dropout": 0.4}),
        ((None, None, FEATURES), (None, None, 1)),
        return_sequences=True,
    )
    times = np.cumsum(np.abs(data((BATCH, TIME, 1), seed=9)), axis=1)
    x = (data((BATCH, TIME, FEATURES)), times)
    assert_equal(layer, "projected", x, mask=MASK, training=True)


def test_integers_are_projected_as_floats():
    layer = layer_of(("gru", {"units": 4}))
    x = np.arange(BATCH * TIME * FEATURES).reshape(BATCH, TIME, FEATURES) % 5
    ys = []
    for engine in ("loop", "projected"):
        layer.engine = engine
        ys.append(npy(layer(x.astype("int32"))[0]))
    np.testing.assert_allclose(*ys, atol=TOLERANCE)


class Untidy(cellkit.Cell):
    """Hands on a weight from `project`: there is no row of it for each row of the inputs."""

    def build(self, input_shape):
        super().build(input_shape)
        self.kernel = self.add_kernel((input_shape[-1], self.units))

    def project(self, inputs):
        return inputs @ ops.convert_to_tensor(self.kernel), 1.0 * self.kernel

    def step(self, projected, states):
        h = projected[0] + states[0] + ops.sum(projected[1])
        return h, [h]


class Mixing(Untidy):
    """Has no `project`, and rows that see each other, which only the loop can run."""

    project = cellkit.Cell.project

    def step(self, projected, states):
        h = projected @ ops.convert_to_tensor(self.kernel) + ops.flip(states[0], axis=0)
        return h, [h]


class Plain(Untidy):
    """Takes the inputs as they are, with a `call` of its own."""

    def call(self, inputs, states, training=False):
        return super().call(inputs, states, training)


@pytest.mark.parametrize(
    ("cell", "options", "reason"),
    [
        (keras.layers.SimpleRNNCell(4), {}, "no `cellkit.Cell`"),
        (Untidy(4), {}, "one row for each row"),
        (Plain(4), {}, "a `call` of its own"),
        (Mixing(4), {}, "no `project`"),
        (cellkit.create("gru", units=4, dtype="float16"), {"dtype": "float32"}, "a dtype of its"),
    ],
    ids=["keras", "untidy", "call", "no project", "dtype"],
)
def test_what_cannot_be_projected_falls_back_to_the_loop(cell, options, reason):
    x = data((BATCH, TIME, FEATURES), dtype="float32")
    layer = cellkit.RNN(cell, **options)
    layer(x)
    report = layer.engine_report()
    if BACKEND == "torch":  # elsewhere it is not tried, being no faster
        assert report.engine == "loop"
        assert reason in report.reasons["projected"]
        assert reason in str(report)
    named = cellkit.RNN(cell, engine="projected", **options)
    assert reason in raised(named, x)[1]


class Overridden(cellkit.get("lstm").cls):
    """Takes a step of its own."""

    def step(self, projected, states):
        h, new = super().step(projected, states)
        return 2.0 * h, new


needs_kernel = pytest.mark.skipif(
    "kernel" not in engines.ENGINES, reason=f"no kernels on {BACKEND}"
)


@needs_kernel
@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell"])
def test_the_kernel_runs_the_cells_of_keras_too(name):
    # In float32: Keras' own products of float64 are rounded to it on Torch.
    cell = getattr(keras.layers, name)(4, dtype="float32")
    layer = layer_of(cell, return_sequences=True, dtype="float32")
    x, states = data((BATCH, TIME, FEATURES)), initial(layer)
    assert_equal(layer, "kernel", x, states, mask=MASK, tolerance=3e-5)


@needs_kernel
@pytest.mark.parametrize(
    "cell",
    [
        Overridden(4),
        cellkit.create("lstm", units=4, recurrent_activation="hard_sigmoid"),
        cellkit.create("lstm", units=4, recurrent_dropout=0.1),
        cellkit.create("lstm", units=4, zoneout=0.1),
        cellkit.create("peephole_lstm", units=4),
        cellkit.create("gru", units=4, reset_after=False),
        keras.layers.GRUCell(4, activation="relu"),
        keras.layers.LSTMCell(4, dropout=0.1),
    ],
)
def test_the_kernel_runs_standard_cells_alone(cell):
    layer = cellkit.RNN(cell)
    layer(data((BATCH, TIME, FEATURES), dtype="float32"), training=True)
    assert layer.engine_report().engine != "kernel"


@pytest.mark.skipif(BACKEND != "torch", reason="Torch differentiates gradients of eager calls")
@pytest.mark.parametrize("engine", ["fused", "kernel"])
def test_the_gradient_of_a_gradient_goes_through_an_engine(engine):
    import torch

    cells = [("lstm", {"units": 4}), *([("gru", {"units": 4})] if engine == "kernel" else [])]
    for layer in map(layer_of, cells):
        found = []
        for layer.engine in ("loop", engine):
            x = torch.tensor(data((BATCH, TIME, FEATURES)), requires_grad=True)
            (first,) = torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
            weights = [v.value for v in layer.trainable_variables]
            second = torch.autograd.grad((first**2).sum(), [x, *weights[:2]])
            found.append([npy(g) for g in second])
        for loop, other in zip(*found, strict=True):
            np.testing.assert_allclose(other, loop, atol=TOLERANCE)


@pytest.mark.parametrize("shape", [(0, TIME), (BATCH, 0), (BATCH, 1)])
@pytest.mark.parametrize("cell", ["lstm", "ugrnn"])
def test_the_engine_chosen_takes_any_number_of_rows_and_steps(cell, shape):
    layer = layer_of((cell, {"units": 4}), return_sequences=True)
    results = []
    for layer.engine in ("loop", "auto"):
        results.append([npy(y) for y in layer(data((*shape, FEATURES)))])
    for loop, auto in zip(*results, strict=True):
        np.testing.assert_allclose(auto, loop, atol=TOLERANCE)


def test_a_stateful_layer_goes_on_with_any_engine():
    x = data((BATCH, TIME, FEATURES))
    for cell in ("lstm", "ugrnn"):
        whole = layer_of((cell, {"units": 4}), return_sequences=True, engine="loop")
        parts = cellkit.RNN(whole.cell, return_sequences=True, stateful=True, dtype=DTYPE)
        y = np.concatenate([npy(parts(x[:, :4])), npy(parts(x[:, 4:]))], axis=1)
        np.testing.assert_allclose(y, npy(whole(x)[0]), atol=TOLERANCE)


def chunked(layer, name, value, x, states, **call):
    """Return outputs, states and gradients with an option of the layer set for this one call."""
    before = getattr(layer, name)
    setattr(layer, name, value)
    try:
        return outcome(layer, layer.engine, x, states, **call)
    finally:
        setattr(layer, name, before)


@pytest.mark.parametrize(
    ("engine", "cell", "options"),
    [
        ("loop", "gru", {"dropout": 0.3, "recurrent_dropout": 0.3, "zoneout": 0.2, "seed": 3}),
        ("fused", "lstm", {"dropout": 0.3, "recurrent_dropout": 0.3, "seed": 3}),
        ("kernel", "lstm", {}),
    ],
    ids=["loop", "fused", "kernel"],
)
@pytest.mark.parametrize("remat", [True, 4])
def test_remat_changes_no_number(engine, cell, options, remat):
    if engine != "loop" and BACKEND != "torch":
        pytest.skip("remat is the plain loop's own here")
    layer = layer_of((cell, {"units": 4, **options}), return_sequences=True, engine=engine)
    x = data((BATCH, TIME, FEATURES))
    layer.go_backwards = remat is True
    arguments = (x, initial(layer))
    want = outcome(layer, engine, *arguments, mask=MASK, training=True)
    have = chunked(layer, "remat", remat, *arguments, mask=MASK, training=True)
    assert want.keys() == have.keys()
    for name, value in want.items():
        scale = max(1.0, np.abs(value.astype("float64")).max(initial=0))
        np.testing.assert_allclose(have[name], value, atol=TOLERANCE * scale, err_msg=name)


@pytest.mark.parametrize("option", [{"remat": 2}, {"truncate_gradient": 2}])
@pytest.mark.parametrize("zeros", [False, True])
def test_chunks_of_an_eager_call_know_what_was_before_them(option, zeros):
    options = {"return_sequences": True, "zero_output_for_mask": zeros}
    whole = layer_of(("lstm", {"units": 4}), **options)
    parts = cellkit.RNN(whole.cell, return_state=True, dtype=DTYPE, **options, **option)
    x, states = data((BATCH, TIME, FEATURES)), initial(whole)
    want = whole(x, initial_state=states, mask=MASK)
    for have, value in zip(parts(x, initial_state=states, mask=MASK), want, strict=True):
        np.testing.assert_allclose(npy(have), npy(value), atol=TOLERANCE)


@pytest.mark.skipif(BACKEND != "torch", reason="the other backends differentiate no other way")
def test_remat_has_the_gradient_of_the_values_of_a_stateless_call():
    layer = layer_of(("lstm", {"units": 4}), engine="loop")
    x = keras.ops.convert_to_tensor(data((BATCH, TIME, FEATURES)))
    found = []
    for layer.remat in (False, 2):
        values = [(2 * v.value.detach()).requires_grad_() for v in layer.cell.trainable_variables]
        pairs = list(zip(layer.cell.trainable_variables, values, strict=True))
        with keras.StatelessScope(state_mapping=pairs):
            total = sum(keras.ops.sum(y) for y in keras.tree.flatten(layer(x)))
        total.backward()
        found.append([npy(value.grad) for value in values])
    for have, want in zip(*found, strict=True):
        assert np.any(want)
        np.testing.assert_allclose(have, want, atol=TOLERANCE * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("remat", [False, 2])
def test_a_truncated_gradient_reaches_back_to_the_start_of_its_block(remat):
    layer = layer_of(("gru", {"units": 4}), engine="loop", remat=remat)
    x, states = data((BATCH, TIME, FEATURES)), initial(layer)
    whole = outcome(layer, "loop", x, states)
    cut = chunked(layer, "truncate_gradient", 4, x, states)
    tail = outcome(layer, "loop", x[:, 4:], [npy(layer(x[:, :4], initial_state=states)[1])])
    for name in ("result 0", "result 1"):
        np.testing.assert_allclose(cut[name], whole[name], atol=TOLERANCE)
    assert not np.any(cut["argument 0"][:, :4]) and not np.any(cut["argument 1"])
    np.testing.assert_allclose(cut["argument 0"][:, 4:], tail["argument 0"], atol=20 * TOLERANCE)
    for name in [n for n in tail if n.startswith("weight")]:
        np.testing.assert_allclose(cut[name], tail[name], atol=20 * TOLERANCE, err_msg=name)
    # Longer blocks than the sequence change nothing.
    same = chunked(layer, "truncate_gradient", 9, x, states)
    np.testing.assert_allclose(same["argument 1"], whole["argument 1"], atol=20 * TOLERANCE)


def test_a_held_output_is_not_cut_off_from_the_block_of_its_step():
    layer = layer_of(("gru", {"units": 4}), engine="loop")
    x, states = data((BATCH, TIME, FEATURES)), initial(layer)
    mask = np.tile(np.arange(TIME) < 4, (BATCH, 1))
    cut = chunked(layer, "truncate_gradient", 4, x, states, mask=mask)
    assert np.all(np.any(cut["argument 0"][:, :4], axis=-1))
    assert not np.any(cut["argument 0"][:, 4:])


@pytest.mark.parametrize(
    ("option", "value"),
    [("remat", 0), ("remat", "yes"), ("truncate_gradient", 0), ("truncate_gradient", True)],
)
def test_a_senseless_length_of_chunks_is_refused(option, value):
    cell = cellkit.create("gru", units=2)
    assert repr(value) in raised(cellkit.RNN, cell, **{option: value})[1]


def test_an_unknown_engine_is_refused():
    cell = cellkit.create("gru", units=2)
    assert "'turbo'" in raised(cellkit.RNN, cell, engine="turbo")[1]


def test_the_engine_is_in_the_configuration_where_it_was_named():
    cell = cellkit.create("gru", units=2)
    assert "engine" not in cellkit.RNN(cell).get_config()
    config = cellkit.RNN(cell, engine="loop").get_config()
    assert cellkit.RNN.from_config(config).engine == "loop"
    config = cellkit.RNN(cell, remat=True, truncate_gradient=5).get_config()
    copy = cellkit.RNN.from_config(config)
    assert (copy.remat, copy.truncate_gradient) == (True, 5)


def test_a_report_before_and_after_the_first_call():
    layer = cellkit.RNN(cellkit.create("gru", units=2), engine="projected")
    assert layer.engine_report().engine is None
    assert "has not run" in str(layer.engine_report())
    layer(np.zeros((2, 3, 4), "float32"))
    assert str(layer.engine_report()).startswith("engine='projected': 'projected' ran")
    layer.step(np.zeros((2, 4), "float32"))
    assert layer.engine_report().engine == "loop"


@pytest.mark.skipif(BACKEND != "torch", reason="the loops of the other backends keep no steps")
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("engine", ["loop", "projected", "fused", "kernel"])
def test_long_inference_keeps_no_more_than_a_chunk(engine, backwards, monkeypatch):
    import torch

    from cellkit.engines.torch import chunks as chunks_torch

    layer = layer_of(("lstm", {"units": 4}), engine=engine, go_backwards=backwards)
    x, lengths = data((BATCH, TIME, FEATURES)), []
    known = engines.ENGINES[engine]

    def run(request):
        lengths.append(request.inputs.shape[1])
        return known.run(request)

    monkeypatch.setitem(engines.ENGINES, engine, dataclasses.replace(known, run=run))
    with torch.no_grad():
        whole = layer(x, mask=MASK)
        monkeypatch.setattr(chunks_torch, "_STREAMED", 4)
        chunked = layer(x, mask=MASK)
    assert lengths == [6, 4, 2]
    for got, want in zip(chunked, whole, strict=True):
        np.testing.assert_allclose(npy(got), npy(want), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("option", ["auto", *engines.NAMES])
def test_every_name_of_an_engine_is_known(option):
    layer = layer_of(("ugrnn", {"units": 4}), engine=option)
    assert layer.engine == option
    assert layer.get_config().get("engine", "auto") == layer.engine


def test_a_former_name_is_known_and_whoever_gives_it_is_told_the_name_of_today():
    with pytest.warns(DeprecationWarning, match="write engine='fused'") as told:
        layer = layer_of(("ugrnn", {"units": 4}), engine="gated")
    assert sum("engine='gated'" in str(warning.message) for warning in told) == 1
    assert layer.engine == layer.get_config()["engine"] == "fused"


@pytest.mark.filterwarnings("ignore:engine='gated' is a former name:DeprecationWarning")
def test_a_former_name_may_be_set_on_a_layer():
    layer = layer_of(("ugrnn", {"units": 4}))
    layer.engine = "gated"
    assert layer.engine_report().asked == "fused"
    if BACKEND == "tensorflow":
        assert "the call is eager" in raised(layer, data((BATCH, TIME, FEATURES)))[1]
    else:
        layer(data((BATCH, TIME, FEATURES)))
        assert layer.engine_report().engine == "fused"


class Empty(cellkit.Cell):
    """Has a weight of no elements, as cells have that keep the upper triangle of one unit."""

    def build(self, input_shape):
        super().build(input_shape)
        self.kernel = self.add_kernel((input_shape[-1], self.units))
        self.upper = self.add_weight(shape=(0,), name="upper")

    def step(self, inputs, states):
        h = ops.tanh(cellkit.cells.matmul(inputs, self.kernel) + states[0] + ops.sum(self.upper))
        return h, [h]


def test_a_weight_of_no_elements():
    layer = layer_of(Empty(4, dtype=DTYPE), return_sequences=True)
    assert_equal(layer, "fused", data((BATCH, TIME, FEATURES)), mask=MASK)
