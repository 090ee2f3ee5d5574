"""Table D of docs/keras-defects.md: the structure of states, outputs and cells."""

import itertools

import keras
import numpy as np
import pytest
from defect_classes import RNN, Bidirectional, gru, gru_cell, lstm, lstm_cell
from defect_tools import (
    BACKEND,
    FORMS,
    MASK,
    LearnedCell,
    NestedInputs,
    TanhCell,
    WideCell,
    built,
    cell_step,
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
)
from keras import layers, ops

ZERO = np.zeros((3, 4))
PARTS = "(?s)Received.*Expected.*How to fix"


def symbolic(layer, *shape, **inputs):
    """The shapes of the outputs for a symbolic input of unknown batch and time."""
    return shapes(layer(keras.Input(shape), **inputs))


@serializable
class TupleStates(layers.Layer):
    """Returns its new states as a tuple, and an output that is neither."""

    state_size = [4, 4]
    output_size = 4

    def call(self, inputs, states):
        h, c = states
        c = 0.5 * c + inputs
        h = 0.3 * h + ops.tanh(c)
        return h + 1, (h, c)


def tuple_step(x, states):
    h, c = states
    c = 0.5 * c + x
    h = 0.3 * h + np.tanh(c)
    return h + 1, [h, c]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("unroll", [False, True])
def test_d1_new_states_as_a_tuple(unroll, masked):
    """JAX: crash in the scan."""
    layer = RNN(TupleStates(), return_sequences=True, return_state=True, unroll=unroll)
    x, mask = data(3, 5, 4), MASK if masked else None
    sequence, _, states = loop(tuple_step, x, [ZERO, ZERO], mask)
    close(layer(x, mask=mask), [sequence, *states])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("unroll", [False, True])
def test_d2_stack_of_one_cell_with_several_states(unroll, masked):
    """JAX: crash; TF, Torch: crash when unrolled."""
    layer = built(RNN([lstm_cell(4)], return_state=True, unroll=unroll), 3, 5, 3)
    x, mask = data(3, 5, 3), MASK if masked else None
    _, last, states = loop(lstm_step(layer.cell.cells[0]), x, [ZERO, ZERO], mask)
    outputs = layer(x, mask=mask)
    close(outputs, [last, *states])
    assert shapes(outputs) == [(3, 4), [(3, 4), (3, 4)]]


STACKS = {
    "lstm lstm": (lambda: [lstm_cell(4), lstm_cell(6)], [[4, 4], [6, 6]]),
    "gru gru": (lambda: [gru_cell(4), gru_cell(6)], [4, 6]),
    "one gru": (lambda: [gru_cell(4)], [4]),
    "one lstm": (lambda: [lstm_cell(4)], [[4, 4]]),
    "custom custom": (lambda: [TanhCell(4), TanhCell(6)], [4, 6]),
    "lstm custom": (lambda: [lstm_cell(4), TanhCell(6)], [[4, 4], 6]),
}


@pytest.mark.parametrize(
    ("name", "unroll"), [*((n, False) for n in STACKS), ("one lstm", True), ("lstm custom", True)]
)
def test_d3_returned_states_of_a_stack(name, unroll):
    """All backends: symbolic and real structures differ, and some crash when fed back."""
    make, sizes = STACKS[name]
    layer = RNN(make(), return_state=True, unroll=unroll)
    last = sizes[-1][0] if isinstance(sizes[-1], list) else sizes[-1]

    def expected(batch):
        states = [[(batch, n) for n in s] if isinstance(s, list) else (batch, s) for s in sizes]
        return [(batch, last), *states]

    assert symbolic(layer, 5, 3) == expected(None)
    randomise(layer)
    x = data(2, 10, 3)
    first = layer(x[:, :5])
    assert shapes(first) == expected(2)
    second = layer(x[:, 5:], initial_state=list(first[1:]))
    assert shapes(second) == expected(2)
    # Two halves with the states handed on are the whole.
    whole = RNN(layer.cell, return_state=True)
    close(second, npy(keras.tree.flatten(whole(x))))


@serializable
class ImageState(layers.Layer):
    """Has one state of shape (3, 4), declared by a tuple inside a list."""

    state_size = [(3, 4)]
    output_size = 12

    def get_initial_state(self, batch_size=None):
        return [ops.ones((batch_size, 3, 4))]

    def call(self, inputs, states):
        s = 0.5 * states[0] + ops.reshape(inputs, (-1, 3, 1))
        return ops.reshape(s, (-1, 12)) + 1, [s]


