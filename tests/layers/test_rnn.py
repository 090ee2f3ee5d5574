"""The recurrent layer: its semantics against a loop in NumPy, its options, its errors."""

import copy
import itertools
import pickle
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from keras import ops, tree
from three_parts import raised

import cellkit

Pair = namedtuple("Pair", ["fast", "slow"])
MASK = np.array([[1, 1, 0, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]], bool)


def npy(x):
    return tree.map_structure(lambda t: np.array(ops.convert_to_numpy(t)), x)


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@keras.saving.register_keras_serializable(package="cellkit_tests")
class TwoSpeedCell(cellkit.Cell):
    """A cell that breaks the usual assumptions.

    Inputs, outputs and states are nested; the output is not a state; widths and ranks differ; there
    is a counter, and the slow state does not start at zero.
    """

    @property
    def state_size(self):
        return {
            "speed": Pair(fast=self.units, slow=cellkit.TensorSpec((2, 3), initializer=0.5)),
            "steps": cellkit.TensorSpec((), dtype="int32"),
        }

    @property
    def output_size(self):
        return {"sum": (2, 3), "steps": cellkit.TensorSpec((), dtype="int32"), "wide": 7}

    def build(self, input_shape):
        super().build(input_shape)
        self.kernel = self.add_kernel((input_shape["a"][-1], self.units))
        self.recurrent_kernel = self.add_recurrent_kernel((self.units, self.units))
        self.wide = self.add_kernel((self.units, 7), name="wide")
        self.bias = self.add_bias((self.units,), initializer="glorot_uniform")

    def step(self, inputs, states):
        fast, slow = states["speed"]
        fast = ops.tanh(
            cellkit.cells.matmul(inputs["a"], self.kernel)
            + cellkit.cells.matmul(fast, self.recurrent_kernel)
            + self.bias
        )
        slow = 0.9 * slow + 0.1 * inputs["b"] * fast[:, :1, None]
        steps = states["steps"] + 1
        output = {"sum": slow + 1, "steps": steps, "wide": cellkit.cells.matmul(fast, self.wide)}
        return output, {"speed": Pair(fast, slow), "steps": steps}


def numpy_step(cell, x, s):
    (fast, slow), steps = s["speed"], s["steps"]
    w = [np.array(ops.convert_to_numpy(v)) for v in cell.trainable_variables]
    fast = np.tanh(x["a"] @ w[0] + fast @ w[1] + w[3])
    slow = 0.9 * slow + 0.1 * x["b"] * fast[:, :1, None]
    output = {"sum": slow + 1, "steps": steps + 1, "wide": fast @ w[2]}
    return output, {"speed": Pair(fast, slow), "steps": steps + 1}


def numpy_loop(cell, x, s, mask=None, backwards=False, zero=False):
    """The loop of the documentation, row by row."""
    length, batch = x["a"].shape[1], x["a"].shape[0]
    mask = np.ones((batch, length), bool) if mask is None else mask

    def where(keep, a, b):
        return tree.map_structure(
            lambda p, q: np.where(keep.reshape(-1, *[1] * (np.ndim(p) - 1)), p, q), a, b
        )

    first, _ = numpy_step(cell, tree.map_structure(lambda v: v[:, 0], x), s)
    zeros = tree.map_structure(np.zeros_like, first)
    y, emitted = zeros, []
    for t in reversed(range(length)) if backwards else range(length):
        out, new = numpy_step(cell, tree.map_structure(lambda v, t=t: v[:, t], x), s)
        s, y = where(mask[:, t], new, s), where(mask[:, t], out, y)
        emitted.append(where(mask[:, t], out, zeros) if zero else y)
    return y, tree.map_structure(lambda *v: np.stack(v, 1), *emitted), s


def nested_inputs(batch=4, time=5, seed=0):
    return {"a": data(batch, time, 3, seed=seed), "b": data(batch, time, 2, 3, seed=seed + 1)}


def two_speed(**options):
    layer = cellkit.RNN(TwoSpeedCell(4), **options)
    layer.build({"a": (None, None, 3), "b": (None, None, 2, 3)})
    rng = np.random.default_rng(5)
    layer.set_weights([rng.normal(size=w.shape, scale=0.5) for w in layer.get_weights()])
    return layer


def close(actual, expected):
    actual, expected = tree.flatten(npy(actual)), tree.flatten(expected)
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


