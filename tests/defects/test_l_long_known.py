"""Table L of docs/keras-defects.md: what has long been known."""

import itertools

import keras
import numpy as np
import pytest
from defect_classes import RNN, Bidirectional, gru_cell, lstm, lstm_cell
from defect_tools import (
    FORMS,
    MASK,
    NestedInputs,
    TanhCell,
    WideCell,
    built,
    close,
    compiled,
    data,
    differ,
    loop,
    lstm_step,
    model_of,
    nested_step,
    npy,
    randomise,
    serializable,
    shapes,
    tanh_step,
    wide_step,
)
from keras import layers, ops

from cellkit import TensorSpec

ZERO = np.zeros((3, 4))


@pytest.mark.parametrize("form", FORMS)
def test_l1_nested_inputs_in_a_model(form):
    """All backends: crash while building."""
    inputs = FORMS[form][0](keras.Input((None, 3), name="a"), keras.Input((None, 2, 6), name="b"))
    layer = RNN(NestedInputs(form), return_sequences=True)
    outputs = layer(inputs)
    assert shapes(outputs) == (None, None, 4)
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    randomise(model)
    x = FORMS[form][0](data(3, 5, 3), data(3, 5, 2, 6, seed=1))
    sequence, _, _ = loop(nested_step(layer.cell), x, [ZERO])
    close(model.predict(x, verbose=0), sequence)
    before = npy(layer.trainable_variables)
    model.fit(x, np.zeros((3, 5, 4)), verbose=0)
    for old, v in zip(before, layer.trainable_variables, strict=True):
        assert differ(old, npy(v), 1e-5)


def test_l1_nested_inputs_with_one_mask_each():
    """All backends: crash while building; of two masks, both must hold."""
    layer = RNN(NestedInputs("list"), return_sequences=True)
    x = [data(3, 5, 3), data(3, 5, 2, 6, seed=1)]
    layer(x)
    randomise(layer)
    other = np.array([[1, 1, 1, 1, 0]] * 3, bool)
    sequence, _, _ = loop(nested_step(layer.cell), x, [ZERO], MASK & other)
    close(layer(x, mask=[MASK, other]), sequence)
    close(layer(x, mask=MASK & other), sequence)


@serializable
class GuideCell(layers.Layer):
    """The nested cell of Keras' own guide: two inputs, two states, two outputs."""

    def __init__(self, unit_1, unit_2, unit_3, **kwargs):
        super().__init__(**kwargs)
        self.unit_1, self.unit_2, self.unit_3 = unit_1, unit_2, unit_3
        self.state_size = [(unit_1,), (unit_2, unit_3)]
        self.output_size = [(unit_1,), (unit_2, unit_3)]

    def build(self, input_shapes):
        i1, i2, i3 = input_shapes[0][1], input_shapes[1][1], input_shapes[1][2]
        self.kernel_1 = self.add_weight(shape=(i1, self.unit_1), name="kernel_1")
        self.kernel_2_3 = self.add_weight(
            shape=(i2, i3, self.unit_2, self.unit_3), name="kernel_2_3"
        )
        self.built = True

    def call(self, inputs, states):
        output_1 = ops.matmul(inputs[0], self.kernel_1)
        output_2_3 = ops.einsum("bij,ijkl->bkl", inputs[1], self.kernel_2_3)
        new = [states[0] + output_1, states[1] + output_2_3]
        return (output_1, output_2_3), new

    def get_config(self):
        units = {"unit_1": self.unit_1, "unit_2": self.unit_2, "unit_3": self.unit_3}
        return {**super().get_config(), **units}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("unroll", [False, True])
def test_l1_nested_cell_of_the_guide(unroll, masked):
    """All backends: crash while building."""
    layer = RNN(GuideCell(4, 2, 3), return_sequences=True, return_state=True, unroll=unroll)
    x = (data(3, 5, 2), data(3, 5, 3, 4, seed=1))
    symbolic = layer((keras.Input((5, 2)), keras.Input((5, 3, 4))))
    assert shapes(symbolic) == [
        [(None, 5, 4), (None, 5, 2, 3)],
        (None, 4),
        (None, 2, 3),
    ]
    randomise(layer)
    k1, k2 = npy([layer.cell.kernel_1, layer.cell.kernel_2_3])

    def step(inputs, states):
        one, two = inputs[0] @ k1, np.einsum("bij,ijkl->bkl", inputs[1], k2)
        return (one, two), [states[0] + one, states[1] + two]

    mask = MASK if masked else None
    sequence, _, states = loop(step, x, [np.zeros((3, 4)), np.zeros((3, 2, 3))], mask)
    close(layer(x, mask=mask), [*sequence, *states], 1e-4)