def image_step(x, states):
    s = 0.5 * states[0] + x.reshape(-1, 3, 1)
    return s.reshape(-1, 12) + 1, [s]


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_d4_image_state(masked, unroll):
    """All backends: symbolic [(2, 3), (2, 4)], real (2, 3, 4)."""
    layer = RNN(ImageState(), return_state=True, unroll=unroll)
    assert symbolic(layer, 5, 3) == [(None, 12), (None, 3, 4)]
    x, mask = data(3, 5, 3), MASK if masked else None
    _, last, states = loop(image_step, x, [np.ones((3, 3, 4))], mask)
    close(layer(x, mask=mask), [last, *states])


@serializable
class MatrixOutput(layers.Layer):
    """Its output is a matrix."""

    state_size = [4]
    output_size = (2, 2)

    def call(self, inputs, states):
        s = 0.5 * states[0] + inputs
        return ops.reshape(s, (-1, 2, 2)) + 1, [s]


@serializable
class DictOutput(layers.Layer):
    """Its output is a dict."""

    state_size = [4]
    output_size = {"a": 4, "b": 8}

    def call(self, inputs, states):
        s = 0.5 * states[0] + inputs
        return {"a": s, "b": ops.concatenate([s + 1, s + 2], axis=-1)}, [s]


def matrix_step(x, states):
    s = 0.5 * states[0] + x
    return s.reshape(-1, 2, 2) + 1, [s]


def dict_step(x, states):
    s = 0.5 * states[0] + x
    return {"a": s, "b": np.concatenate([s + 1, s + 2], -1)}, [s]


OUTPUTS = {
    "tuple": (MatrixOutput, matrix_step, (2, 2)),
    "dict": (DictOutput, dict_step, {"a": (4,), "b": (8,)}),
}


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("name", OUTPUTS)
def test_d5_output_of_any_shape_and_structure(name, sequences):
    """All backends: a tuple crashes symbolically, a dict always."""
    cell, step, sizes = OUTPUTS[name]
    layer = RNN(cell(), return_sequences=sequences)
    lead = (None, 5) if sequences else (None,)
    if name == "tuple":
        assert symbolic(layer, 5, 4) == lead + sizes
    else:
        assert symbolic(layer, 5, 4) == {k: lead + s for k, s in sizes.items()}
    x = data(3, 5, 4)
    sequence, last, _ = loop(step, x, [ZERO], MASK)
    close(layer(x, mask=MASK), keras.tree.flatten(sequence if sequences else last))


@pytest.mark.parametrize("name", OUTPUTS)
def test_d5_output_of_any_structure_in_a_bidirectional(name):
    """All backends: crash for a dict."""
    cell, step, _ = OUTPUTS[name]
    layer = Bidirectional(RNN(cell(), return_sequences=True))
    x = data(3, 5, 4)
    forward, _, _ = loop(step, x, [ZERO])
    backward, _, _ = loop(step, x, [ZERO], go_backwards=True)
    expected = keras.tree.map_structure(
        lambda f, b: np.concatenate([f, b[:, ::-1]], -1), forward, backward
    )
    close(layer(x), keras.tree.flatten(expected))


@serializable
class NoOutputSize(layers.Layer):
    """Its output is wider than its state, and it does not say so."""

    state_size = 4

    def call(self, inputs, states):
        s = 0.5 * states[0] + inputs
        return ops.concatenate([s, s + 1], axis=-1), [s]


def test_d6_output_size_is_found():
    """All backends: symbolic (2, 4), real (2, 8); a Dense after it crashes."""
    layer = RNN(NoOutputSize())
    model = model_of(layer, layers.Dense(3), input_shape=(5, 4))
    assert layer.compute_output_shape((None, 5, 4)) == (None, 8)
    assert tuple(model.layers[1].kernel.shape) == (8, 3)
    randomise(model)
    x = data(3, 5, 4)

    def step(x, states):
        s = 0.5 * states[0] + x
        return np.concatenate([s, s + 1], -1), [s]

    _, last, _ = loop(step, x, [ZERO])
    kernel, bias = npy(model.layers[1].kernel), npy(model.layers[1].bias)
    close(model.predict(x, verbose=0), last @ kernel + bias)