def start(batch=4):
    return {
        "speed": Pair(np.zeros((batch, 4), "float32"), np.full((batch, 2, 3), 0.5, "float32")),
        "steps": np.zeros(batch, "int32"),
    }


@pytest.mark.parametrize("unroll", [False, True, 2])
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("zero", [False, True], ids=["hold", "zero"])
def test_every_leaf_follows_the_loop(unroll, mask, backwards, zero):
    x = nested_inputs()
    options = {"go_backwards": backwards, "zero_output_for_mask": zero, "unroll": unroll}
    last, every, final = numpy_loop(two_speed().cell, x, start(), mask, backwards, zero)
    output, states = two_speed(return_sequences=True, return_state=True, **options)(x, mask=mask)
    close(output, every)
    close(states, final)
    output, states = two_speed(return_state=True, **options)(x, mask=mask)
    close(output, last)  # zero_output_for_mask concerns returned sequences only
    close(states, final)


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_a_compiled_call_gives_the_numbers_of_an_eager_one(mask):
    layer = two_speed(return_sequences=True, return_state=True)
    i = {"a": keras.Input((None, 3)), "b": keras.Input((None, 2, 3))}
    m = keras.Input((None,), dtype="bool")
    model = keras.Model([i, m], layer(i, mask=m))
    x = nested_inputs()
    given = np.ones((4, 5), bool) if mask is None else mask
    close(model.predict([x, given], verbose=0), [npy(v) for v in tree.flatten(layer(x, mask=mask))])


@pytest.mark.parametrize(
    ("sequences", "state", "one_mask"), list(itertools.product([False, True], repeat=3))
)
def test_symbolic_shapes_and_dtypes_are_those_of_a_call(sequences, state, one_mask):
    layer = two_speed(return_sequences=sequences, return_state=state)
    symbolic = layer({"a": keras.Input((None, 3)), "b": keras.Input((None, 2, 3))})
    eager = layer(nested_inputs(), mask=MASK if one_mask else None)
    tree.assert_same_structure(symbolic, eager)
    for s, e in zip(tree.flatten(symbolic), tree.flatten(eager), strict=True):
        assert s.dtype == keras.backend.standardize_dtype(e.dtype)
        assert len(s.shape) == len(e.shape)
        assert all(a is None or a == b for a, b in zip(s.shape, e.shape, strict=True))


def test_initial_states_are_used_and_taken_in_any_matching_form():
    x, layer = nested_inputs(), two_speed(return_state=True)
    given = {"speed": Pair(data(4, 4), data(4, 2, 3)), "steps": np.array([5, 6, 7, 8], "int32")}
    last, _, final = numpy_loop(layer.cell, x, given)
    for form in (
        given,
        {"speed": list(given["speed"]), "steps": given["steps"]},
        {"speed": given["speed"]._asdict(), "steps": [5, 6, 7, 8]},
        tree.map_structure(ops.convert_to_tensor, given),
    ):
        output, states = layer(x, initial_state=form)
        close(output, last)
        close(states, final)


def test_flat_and_nested_states_of_a_stack_are_both_taken():
    layer = cellkit.RNN(
        [keras.layers.LSTMCell(3), keras.layers.GRUCell(2)], return_state=True, name="stack"
    )
    x, (h, c, g) = data(2, 4, 5), (data(2, 3), data(2, 3, seed=1), data(2, 2, seed=2))
    nested, flat = layer(x, initial_state=[[h, c], g]), layer(x, initial_state=[h, c, g])
    close(nested, tree.flatten(npy(flat)))
    assert [type(s).__name__ for s in nested[1:]][0] == "list"


def test_lengths_are_a_right_padded_mask():
    layer, x = cellkit.RNN(keras.layers.LSTMCell(3), return_sequences=True), data(3, 4, 2)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    for lengths in ([2, 4, 0], np.array([2, 4, 0]), ops.convert_to_tensor([2, 4, 0])):
        close(layer(x, lengths=lengths), [npy(layer(x, mask=mask))])
    both = mask & np.array([[1, 0, 1, 1]] * 3, bool)
    close(layer(x, lengths=[2, 4, 0], mask=[[1, 0, 1, 1]] * 3), [npy(layer(x, mask=both))])


def test_a_model_takes_lengths_as_an_input():
    i, n = keras.Input((None, 2)), keras.Input((), dtype="int32")
    layer = cellkit.RNN(keras.layers.GRUCell(3))
    model = keras.Model([i, n], layer(i, lengths=n))
    x, lengths = data(3, 4, 2), np.array([1, 4, 2])
    close(model.predict([x, lengths], verbose=0), [npy(layer(x, lengths=lengths))])