@pytest.mark.parametrize(
    ("unroll", "backwards", "zero_output"),
    list(itertools.product([False, True], [False, True], [False, True])),
)
def test_l2_masked_steps_hold_the_previous_output(unroll, backwards, zero_output):
    """JAX: they hold a state, unrolled they ignore zero_output_for_mask; Torch: crash."""
    layer = RNN(
        WideCell(4),
        return_sequences=True,
        return_state=True,
        unroll=unroll,
        go_backwards=backwards,
        zero_output_for_mask=zero_output,
    )
    built(layer, 3, 5, 3)
    x, h = data(3, 5, 3), data(3, 4, seed=1)
    sequence, _, states = loop(wide_step(layer.cell), x, [h], MASK, backwards, zero_output)
    close(layer(x, mask=MASK, initial_state=[h]), [sequence, *states])


def test_l2_all_steps_masked():
    """JAX: gives the initial state, elsewhere zeros."""
    layer = built(RNN(WideCell(4), return_state=True), 3, 5, 3)
    h = data(3, 4, seed=1)
    outputs = layer(data(3, 5, 3), mask=np.zeros((3, 5), bool), initial_state=[h])
    close(outputs, [np.zeros((3, 8)), h])


@serializable
class DeepState(layers.Layer):
    """Has a state of rank 4 and a state that is a vector."""

    state_size = [(2, 3, 4), 4]
    output_size = 4

    def call(self, inputs, states):
        big = 0.5 * states[0] + ops.reshape(inputs, (-1, 1, 1, 4))
        small = ops.sum(big, axis=(1, 2)) - states[1]
        return ops.tanh(small), [big, small]


@pytest.mark.parametrize("unroll", [False, True])
def test_l3_states_of_high_rank_with_a_mask(unroll):
    """JAX: crash; and all backends crash on a tuple in state_size without get_initial_state."""
    layer = RNN(DeepState(), return_sequences=True, return_state=True, unroll=unroll)

    def step(x, states):
        big = 0.5 * states[0] + x.reshape(-1, 1, 1, 4)
        small = big.sum((1, 2)) - states[1]
        return np.tanh(small), [big, small]

    x = data(3, 5, 4)
    sequence, _, states = loop(step, x, [np.zeros((3, 2, 3, 4)), ZERO], MASK)
    close(layer(x, mask=MASK), [sequence, *states])


@serializable
class OwnStart(TanhCell):
    """Starts from its own initial state, which is not zero."""

    def get_initial_state(self, batch_size=None):
        row = ops.convert_to_tensor(np.linspace(-1, 1, self.units).astype("float32"))
        return [ops.tile(row[None], (batch_size, 1))]


@pytest.mark.parametrize("wrapped", [False, True])
def test_l4_reset_state_restores_the_cells_own_start(wrapped):
    """All backends: reset_state writes zeros."""
    layer = RNN(OwnStart(4), stateful=True)
    if wrapped:
        layer = Bidirectional(layer)
    built(layer, 3, 5, 3)
    x = data(3, 5, 3)
    first, second = npy(layer(x)), npy(layer(x))
    assert differ(first, second)
    layer.reset_state()
    close(layer(x), first)
    inner = layer.forward_layer if wrapped else layer
    inner.reset_state()
    start = np.tile(np.linspace(-1, 1, 4), (3, 1))
    close(inner.states, [start])
    _, last, _ = loop(tanh_step(inner.cell), x, [start])
    close(first[:, :4], last)


@serializable
class StepCounter(layers.Layer):
    """Counts steps in an int32 state, and adds small numbers in a state declared as float32."""

    output_size = 1

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size = [1, TensorSpec((1,), dtype="float32")]

    def get_initial_state(self, batch_size=None):
        return [
            ops.full((batch_size, 1), 2046, dtype="int32"),
            ops.full((batch_size, 1), 2046, dtype="float32"),
        ]

    def call(self, inputs, states):
        count, total = states
        return inputs, [count + 1, total + 1.25]


@pytest.mark.parametrize("how", ["eager", "unroll", "compiled"])
@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "mixed_bfloat16"])
def test_l5_counters_and_sums_keep_their_precision(policy, how):
    """All backends: cast to the compute dtype; a float16 counter stops at 2048."""
    layer = RNN(StepCounter(dtype=policy), return_state=True, dtype=policy, unroll=how == "unroll")
    x = ops.cast(data(3, 5, 1), layer.compute_dtype)
    layer.build((3, 5, 1))
    y, count, total = compiled(layer)(x) if how == "compiled" else layer(x)
    dtypes = [keras.backend.standardize_dtype(t.dtype) for t in (y, count, total)]
    assert dtypes == [layer.compute_dtype, "int32", "float32"]
    assert (npy(count) == 2051).all()
    close(total, np.full((3, 1), 2052.25), 1e-7)