class Plain:
    """No layer at all, as the docstring of `keras.layers.RNN` allows."""

    state_size = 4
    output_size = 4

    def call(self, inputs, states):
        h = 0.5 * states[0] + inputs
        return h + 1, [h]

    __call__ = call

    def get_initial_state(self, batch_size=None):
        return [ops.ones((batch_size, 4))]


def plain_step(x, states):
    h = 0.5 * states[0] + x
    return h + 1, [h]


@pytest.mark.parametrize("unroll", [False, True])
def test_d7_a_plain_object_is_a_cell(unroll):
    """All backends: crash, the object has no `compute_dtype`."""
    layer = RNN(Plain(), return_sequences=True, unroll=unroll)
    x = data(3, 5, 4)
    sequence, _, _ = loop(plain_step, x, [np.ones((3, 4))], MASK)
    close(layer(x, mask=MASK), sequence)
    model = model_of(RNN(Plain()), layers.Dense(1), input_shape=(5, 4))
    assert np.isfinite(model.fit(x, np.zeros((3, 1)), verbose=0).history["loss"]).all()


def test_d7_a_plain_object_without_initial_state_or_call_method():
    """All backends: crash."""

    class Least:
        state_size = (4,)

        def call(self, inputs, states):
            return inputs + 0.5 * states[0], [inputs - states[0]]

    def step(x, states):
        return x + 0.5 * states[0], [x - states[0]]

    x = data(3, 5, 4)
    _, last, _ = loop(step, x, [ZERO], MASK)
    close(RNN(Least())(x, mask=MASK), last)


@serializable
class WithConstants(TanhCell):
    """Adds a constant at every step."""

    def call(self, inputs, states, constants):
        h, [h] = super().call(inputs, states)
        h = h + constants[0] * constants[1]
        return h, [h]


def constants_step(cell, a, b):
    inner = tanh_step(cell)

    def step(x, states):
        h, _ = inner(x, states)
        return h + a * b, [h + a * b]

    return step


@pytest.mark.parametrize("unroll", [False, True])
def test_d8_constants(unroll):
    """All backends: TypeError, although the docstring describes them."""
    layer = built(RNN(WithConstants(4), unroll=unroll, return_sequences=True), 3, 5, 3)
    x, a, b = data(3, 5, 3), data(3, 4, seed=1), data(3, 1, seed=2)
    sequence, _, _ = loop(constants_step(layer.cell, a, b), x, [ZERO], MASK)
    close(layer(x, mask=MASK, constants=[a, b]), sequence)


def test_d8_symbolic_constants():
    """All backends: TypeError."""
    layer = RNN(WithConstants(4))
    inputs = [keras.Input((5, 3)), keras.Input((4,)), keras.Input((1,))]
    model = keras.Model(inputs, layer(inputs[0], constants=inputs[1:]))
    randomise(model)
    x, a, b = data(3, 5, 3), data(3, 4, seed=1), data(3, 1, seed=2)
    _, last, _ = loop(constants_step(layer.cell, a, b), x, [ZERO])
    close(model.predict([x, a, b], verbose=0), last)


STATE_FORMS = {
    "list": lambda h: [h],
    "tuple": lambda h: (h,),
    "array": lambda h: h,
    "tensor": ops.convert_to_tensor,
    "variable": lambda h: [keras.Variable(h)],
    "float64": lambda h: [h.astype("float64")],
}


@pytest.fixture(scope="module")
def started():
    """One layer of each kind for all forms of initial states."""
    return {
        "gru": built(gru(4), 3, 5, 3),
        "lstm": built(lstm(4), 3, 5, 3),
        "custom": built(RNN(TanhCell(4)), 3, 5, 3),
    }


@pytest.mark.parametrize("name", ["gru", "custom"])
@pytest.mark.parametrize("form", STATE_FORMS)
def test_d9_forms_of_initial_state(started, form, name):
    """Keras is right here."""
    layer, x, h = started[name], data(3, 5, 3), data(3, 4, seed=1)
    _, last, _ = loop(cell_step(layer.cell), x, [h])
    close(layer(x, initial_state=STATE_FORMS[form](h)), last)
    close(layer(x, STATE_FORMS[form](h)), last)