def test_masks_come_in_many_forms():
    layer, x = cellkit.RNN(keras.layers.GRUCell(3)), data(4, 5, 2)
    want = [npy(layer(x, mask=MASK))]
    for form in (
        MASK.tolist(),
        MASK.astype("int32"),
        MASK.astype("uint8"),
        MASK.astype("float32"),
        MASK[..., None],
        ops.convert_to_tensor(MASK),
        [MASK],
    ):
        close(layer(x, mask=form), want)


def test_one_mask_per_input_must_all_hold():
    layer, x = two_speed(), nested_inputs()
    other = np.ones_like(MASK)
    other[:, 0] = False
    want = [npy(v) for v in tree.flatten(layer(x, mask=MASK & other))]
    close(layer(x, mask={"a": MASK, "b": other}), want)
    close(layer(x, mask={"a": MASK & other, "b": None}), want)


class ScaledCell(keras.layers.Layer):
    """Takes constants, as Keras documents them."""

    state_size = 3

    def call(self, inputs, states, constants=None):
        h = states[0] + inputs * (1.0 if constants is None else constants[0])
        return h, [h]


def test_constants_reach_the_cell_at_every_step():
    layer, x, scale = cellkit.RNN(ScaledCell()), data(2, 4, 3), data(2, 3, seed=3)
    close(layer(x, constants=[scale]), [x.sum(1) * scale])
    i, c = keras.Input((None, 3)), keras.Input((3,))
    model = keras.Model([i, c], layer(i, constants=[c]))
    close(model.predict([x, scale], verbose=0), [x.sum(1) * scale])


def test_steps_of_a_stream_give_the_whole_sequence():
    layer, x = two_speed(), nested_inputs()
    want, states = [npy(v) for v in tree.flatten(layer(x))], None
    for t in range(5):
        output, states = layer.step(tree.map_structure(lambda v, t=t: v[:, t], x), states)
    close(output, want)


def test_steps_of_a_stateful_layer_carry_its_states():
    layer = cellkit.RNN(keras.layers.LSTMCell(3), stateful=True)
    x = data(2, 4, 2)
    want = npy(layer(x))
    layer.reset_state()
    for t in range(4):
        output, _ = layer.step(x[:, t])
    close(output, [want])


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_no_time_steps_change_nothing(unroll, masked):
    layer = two_speed(return_sequences=True, return_state=True, unroll=unroll)
    mask = np.ones((4, 0), bool) if masked else None
    x = {"a": np.zeros((4, 0, 3), "float32"), "b": np.zeros((4, 0, 2, 3), "float32")}
    output, states = layer(x, mask=mask)
    assert tuple(output["sum"].shape) == (4, 0, 2, 3)
    close(states, tree.flatten(start()))
    close(two_speed()(x), [np.zeros((4,)), np.zeros((4, 2, 3)), np.zeros((4, 7))])


@pytest.mark.parametrize("masked", [False, True])
def test_no_rows_and_one_step_work(masked):
    layer = two_speed(return_sequences=True)
    mask = np.ones((0, 5), bool) if masked else None
    assert tuple(layer(nested_inputs(batch=0), mask=mask)["wide"].shape) == (0, 5, 7)
    assert tuple(layer(nested_inputs(time=1))["wide"].shape) == (4, 1, 7)


def test_one_model_serves_every_length_and_batch():
    i = {"a": keras.Input((None, 3), name="a"), "b": keras.Input((None, 2, 3), name="b")}
    layer = two_speed(return_sequences=True)
    model = keras.Model(i, layer(i))
    for batch, time in ((2, 3), (3, 7), (1, 1)):
        x = nested_inputs(batch, time)
        close(model.predict(x, verbose=0), [npy(v) for v in tree.flatten(layer(x))])


def test_inputs_of_any_memory_layout_give_the_same_numbers():
    layer, x = cellkit.RNN(keras.layers.GRUCell(3)), data(2, 4, 5)
    want = [npy(layer(x))]
    frozen = x.copy()
    frozen.flags.writeable = False
    for form in (np.asfortranarray(x), frozen, np.repeat(x, 2, axis=1)[:, ::2], x.tolist()):
        close(layer(form), want)


def test_copies_are_equal_and_independent():
    layer, x = two_speed(), nested_inputs()
    want = [npy(v) for v in tree.flatten(layer(x))]
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        close(twin(x), want)
        twin.set_weights([np.zeros_like(w) for w in twin.get_weights()])
        close(layer(x), want)