@serializable
class IntegerCounter(layers.Layer):
    """Counts steps in an int32 state, and says so only by its initial state."""

    state_size = 1
    output_size = 1

    def get_initial_state(self, batch_size=None):
        return [ops.full((batch_size, 1), 2046, dtype="int32")]

    def call(self, inputs, states):
        return inputs, [states[0] + 1]


@pytest.mark.parametrize("stateful", [False, True])
def test_l5_a_counter_passes_2048_in_half_precision(stateful):
    """All backends: a float16 counter stops at 2048."""
    layer = RNN(
        IntegerCounter(dtype="float16"), return_state=True, dtype="float16", stateful=stateful
    )
    _, count = layer(ops.cast(data(3, 5, 1), "float16"))
    assert keras.backend.standardize_dtype(count.dtype) == "int32"
    assert (npy(count) == 2051).all()
    _, count = layer(ops.cast(data(3, 5, 1), "float16"))
    assert (npy(count) == (2056 if stateful else 2051)).all()


EMPTY = {
    "tanh": lambda **k: RNN(WideCell(4), **k),
    "lstm": lambda **k: lstm(4, **k),
    "stack": lambda **k: RNN([lstm_cell(4), gru_cell(3)], **k),
    "bidirectional": lambda **k: Bidirectional(RNN(TanhCell(4), **k)),
}


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("name", EMPTY)
def test_l6_no_steps_at_all(name, sequences):
    """All backends: obscure crashes."""
    layer = EMPTY[name](return_sequences=sequences, return_state=True)
    built(layer, 3, 5, 3)
    widths = {"tanh": 8, "lstm": 4, "stack": 3, "bidirectional": 8}[name]
    outputs = layer(np.zeros((3, 0, 3), "float32"))
    assert tuple(outputs[0].shape) == ((3, 0, widths) if sequences else (3, widths))
    for y in keras.tree.flatten(npy(outputs)):
        assert not y.any()
    # The layer still works.
    assert npy(layer(data(3, 5, 3))[0]).any()


@pytest.mark.parametrize("unroll", [False, True])
def test_l6_no_steps_leave_the_states_alone(unroll):
    """All backends: obscure crashes."""
    layer = built(RNN(WideCell(4), return_state=True, unroll=unroll), 3, 5, 3)
    h, x = data(3, 4, seed=1), np.zeros((3, 0, 3), "float32")
    close(layer(x, initial_state=[h]), [np.zeros((3, 8)), h])
    close(layer(x, initial_state=[h], mask=np.zeros((3, 0), bool)), [np.zeros((3, 8)), h])
    stateful = built(RNN(TanhCell(4), stateful=True), 3, 5, 3)
    stateful(data(3, 5, 3))
    before = npy(stateful.states)
    stateful(x)
    close(stateful.states, before)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("name", EMPTY)
def test_l7_an_empty_batch(name, sequences, masked):
    """TF: crash."""
    layer = EMPTY[name](return_sequences=sequences, return_state=True)
    built(layer, 3, 5, 3)
    width = {"tanh": 8, "lstm": 4, "stack": 3, "bidirectional": 8}[name]
    mask = np.zeros((0, 5), bool) if masked else None
    outputs = layer(np.zeros((0, 5, 3), "float32"), mask=mask)
    assert tuple(outputs[0].shape) == ((0, 5, width) if sequences else (0, width))
    assert all(tuple(s.shape)[0] == 0 for s in keras.tree.flatten(outputs))


def test_one_model_serves_all_lengths_and_batches():
    """Keras is right here, but for empty ones."""
    layer = lstm(4)
    model = model_of(layers.Masking(9.0), layer, layers.Dense(1), input_shape=(None, 3))
    randomise(model)
    for batch, time in ((2, 5), (2, 7), (3, 6), (2, 1)):
        x = data(batch, time, 3)
        model.train_on_batch(x, np.zeros((batch, 1)))
        _, last, _ = loop(lstm_step(layer.cell), x, [np.zeros((batch, 4))] * 2)
        dense = model.layers[-1]
        expected = last @ npy(dense.kernel) + npy(dense.bias)
        close(model.predict(x, verbose=0), expected)