H = data(3, 4, seed=1)
WRONG_STATES = {
    "a dict for a list": ("gru", {"h": H}),
    "one row for three": ("gru", [H[:1]]),
    "one row, custom": ("custom", [H[:1]]),
    "another batch": ("custom", [H[:2]]),
    "another width": ("custom", [H[:, :1]]),
    "another rank": ("custom", [H[:, None]]),
    "too many": ("custom", [H, H]),
    "too few": ("lstm", [H]),
    "three for two": ("lstm", [H, H, H]),
    "a single one, bare": ("lstm", H),
}


@pytest.mark.parametrize("name", WRONG_STATES)
def test_d9_wrong_initial_states_are_refused(started, name):
    """All backends: some crash, some are accepted, not the same ones."""
    which, states = WRONG_STATES[name]
    layer, x = started[which], data(3, 5, 3)
    before = npy(layer(x))
    with pytest.raises(ValueError, match=PARTS):
        layer(x, initial_state=states)
    close(layer(x), before)


def symbolic_states(*widths):
    return [keras.Input((n,)) for n in widths]


SYMBOLIC = {
    "lstm, list": (lambda: lstm(4), lambda: symbolic_states(4, 4)),
    "lstm, tuple": (lambda: lstm(4), lambda: tuple(symbolic_states(4, 4))),
    "gru, tensor": (lambda: gru(4), lambda: keras.Input((4,))),
    "stack, nested list": (
        lambda: RNN([lstm_cell(4), lstm_cell(4)]),
        lambda: [symbolic_states(4, 4), symbolic_states(4, 4)],
    ),
    "stack, nested tuple": (
        lambda: RNN([lstm_cell(4), lstm_cell(4)]),
        lambda: (tuple(symbolic_states(4, 4)), tuple(symbolic_states(4, 4))),
    ),
    "bidirectional, list": (
        lambda: Bidirectional(lstm(4)),
        lambda: symbolic_states(4, 4, 4, 4),
    ),
    "bidirectional gru": (lambda: Bidirectional(gru(4)), lambda: symbolic_states(4, 4)),
}


@pytest.mark.parametrize("name", SYMBOLIC)
def test_d9_symbolic_initial_states(name, tmp_path):
    """JAX: nested tuples crash."""
    make, states = SYMBOLIC[name]
    states, layer, inputs = states(), make(), keras.Input((5, 3))
    model = keras.Model([inputs, *keras.tree.flatten(states)], layer(inputs, initial_state=states))
    randomise(model)
    x = data(3, 5, 3)
    values = [data(3, 4, seed=i) for i, _ in enumerate(keras.tree.flatten(states))]
    # Deeply nested tuples, or a bare tensor, as lists: the eager call takes those everywhere.
    as_list = keras.tree.pack_sequence_as(states, values)
    if isinstance(as_list, tuple):
        as_list = [list(s) if isinstance(s, tuple) else s for s in as_list]
    expected = npy(layer(x, initial_state=as_list))
    assert differ(expected, npy(layer(x)))
    close(model([x, *values]), expected)
    model.save(tmp_path / "model.keras")
    close(keras.models.load_model(tmp_path / "model.keras")([x, *values]), expected)


