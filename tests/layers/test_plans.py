"""Calls of a signature that has run before: the same numbers and promises, on a shorter way."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from small_layers import BATCH, FEATURES, MASK, TIME, data, layer_of, leaves
from three_parts import parts

import cellkit
from cellkit.layers import plan

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import count_moves  # noqa: E402

BACKEND = keras.backend.backend()


@pytest.fixture
def planned(monkeypatch):
    """Count the calls that run by a plan."""
    found, run = [], plan.Plan.run

    def counted(self, *arguments):
        found.append(self)
        return run(self, *arguments)

    monkeypatch.setattr(plan.Plan, "run", counted)
    return found


def whole_way(layer, *arguments, **call):
    """Call a layer without a plan."""
    layer._memo.set("call plans", {})
    return layer(*arguments, **call)


STATES = [data((BATCH, 5), 7), data((BATCH, 5), 8)]


@pytest.mark.parametrize("name", ["lstm", "peephole_lstm", "min_gru"])
@pytest.mark.parametrize(
    "call",
    [
        {},
        {"mask": MASK},
        {"mask": MASK[..., None].astype("int32")},
        {"lengths": [6, 2, 0]},
        {"initial_state": STATES},
        {"mask": MASK, "initial_state": STATES, "training": False},
        {"training": True},
    ],
    ids=lambda call: "-".join(call),
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_sequences": True, "go_backwards": True},
        {"return_state": True, "return_sequences": True, "zero_output_for_mask": True},
    ],
    ids=["last", "backwards", "states"],
)
def test_a_planned_call_returns_what_the_first_one_did(planned, name, call, options):
    if name == "min_gru" and "initial_state" in call:
        call = {**call, "initial_state": STATES[:1]}
    layer, x = layer_of(name, **options), data()
    want = leaves(whole_way(layer, x, **call))
    report = layer.engine_report()
    assert not planned
    have = leaves(layer(x, **call))
    assert len(planned) == 1
    assert report == layer.engine_report()
    for a, b in zip(want, have, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


@pytest.mark.parametrize("dtype", ["float32", "int32", "float16"])
def test_inputs_of_any_dtype_and_kind_are_taken(dtype):
    layer = layer_of("gru")
    x = (3 * data()).astype(dtype)
    (want,) = leaves(whole_way(layer, x))
    for given in (x, ops.convert_to_tensor(x), x.tolist() if dtype == "float32" else x):
        for _ in range(3):
            np.testing.assert_array_equal(leaves(layer(given))[0], want)


def test_shapes_and_flags_have_plans_of_their_own(planned):
    layer = layer_of(cellkit.create("lstm", units=5, dropout=0.5, seed=1))
    for shape in [(BATCH, TIME, FEATURES), (2, TIME, FEATURES), (BATCH, 1, FEATURES)]:
        x = data(shape)
        want = leaves(whole_way(layer, x))
        np.testing.assert_array_equal(leaves(layer(x))[0], want[0])
        # With dropout, numbers differ from call to call: the flag has arrived.
        layer(x, training=True)
        assert not np.array_equal(leaves(layer(x, training=True))[0], want[0])
        np.testing.assert_array_equal(leaves(layer(x))[0], want[0])
    assert len(planned) == 9


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("return_sequences", True),
        ("return_state", True),
        ("go_backwards", True),
        ("zero_output_for_mask", True),
        ("unroll", True),
        ("engine", "loop"),
        ("remat", 2),
        ("truncate_gradient", 2),
    ],
)
def test_an_option_that_is_changed_between_calls_counts(change, value):
    changed, fresh = layer_of(), layer_of(**{change: value})
    x = data()
    for _ in range(3):
        changed(x, mask=MASK)
    setattr(changed, change, value)
    for _ in range(3):
        for a, b in zip(leaves(changed(x, mask=MASK)), leaves(fresh(x, mask=MASK)), strict=True):
            np.testing.assert_array_equal(a, b)
        assert changed.engine_report().engine == fresh.engine_report().engine


def test_a_cell_that_is_changed_between_calls_is_asked_anew():
    layer, x = layer_of(), data()
    for _ in range(3):
        before = leaves(layer(x))[0]
    layer.cell.activation = keras.activations.relu
    after = leaves(layer(x))[0]
    assert not np.array_equal(before, after)
    layer.engine = "loop"
    np.testing.assert_allclose(leaves(layer(x))[0], after, atol=1e-6)
    layer.set_weights([0 * w for w in layer.get_weights()])
    assert not leaves(layer(x))[0].any()


def test_masks_are_taken_from_the_inputs_and_passed_on(planned):
    layer, after = layer_of(return_sequences=True), layer_of("gru")
    masking = keras.layers.Masking()
    x = data()
    x[~MASK] = 0.0
    for _ in range(3):
        y = layer(masking(ops.convert_to_tensor(x)))
        np.testing.assert_array_equal(ops.convert_to_numpy(y._keras_mask), MASK)
        np.testing.assert_array_equal(leaves(y)[0], leaves(layer(x, mask=MASK))[0])
    assert planned
    after(data())
    assert getattr(after(data()), "_keras_mask", None) is None


class Lossy(cellkit.get("gru").cls):
    """Adds a loss at every step, and sees the training flag of the call in a layer of its own."""

    def build(self, input_shape):
        super().build(input_shape)
        self.noise = keras.layers.Dropout(0.5, seed=1)

    def step(self, projected, states):
        h, new = super().step(projected, states)
        self.add_loss(ops.mean(h) + 1.0)
        return self.noise(h), new


def test_losses_belong_to_the_last_call_and_layers_inside_see_the_training_flag(planned):
    layer, x = layer_of(cell=Lossy(5), return_sequences=True), data()
    found = []
    for _ in range(3):
        y = leaves(layer(x))[0]
        assert (y != 0).all()
        found.append([float(ops.convert_to_numpy(v)) for v in layer.losses])
    assert planned and found[0] == found[1] == found[2] != []
    for _ in range(3):
        assert (leaves(layer(x, training=True))[0] == 0).any()


def test_the_training_flag_of_an_outer_layer_holds(planned):
    class Outer(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = layer_of(cell=cellkit.create("lstm", units=5, dropout=0.6, seed=2))

        def call(self, x, training=False):
            return self.inner(x)

    outer, x = Outer(), data()
    for _ in range(3):
        silent = leaves(outer(x))[0]
        assert not np.array_equal(leaves(outer(x, training=True))[0], silent)
        np.testing.assert_array_equal(leaves(outer(x))[0], silent)
    assert planned


def test_an_outer_layer_of_mixed_precision_changes_nothing():
    class Outer(keras.layers.Layer):
        def __init__(self):
            super().__init__(dtype="mixed_float16")
            self.inner = layer_of(dtype="float32")

        def call(self, x):
            return self.inner(ops.cast(x, "float32"))

    outer, x = Outer(), data()
    x = ops.convert_to_numpy(ops.cast(ops.cast(x, "float16"), "float32"))
    want = leaves(outer.inner(x))[0]
    for _ in range(3):
        np.testing.assert_array_equal(leaves(outer(x))[0], want)
        np.testing.assert_array_equal(leaves(outer.inner(x))[0], want)


def test_what_keras_does_to_outputs_is_not_lost():
    layer, x = layer_of(), data()
    for _ in range(3):
        y = layer(x)
    assert not layer.losses
    layer.activity_regularizer = keras.regularizers.L2(0.5)
    for _ in range(3):
        layer(x)
        (loss,) = layer.losses
        want = 0.5 * np.square(leaves(y)[0]).sum() / BATCH
        np.testing.assert_allclose(ops.convert_to_numpy(loss), want, rtol=1e-5)


def test_a_stateful_layer_carries_its_states_on(planned):
    layer = layer_of(stateful=True)
    whole, x = cellkit.RNN(layer.cell), data((BATCH, 3 * TIME, FEATURES))
    for t in range(0, 3 * TIME, TIME):
        y = leaves(layer(x[:, t : t + TIME]))[0]
    assert planned
    np.testing.assert_allclose(y, leaves(whole(x))[0], atol=1e-6)
    layer.reset_state()
    np.testing.assert_array_equal(leaves(layer(x[:, :TIME]))[0], leaves(whole(x[:, :TIME]))[0])


class Failing(cellkit.get("gru").cls):
    """Fails on demand, unseen."""

    fails = []

    def get_initial_state(self, batch_size=None):
        if type(self).fails:
            raise RuntimeError("no state today")
        return super().get_initial_state(batch_size)


def test_an_error_says_what_it_said_on_the_whole_way(planned):
    layer, x = layer_of(cell=Failing(5)), data()
    for _ in range(2):
        layer(x)
    texts = []
    try:
        for call in (whole_way, lambda layer, x: layer(x)):
            Failing.fails.append(1)
            with pytest.raises(RuntimeError, match="no state today") as raised:
                call(layer, x)
            texts.append(str(raised.value))
            Failing.fails.clear()
            layer(x)
    finally:
        Failing.fails.clear()
    assert planned
    assert "sequences=" in texts[0]
    assert texts[0] == texts[1]


def test_wrong_arguments_get_the_same_error_with_and_without_a_plan():
    layer, x = layer_of(), data()
    for _ in range(2):
        layer(x, mask=MASK)
        layer(x, initial_state=STATES)
    for call in ({"mask": MASK[:, :2]}, {"initial_state": STATES[:1]}, {"lengths": [1, 2, 99]}):
        texts = []
        for run in (whole_way, lambda layer, x, **call: layer(x, **call)):
            with pytest.raises(ValueError, match="Received") as raised:
                run(layer, x, **call)
            texts.append(parts(str(raised.value)))
            layer(x, mask=MASK)
        assert texts[0] == texts[1]


def test_a_subclass_with_a_call_of_its_own_is_called(planned):
    class Doubled(cellkit.RNN):
        def call(self, *arguments, **call):
            return 2.0 * super().call(*arguments, **call)

    layer = layer_of()
    doubled, x = Doubled(layer.cell), data()
    want = 2 * leaves(layer(x))[0]
    for _ in range(3):
        np.testing.assert_allclose(leaves(doubled(x))[0], want, atol=1e-6)
    assert not planned


def test_a_small_call_moves_between_few_files():
    found = count_moves.moves(count_moves.small_call())
    assert found.total() < 60, found.most_common(12)