def test_a_changed_setting_is_seen_by_the_next_call():
    layer, x = cellkit.RNN(keras.layers.SimpleRNNCell(3), return_sequences=True), data(2, 4, 2)
    forwards = npy(layer(x))
    layer.go_backwards = True
    assert np.abs(npy(layer(x)) - forwards).max() > 1e-3
    layer.go_backwards = False
    layer.cell.activation = keras.activations.linear
    assert np.abs(npy(layer(x)) - forwards).max() > 1e-3
    layer.cell.activation = keras.activations.tanh
    layer.set_weights([w * 2 for w in layer.get_weights()])
    assert np.abs(npy(layer(x)) - forwards).max() > 1e-3


def test_threads_give_the_numbers_of_one():
    layer = two_speed()
    inputs = [nested_inputs(seed=s) for s in range(8)]
    want = [[npy(v) for v in tree.flatten(layer(x))] for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for got, expected in zip(pool.map(layer, inputs), want, strict=True):
            close(got, expected)


class BrokenAtThirdCall(keras.layers.Layer):
    """Raises once, in the middle of a sequence."""

    state_size = 2

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.countdown = None

    def call(self, inputs, states):
        if self.countdown is not None:
            raise RuntimeError("the cell broke")
        return states[0] + inputs, [states[0] + inputs]


def test_a_failed_call_leaves_stored_states_as_they_were():
    layer, x = cellkit.RNN(BrokenAtThirdCall(), stateful=True), data(2, 3, 2)
    layer(x)
    before = npy(layer.states)
    layer.cell.countdown = 1
    with pytest.raises(RuntimeError, match="the cell broke"):
        layer(x)
    layer.cell.countdown = None
    close(layer.states, before)
    close(layer(x), [before[0] + x.sum(1)])


def test_reset_state_sets_states():
    layer = cellkit.RNN(TwoSpeedCell(4), stateful=True)
    layer.build({"a": (4, None, 3), "b": (4, None, 2, 3)})
    x = nested_inputs()
    layer(x)
    layer.reset_state()
    close(layer.states, tree.flatten(start()))
    given = {"speed": Pair(data(4, 4), data(4, 2, 3)), "steps": np.array([1, 2, 3, 4])}
    layer.reset_state(states=given)
    last, _, final = numpy_loop(layer.cell, x, given)
    close(layer(x), tree.flatten(last))
    close(layer.states, tree.flatten(final))


# Errors have the same words on every backend: the texts are spelled out here.


def gru(**options):
    layer = cellkit.RNN(keras.layers.GRUCell(3), **options)
    layer(data(2, 4, 5))
    return layer


ERRORS = {
    "features": (
        lambda: gru()(data(2, 4, 6)),
        "The inputs do not fit the ones that RNN was built for.",
        "inputs of shape (2, 4, 6)",
        "inputs of shape (batch, time, 5)",
    ),
    "rank": (
        lambda: gru()(data(2, 4, 5, 1)),
        "The inputs do not fit the ones that RNN was built for.",
        "inputs of shape (2, 4, 5, 1)",
        "inputs of shape (batch, time, 5)",
    ),
    "no time axis": (
        lambda: cellkit.RNN(keras.layers.GRUCell(3))(data(2)),
        "The inputs of RNN lack a batch or a time axis.",
        "inputs of shape (2,)",
        "(batch, time, ...) for every input",
    ),
    "structure": (
        lambda: two_speed()([data(2, 4, 3), data(2, 4, 2, 3)]),
        "The inputs do not fit the ones that RNN was built for.",
        "inputs of shape [(2, 4, 3), (2, 4, 2, 3)]",
        "inputs of shape {'a': (batch, time, 3), 'b': (batch, time, 2, 3)}",
    ),
    "two batch sizes": (
        lambda: two_speed()({"a": data(2, 4, 3), "b": data(3, 4, 2, 3)}),
        "The inputs of RNN differ in their batch size.",
        "inputs of shape {'a': (2, 4, 3), 'b': (3, 4, 2, 3)}",
        "the same batch size for every input",
    ),
    "two lengths": (
        lambda: two_speed()({"a": data(2, 4, 3), "b": data(2, 5, 2, 3)}),
        "The inputs of RNN differ in their number of time steps.",
        "inputs of shape {'a': (2, 4, 3), 'b': (2, 5, 2, 3)}",
        "the same number of time steps for every input",
    ),
    "nothing": (
        lambda: cellkit.RNN(keras.layers.GRUCell(3))(None),
        "The inputs of RNN are not tensors.",
        "None",
        "tensors or arrays of shape (batch, time, ...), in any nested structure",
    ),
    "text": (
        lambda: cellkit.RNN(keras.layers.GRUCell(3))([["a", "b"]]),
        "An input is not made of numbers.",
        "a str that becomes an array of dtype <U1",
        "a tensor, an array, or nested lists of numbers of one length",
    ),
    "short mask": (
        lambda: gru()(data(2, 4, 5), mask=np.ones((2, 3))),
        "The mask does not fit the inputs.",
        "a mask of shape (2, 3)",
        "(2, 4) or (2, 4, 1): one value per row and time step",
    ),
    "long mask": (
        lambda: gru()(data(2, 4, 5), mask=np.ones((2, 9))),
        "The mask does not fit the inputs.",
        "a mask of shape (2, 9)",
        "(2, 4) or (2, 4, 1): one value per row and time step",
    ),
    "mask of one row": (
        lambda: gru()(data(2, 4, 5), mask=np.ones((1, 4))),
        "The mask does not fit the inputs.",
        "a mask of shape (1, 4)",
        "(2, 4) or (2, 4, 1): one value per row and time step",
    ),
    "mask per feature": (
        lambda: gru()(data(2, 4, 5), mask=np.ones((2, 4, 5))),
        "The mask does not fit the inputs.",
        "a mask of shape (2, 4, 5)",
        "(2, 4) or (2, 4, 1): one value per row and time step",
    ),
    "mask count": (
        lambda: gru()(data(2, 4, 5), mask=[np.ones((2, 4))] * 3),
        "The number of masks does not fit the inputs.",
        "3 masks for 1 inputs",
        "one mask for all inputs, or one per input (None where there is none)",
    ),
    "state shape": (
        lambda: gru()(data(2, 4, 5), initial_state=data(2, 4)),
        "An initial state does not have the shape of the cell's state.",
        "initial states of shape [(2, 4)]",
        "[(2, 3)]",
    ),
    "state of one row": (
        lambda: gru()(data(2, 4, 5), initial_state=data(1, 3)),
        "An initial state does not have the shape of the cell's state.",
        "initial states of shape [(1, 3)]",
        "[(2, 3)]",
    ),
    "state count": (
        lambda: gru()(data(2, 4, 5), initial_state=[data(2, 3)] * 2),
        "The initial states do not have the structure of the cell's states.",
        "[(2, 3), (2, 3)]",
        "[(batch, 3)]",
    ),
    "state structure": (
        lambda: gru()(data(2, 4, 5), initial_state={"h": data(2, 3)}),
        "The initial states do not have the structure of the cell's states.",
        "{'h': (2, 3)}",
        "[(batch, 3)]",
    ),
    "lengths too long": (
        lambda: gru()(data(2, 4, 5), lengths=[1, 5]),
        "The lengths do not fit the inputs.",
        "lengths of shape (2,) and dtype int64 between 1 and 5",
        "integers of shape (2,) between 0 and 4: one per row",
    ),
    "fractional lengths": (
        lambda: gru()(data(2, 4, 5), lengths=np.array([1.0, 2.0])),
        "The lengths do not fit the inputs.",
        "lengths of shape (2,) and dtype float64",
        "integers of shape (2,) between 0 and 4: one per row",
    ),
    "constants": (
        lambda: gru()(data(2, 4, 5), constants=[data(2, 3)]),
        "GRUCell takes no constants.",
        "constants=...",
        "a cell whose `call` has a parameter `constants`",
    ),
    "batch of a stateful layer": (
        lambda: gru(stateful=True)(data(3, 4, 5)),
        "A stateful layer was called with another batch size than it was built for.",
        "inputs with a batch size of 3",
        "the batch size of the stored states, 2",
    ),
    "stateful without batch": (
        lambda: cellkit.RNN(keras.layers.GRUCell(3), stateful=True)(keras.Input((4, 5))),
        "A stateful layer must know its batch size.",
        "inputs of shape (None, 4, 5)",
        "a fixed batch size: one stored state per row",
    ),
    "unroll without length": (
        lambda: cellkit.RNN(keras.layers.GRUCell(3), unroll=True)(keras.Input((None, 5))),
        "RNN cannot be unrolled over an unknown number of time steps.",
        "unroll=True and inputs of shape (None, None, 5)",
        "a fixed number of time steps",
    ),
    "unroll": (
        lambda: cellkit.RNN(keras.layers.GRUCell(3), unroll="yes"),
        "`unroll` is neither a flag nor a factor.",
        "unroll='yes'",
        "True, False, or a number of steps of 1 or more",
    ),
    "option": (
        lambda: cellkit.RNN(keras.layers.GRUCell(3), return_sequence=True),
        "RNN has no option `return_sequence`.",
        "return_sequence=True",
        "one of cell, return_sequences, ",
    ),
    "name": (
        lambda: cellkit.RNN("lstm"),
        "The cell 'lstm' lacks an argument.",
        "no arguments",
        "units",
    ),
    "class": (
        lambda: cellkit.RNN(keras.layers.GRUCell),
        "A class of cells was passed instead of a cell.",
        "the class GRUCell",
        "an instance",
    ),
    "no cell": (
        lambda: cellkit.RNN(keras.layers.Dense(3, name="dense")),
        "This object is not a recurrent cell.",
        "<Dense name=dense, built=False>, of type Dense, without `state_size`",
        "an object with a method `call(inputs, states)` and an attribute `state_size`, or the name "
        "of a registered cell",
    ),
    "empty stack": (
        lambda: cellkit.RNN([]),
        "A stack of cells needs at least one cell.",
        "cells=[]",
        "a non-empty list of cells",
    ),
    "states of a stateless layer": (
        lambda: gru().reset_state(states=[data(2, 3)]),
        "Only a stateful layer has states to set.",
        "reset_state(states=...) of a layer with stateful=False",
        "stateful=True",
    ),
}


@pytest.mark.parametrize("name", list(ERRORS))
def test_bad_input_is_told_in_the_same_words_everywhere(name):
    call, what, received, expected = ERRORS[name]
    told = raised(call)
    assert told[:2] == (what, received)
    assert told[2].startswith(expected)
    assert told[3]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda layer: layer(data(2, 4, 6)),
        lambda layer: layer(data(2, 4, 5), mask=np.ones((2, 3))),
        lambda layer: layer(data(2, 4, 5), initial_state=data(2, 9)),
        lambda layer: layer([data(2, 4, 5)] * 2),
        lambda layer: layer(data(3, 4, 5)),
        lambda layer: layer.reset_state(states=[data(2, 3)] * 2),
    ],
)
def test_a_layer_works_after_an_error_and_has_lost_nothing(wrong):
    layer = gru(stateful=True)
    before, x = npy(layer.states), data(2, 4, 5, seed=4)
    twin = gru()
    twin.set_weights(layer.get_weights())
    with pytest.raises(ValueError, match="How to fix"):
        wrong(layer)
    close(layer.states, before)
    close(layer(x), [npy(twin(x, initial_state=before))])