@serializable
class TokenCell(layers.Layer):
    """Takes one token id per row and step."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size = 4
        self.output_size = 4
        self.table = layers.Embedding(9, 4)

    def build(self, input_shape):
        self.table.build(input_shape)
        self.built = True

    def call(self, inputs, states):
        h = ops.tanh(self.table(inputs) + 0.5 * states[0])
        return h, [h]


@pytest.mark.parametrize("unroll", [False, True])
def test_d10_one_token_id_per_step(unroll):
    """All backends: (batch, time) integers crash."""
    layer = RNN(TokenCell(), return_sequences=True, unroll=unroll)
    ids = np.random.default_rng(0).integers(0, 9, (3, 5))
    assert shapes(layer(keras.Input((5,), dtype="int32"))) == (None, 5, 4)
    randomise(layer)
    (table,) = npy(layer.trainable_variables)

    def step(x, states):
        h = np.tanh(table[x] + 0.5 * states[0])
        return h, [h]

    sequence, _, _ = loop(step, ids, [ZERO], MASK)
    close(layer(ids, mask=MASK), sequence)


class Typed(layers.Layer):
    """Has one state of a given dtype."""

    state_size = 2
    output_size = 2

    def __init__(self, dt, **kwargs):
        super().__init__(**kwargs)
        self.dt = dt

    def get_initial_state(self, batch_size=None):
        return [ops.cast(ops.ones((batch_size, 2)), self.dt)]

    def call(self, inputs, states):
        if self.dt == "bool":
            return ops.cast(states[0], "float32"), [ops.logical_not(states[0])]
        if self.dt == "complex64":
            h = states[0] * 1j + ops.cast(inputs, "complex64")
            return ops.real(h) + ops.imag(h), [h]
        h = states[0] + ops.cast(3 * inputs, self.dt)
        return ops.cast(h, "float32"), [h]


def typed_step(dt):
    def step(x, states):
        if dt == "bool":
            return states[0].astype("float32"), [~states[0]]
        if dt == "complex64":
            h = states[0] * 1j + x
            return h.real + h.imag, [h]
        h = states[0] + (3 * x).astype(dt)
        return h.astype("float32"), [h]

    return step


def typed_case(dt):
    x = np.abs(data(3, 5, 2))
    return x, loop(typed_step(dt), x, [np.ones((3, 2), dt)], MASK)


@pytest.mark.parametrize("how", ["eager", "unroll", "compiled"])
@pytest.mark.parametrize("dt", ["complex64", "int32", "int64", "uint8", "bool", "float64"])
def test_d11_states_keep_their_dtype(dt, how):
    """TF, JAX: crash, or cast to float32; Torch: complex numbers lose their imaginary part."""
    if BACKEND == "jax" and dt in ("float64", "int64"):
        pytest.skip("JAX has no 64-bit numbers unless jax_enable_x64 is set")
    layer = RNN(Typed(dt), return_state=True, return_sequences=True, unroll=how == "unroll")
    x, (sequence, _, _) = typed_case(dt)
    layer.build(x.shape)
    outputs, state = layer(x, mask=MASK) if how != "compiled" else compiled(layer)(x)
    if how == "compiled":
        sequence, _, [expected] = loop(typed_step(dt), x, [np.ones((3, 2), dt)])
    else:
        sequence, _, [expected] = loop(typed_step(dt), x, [np.ones((3, 2), dt)], MASK)
    assert keras.backend.standardize_dtype(state.dtype) == dt
    close(outputs, sequence)
    close(state, expected)


@pytest.mark.parametrize("dt", ["complex64", "int32", "bool"])
def test_d11_symbolic_states_keep_their_dtype(dt):
    """All backends: symbolically float32."""
    layer = RNN(Typed(dt), return_state=True)
    output, state = layer(keras.Input((5, 2)))
    assert output.dtype == "float32"
    assert state.dtype == dt


@pytest.mark.parametrize("dt", ["complex64", "int32", "bool"])
def test_d11_stored_states_keep_their_dtype(dt):
    """All backends: stored as float32."""
    layer = RNN(Typed(dt), stateful=True, return_state=True)
    x = np.abs(data(3, 10, 2))
    layer(x[:, :5])
    _, state = layer(x[:, 5:])
    _, _, [expected] = loop(typed_step(dt), x, [np.ones((3, 2), dt)])
    close(state, expected)
    (stored,) = keras.tree.flatten(layer.states)
    assert keras.backend.standardize_dtype(stored.dtype) == dt


class Unregistered(TanhCell):
    """Known to no registry."""


class NoGetConfig(layers.Layer):
    """Leaves `get_config` to Keras."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size = units
        self.output_size = units

    def build(self, input_shape):
        self.w = self.add_weight(shape=(input_shape[-1], self.units), name="w")
        self.built = True

    def call(self, inputs, states):
        h = ops.tanh(ops.matmul(inputs, self.w) + states[0])
        return h, [h]


class WithFunction(NoGetConfig):
    """Takes an argument that no config can hold."""

    def __init__(self, units, function, **kwargs):
        super().__init__(units, **kwargs)
        self.function = function

    def call(self, inputs, states):
        h, new = super().call(inputs, states)
        return self.function(h), new


def assert_directions(layer, x):
    forward, backward = layer.forward_layer.cell, layer.backward_layer.cell
    assert forward is not backward
    assert len(layer.trainable_variables) == 2 * len(forward.trainable_variables)
    assert differ(npy(forward.w), npy(backward.w))
    _, last, _ = loop(cell_step(forward), x, [ZERO.astype("float32")], MASK)
    _, first, _ = loop(cell_step(backward), x, [ZERO.astype("float32")], MASK, True)
    close(layer(x, mask=MASK), np.concatenate([last, first], -1))


@pytest.mark.parametrize("cell", [Unregistered, NoGetConfig])
def test_d12_bidirectional_needs_no_registered_cell(cell):
    """All backends: crash, the cell is copied by way of its serialised form."""
    assert_directions(built(Bidirectional(RNN(cell(4))), 3, 5, 3), data(3, 5, 3))


def test_d12_bidirectional_of_a_cell_that_cannot_be_copied():
    """All backends: crash; given both directions, no copy is needed."""
    half = ops.sigmoid
    with pytest.raises(ValueError, match=PARTS + ".*backward_layer"):
        Bidirectional(RNN(WithFunction(4, half)))
    layer = Bidirectional(
        RNN(WithFunction(4, half)),
        backward_layer=RNN(WithFunction(4, half), go_backwards=True),
    )
    assert_directions(built(layer, 3, 5, 3), data(3, 5, 3))


def test_d12_bidirectional_of_a_learned_initial_state():
    """Keras is right here: each direction has its own."""
    layer = built(Bidirectional(RNN(LearnedCell(4))), 3, 5, 3)
    x = data(3, 5, 3)
    expected = []
    for part, backwards in ((layer.forward_layer, False), (layer.backward_layer, True)):
        h0 = np.tile(npy(part.cell.h0), (3, 1))
        expected.append(loop(tanh_step(part.cell), x, [h0], None, backwards)[1])
    close(layer(x), np.concatenate(expected, -1))


@pytest.mark.parametrize(
    ("form", "unroll", "masked", "backwards"),
    list(
        itertools.product(["list", "dict", "nested"], [False, True], [False, True], [False, True])
    ),
)
def test_d13_nested_inputs(form, unroll, masked, backwards):
    """All backends: the layer crashes while building; of 24 loops below it, 8 or 9 crash."""
    layer = RNN(NestedInputs(form), return_sequences=True, unroll=unroll, go_backwards=backwards)
    x = FORMS[form][0](data(3, 5, 3), data(3, 5, 2, 6, seed=1))
    layer.build(FORMS[form][0]((3, 5, 3), (3, 5, 2, 6)))
    randomise(layer)
    mask = MASK if masked else None
    sequence, _, _ = loop(nested_step(layer.cell), x, [ZERO], mask, backwards)
    close(layer(x, mask=mask), sequence)


def test_d14_bidirectional_of_a_stack():
    """Keras is right here: symbolic and real structures agree, states can be fed back."""
    layer = Bidirectional(RNN([lstm_cell(4), lstm_cell(6)], return_state=True))
    inputs = keras.Input((5, 3), batch_size=3)
    outputs = layer(inputs)
    expected = [(3, 12), [(3, 4), (3, 4)], [(3, 6), (3, 6)], [(3, 4), (3, 4)], [(3, 6), (3, 6)]]
    assert shapes(outputs) == expected
    again = layer(inputs, initial_state=list(outputs[1:]))
    model = keras.Model(inputs, again)
    randomise(model)
    x = data(3, 5, 3)
    first = layer(x)
    assert shapes(first) == expected
    second = layer(x, initial_state=list(first[1:]))
    assert shapes(second) == expected
    assert differ(npy(first[0]), npy(second[0]))
    close(model(x), npy(keras.tree.flatten(second)))
    # The forward half, by hand.
    lower, upper = layer.forward_layer.cell.cells
    mid, _, low = loop(lstm_step(lower), x, [ZERO, ZERO])
    _, last, high = loop(lstm_step(upper), mid, [np.zeros((3, 6))] * 2)
    close(first[0][:, :6], last)
    close(first[1:3], [*low, *high])


def test_d6_wide_outputs_and_their_sequences():
    """Keras is right here when the cell declares its output size."""
    layer = RNN(WideCell(4), return_sequences=True)
    assert symbolic(layer, None, 3) == (None, None, 8)