class DroppingCell(keras.layers.Layer):
    """Returns fewer states than it was given, or states of another shape or kind."""

    def __init__(self, how, **kwargs):
        super().__init__(**kwargs)
        self.how = how
        self.state_size = [2, cellkit.TensorSpec((), dtype="int32")]

    def get_initial_state(self, batch_size=None):
        return [ops.zeros((batch_size, 2)), ops.zeros((batch_size,), dtype="int32")]

    def call(self, inputs, states):
        h, n = states
        new = {
            "count": [h],
            "shape": [ops.concatenate([h, h], -1), n],
            "kind": [h, ops.cast(n, "float32") + 0.5],
        }
        return h, new[self.how]


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("count", "DroppingCell returned states unlike those it was given."),
        ("shape", "DroppingCell returned states unlike those it was given."),
        ("kind", "DroppingCell returned a state that its dtype cannot hold."),
    ],
)
def test_a_cell_that_returns_other_states_is_told(how, what):
    with pytest.raises(ValueError, match="How to fix") as caught:
        cellkit.RNN(DroppingCell(how))(data(2, 3, 2))
    assert what in str(caught.value)


class ShapeObject:
    """A shape that is not a tuple, as TensorFlow's are."""

    def as_list(self):
        return [None, 3, 2]


@pytest.mark.parametrize("nest", [lambda s: s, lambda s: {"a": s, "b": s}], ids=["one", "dict"])
def test_shapes_may_be_objects_of_tensorflow(nest):
    layer = cellkit.RNN(DroppingCell("count"))
    layer.build(nest(ShapeObject()))
    assert layer.get_build_config()["sequences_shape"] == nest((None, 3, 2))
