"""`cellkit.Bidirectional` is two layers put together by hand, whatever the cell and the options."""

import keras
import numpy as np
import pytest
from keras import ops
from three_parts import raised

import cellkit
from cellkit import Bidirectional

RNG = np.random.default_rng(5)
B, T, F = 3, 4, 2
MERGES = ["concat", "sum", "mul", "ave", None]
MASK = np.array([[1, 1, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1]], dtype=bool)


def values(*shape):
    return RNG.normal(size=shape).astype("float32")


X = values(B, T, F)


class TwoStates(keras.layers.Layer):
    """Flat and unregistered: two states of different width, an output wider than both."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size = [units, units + 1]
        self.output_size = units + 2

    def build(self, shape):
        n = self.units
        self.kernel = self.add_weight(shape=(shape[-1], n), initializer="glorot_uniform")
        self.recurrent = self.add_weight(shape=(2 * n + 1, n + 1), initializer="orthogonal")
        self.readout = self.add_weight(shape=(2 * n + 1, n + 2), initializer="glorot_uniform")

    def call(self, inputs, states):
        h, c = states
        new_h = ops.tanh(ops.matmul(inputs, self.kernel) + 0.3 * h)
        new_c = 0.5 * c + ops.tanh(ops.matmul(ops.concatenate([new_h, c], -1), self.recurrent))
        return ops.matmul(ops.concatenate([new_h, new_c], -1), self.readout), [new_h, new_c]


class Nested(keras.layers.Layer):
    """Dicts everywhere: a vector and a matrix per step, as inputs, outputs and states."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    @property
    def state_size(self):
        return {"h": self.units, "m": (self.units, 2)}

    @property
    def output_size(self):
        return {"vector": self.units, "matrix": (self.units, 2)}

    def build(self, shapes):
        n = self.units
        self.kernel = self.add_weight(shape=(shapes["vector"][-1], n), initializer="glorot_uniform")
        self.mixer = self.add_weight(shape=(n, shapes["matrix"][1]), initializer="glorot_uniform")

    def call(self, inputs, states):
        h = ops.tanh(ops.matmul(inputs["vector"], self.kernel) + 0.4 * states["h"])
        m = ops.tanh(ops.matmul(self.mixer, inputs["matrix"]) - 0.6 * states["m"])
        m = m + 0.1 * h[:, :, None]
        return {"vector": h - m[:, :, 0], "matrix": m}, {"h": h, "m": m}


NESTED_X = {"vector": values(B, T, F), "matrix": values(B, T, 3, 2)}


class Decay:
    """A plain object as a cell."""

    state_size = F

    def call(self, inputs, states):
        h = 0.5 * states[0] + inputs
        return h, [h]


def nested_inputs(time):
    return {
        "vector": keras.Input((time, F), name="vector"),
        "matrix": keras.Input((time, 3, 2), name="matrix"),
    }


def arrays(structure):
    return keras.tree.map_structure(ops.convert_to_numpy, structure)


def assert_same(actual, expected, **options):
    actual, expected = arrays(actual), arrays(expected)
    keras.tree.assert_same_structure(actual, expected)
    for a, e in zip(keras.tree.flatten(actual), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5, **options)


def flip(structure):
    return keras.tree.map_structure(lambda v: np.flip(ops.convert_to_numpy(v), 1), structure)


def randomise(layer):
    """Give a built layer weights that are nowhere zero, and no two of them alike."""
    rng = np.random.default_rng(8)
    layer.set_weights([rng.normal(size=w.shape) * 0.7 for w in layer.weights])


def by_hand(layer, x, mask=None, initial=(None, None), **kwargs):
    """Do what `layer` does with two forward layers, one of them on reversed sequences."""
    results = []
    for i, direction in enumerate((layer.forward_layer, layer.backward_layer)):
        one = cellkit.RNN(
            type(direction.cell).from_config(direction.cell.get_config()),
            return_sequences=layer.return_sequences,
            return_state=True,
            zero_output_for_mask=True,
        )
        one.build(keras.tree.map_structure(np.shape, x) if isinstance(x, dict) else x.shape)
        one.set_weights(direction.get_weights())
        xs, ms = (x, mask) if i == 0 else (flip(x), None if mask is None else np.flip(mask, 1))
        output, *states = arrays(one(xs, mask=ms, initial_state=initial[i], **kwargs))
        results.append((flip(output) if i and layer.return_sequences else output, states))
    (forward, forward_states), (backward, backward_states) = results
    merge = {
        "concat": lambda a, b: np.concatenate([a, b], -1),
        "sum": lambda a, b: a + b,
        "mul": lambda a, b: a * b,
        "ave": lambda a, b: (a + b) / 2,
    }
    if layer.merge_mode is None:
        outputs = (forward, backward)
    else:
        outputs = (keras.tree.map_structure(merge[layer.merge_mode], forward, backward),)
    if layer.return_state:
        return (*outputs, *forward_states, *backward_states)
    return outputs if layer.merge_mode is None else outputs[0]


def make(cell, merge_mode="concat", **options):
    return Bidirectional(cellkit.RNN(cell, **options), merge_mode=merge_mode)


# The numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("merge_mode", MERGES)
@pytest.mark.parametrize("return_sequences", [False, True])
def test_equals_two_layers_by_hand(merge_mode, return_sequences):
    layer = make(TwoStates(3), merge_mode, return_sequences=return_sequences, return_state=True)
    layer.build(X.shape)
    randomise(layer)
    assert_same(layer(X), by_hand(layer, X))
    assert_same(layer(X, mask=MASK), by_hand(layer, X, MASK))


@pytest.mark.parametrize("merge_mode", MERGES)
def test_nested_outputs_are_merged_leaf_by_leaf(merge_mode):
    layer = make(Nested(3), merge_mode, return_sequences=True, return_state=True)
    layer(NESTED_X)
    randomise(layer)
    output, *_ = result = layer(NESTED_X, mask=MASK)
    assert set(output) == {"vector", "matrix"}
    assert_same(result, by_hand(layer, NESTED_X, MASK))


def test_nested_last_output():
    layer = make(Nested(3))
    layer(NESTED_X)
    randomise(layer)
    assert_same(layer(NESTED_X, mask=MASK), by_hand(layer, NESTED_X, MASK))


def test_one_mask_per_input_and_lengths():
    layer = make(Nested(3), return_sequences=True)
    other = np.array([[1, 1, 1, 1], [1, 1, 0, 1], [0, 1, 1, 1]], dtype=bool)
    both = layer(NESTED_X, mask={"vector": MASK, "matrix": other})
    assert_same(both, layer(NESTED_X, mask=MASK & other))
    lengths = [4, 0, 2]
    first = np.arange(T) < np.array(lengths)[:, None]
    assert_same(layer(NESTED_X, lengths=lengths), layer(NESTED_X, mask=first))
    assert_same(layer(NESTED_X, lengths=lengths, mask=MASK), layer(NESTED_X, mask=MASK & first))


@pytest.mark.parametrize("return_sequences", [False, True])
def test_padding_leaks_nowhere_wherever_it_stands(return_sequences):
    layer = make(TwoStates(3), return_sequences=return_sequences)
    valid = values(B, 3, F)
    results = []
    for places in ([0, 1, 2], [2, 3, 5], [0, 2, 5]):
        x, mask = np.full((B, 6, F), np.nan, "float32"), np.zeros((B, 6), bool)
        x[:, places], mask[:, places] = valid, True
        output = arrays(layer(x, mask=mask))
        if return_sequences:
            np.testing.assert_array_equal(output[~mask], 0)
            output = output[:, places]
        results.append(output)
    expected = layer(valid)
    for result in results:
        assert_same(result, expected)


def test_nan_in_the_padding_does_not_reach_the_weights():
    x = np.where(MASK[:, :, None], X, np.nan).astype("float32")
    inputs = keras.Input((T, F)), keras.Input((T,), dtype="bool")
    layer = make(TwoStates(3), return_sequences=True)
    model = keras.Model(inputs, layer(inputs[0], mask=inputs[1]))
    model.compile("sgd", "mse")
    model.fit([x, MASK], values(B, T, 10), verbose=0)
    assert all(np.isfinite(w).all() for w in layer.get_weights())


@pytest.mark.parametrize("mask", [None, MASK])
def test_unrolled_is_the_same(mask):
    layer = make(TwoStates(3), return_sequences=True, return_state=True)
    unrolled = make(TwoStates(3), return_sequences=True, return_state=True, unroll=True)
    expected = layer(X, mask=mask)
    unrolled.build(X.shape)
    unrolled.set_weights(layer.get_weights())
    assert_same(unrolled(X, mask=mask), expected)


def test_no_time_steps():
    layer = make(TwoStates(3), return_sequences=True, return_state=True)
    h, c = values(B, 3), values(B, 4)
    output, *states = layer(X[:, :0], initial_state=[h, c, h + 1, c + 1])
    assert tuple(output.shape) == (B, 0, 10)
    assert_same(states, [h, c, h + 1, c + 1])


def test_constants_reach_both_directions():
    class WithConstants(Decay):
        def call(self, inputs, states, constants):
            output, states = super().call(inputs, states)
            return output + constants, states

    layer = Bidirectional(cellkit.RNN(WithConstants()), merge_mode="sum")
    plain = Bidirectional(cellkit.RNN(Decay()), merge_mode="sum")
    added = values(B, F)
    assert_same(layer(X, constants=added), arrays(plain(X)) + 2 * added)


# States ----------------------------------------------------------------------------------------


def test_initial_states_as_one_list_or_as_a_pair():
    layer = make(TwoStates(3), return_state=True)
    forward, backward = ([values(B, 3), values(B, 4)] for _ in range(2))
    layer(X)
    randomise(layer)
    expected = by_hand(layer, X, initial=(forward, backward))
    assert_same(layer(X, initial_state=[*forward, *backward]), expected)
    assert_same(layer(X, initial_state=(forward, backward)), expected)
    assert_same(layer(X, initial_state=(*map(ops.convert_to_tensor, forward), *backward)), expected)


def test_states_that_are_a_dict():
    layer = make(Nested(3), return_state=True)
    layer(NESTED_X)
    randomise(layer)
    pair = tuple({"h": values(B, 3), "m": values(B, 3, 2)} for _ in range(2))
    result = layer(NESTED_X, initial_state=pair)
    assert_same(result, by_hand(layer, NESTED_X, initial=pair))
    _, forward, backward = result
    again = layer(NESTED_X, initial_state=[forward, backward])
    assert_same(again, by_hand(layer, NESTED_X, initial=(arrays(forward), arrays(backward))))


@pytest.mark.parametrize("size", [1, 2])
def test_states_of_a_stack_are_fed_back(size):
    cells = [keras.layers.LSTMCell(3 + i) for i in range(size)]
    layer = Bidirectional(cellkit.RNN(cells, return_state=True))
    _, *states = layer(X)
    assert len(states) == 2 * size
    assert_same(
        layer(X, initial_state=states), layer(X, initial_state=(states[:size], states[size:]))
    )
    changed = arrays(layer(X, initial_state=states)[0])
    assert not np.allclose(changed, arrays(layer(X)[0]))


def test_initial_states_in_a_functional_model():
    layer = make(TwoStates(3), return_state=True)
    inputs = keras.Input((None, F))
    _, *states = layer(inputs)
    model = keras.Model(inputs, layer(inputs, initial_state=states))
    _, *states = layer(X)
    assert_same(list(model(X)), list(layer(X, initial_state=states)))


def test_lengths_in_a_functional_model():
    layer = make(TwoStates(3), return_sequences=True)
    inputs, lengths = keras.Input((None, F)), keras.Input((), dtype="int32")
    model = keras.Model([inputs, lengths], layer(inputs, lengths=lengths))
    given = np.array([4, 0, 2], "int32")
    assert_same(model([X, given]), layer(X, lengths=given))


def test_symbolic_initial_states_are_checked():
    layer = make(TwoStates(3))
    inputs, h, c = keras.Input((T, F)), keras.Input((3,)), keras.Input((4,))
    assert layer(inputs, initial_state=[h, c, h, c]).shape == (None, 10)
    raised(layer, inputs, initial_state=[h, c, h, h])
    assert "divided" in raised(layer, inputs, initial_state=[h, c, h])[0]


def test_stateful_chunks_equal_one_run_of_each_direction():
    layer = make(TwoStates(3), stateful=True, return_state=True)
    assert layer.states is None
    first = layer(X)
    randomise(layer)
    layer.reset_state()
    first = layer(X)
    second = layer(X, mask=MASK)
    stored = arrays(layer.states)
    pairs = arrays(first[1:3]), arrays(first[3:5])
    assert_same(second, by_hand(layer, X, MASK, initial=pairs))
    assert_same(tuple(second[1:]), tuple(stored))
    layer.reset_state()
    assert_same(layer(X), first)
    layer.reset_states((list(stored[:2]), list(stored[2:])))
    assert_same(tuple(layer.states), tuple(stored))
    layer.reset_state(states=[s * 0 for s in stored])
    assert_same(layer(X), first)


def test_stateful_states_are_carried_on_by_predict():
    inputs = keras.Input(batch_shape=(B, T, F))
    layer = make(TwoStates(3), stateful=True)
    model = keras.Model(inputs, layer(inputs))
    first = model.predict(X, batch_size=B, verbose=0)
    second = model.predict(X, batch_size=B, verbose=0)
    assert not np.allclose(first, second)
    layer.reset_state()
    assert_same(model.predict(X, batch_size=B, verbose=0), first)


def test_a_failure_of_one_direction_leaves_the_states_of_both():
    class Fails(Decay):
        fail = False

        def call(self, inputs, states):
            if self.fail:
                raise RuntimeError("on purpose")
            return super().call(inputs, states)

    layer = Bidirectional(cellkit.RNN(Fails(), stateful=True, unroll=True))
    layer(X)
    before = arrays(layer.states)
    layer.backward_layer.cell.fail = True
    with pytest.raises(RuntimeError, match="on purpose"):
        layer(X + 1)
    assert_same(layer.states, before)
    raised(layer.reset_state, [values(B, F), values(B, F + 1)])
    assert_same(layer.states, before)
    layer.backward_layer.cell.fail = False
    layer(X)


@pytest.mark.parametrize("merge_mode", ["concat", None])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize(
    ("inner", "stateful"), [("cellkit", False), ("cellkit", True), ("keras", True)]
)
def test_stateful_and_return_state_behind_a_mask(inner, stateful, merge_mode, return_sequences):
    options = dict(stateful=stateful, return_state=True, return_sequences=return_sequences)
    if inner == "cellkit":
        layer = make(keras.layers.LSTMCell(4), merge_mode, **options)
    else:
        layer = Bidirectional(keras.layers.LSTM(4, **options), merge_mode=merge_mode)
    inputs = keras.Input((5,), batch_size=2, dtype="int32")
    embedded = keras.layers.Embedding(9, 3, mask_zero=True)(inputs)
    model = keras.Model(inputs, layer(embedded))
    tokens = np.array([[1, 2, 3, 0, 0]] * 2)
    padded = model.predict(tokens, batch_size=2, verbose=0)
    if stateful:
        layer.reset_state()
    masks = layer.compute_mask(embedded, ops.not_equal(inputs, 0))
    assert len(masks) == len(keras.tree.flatten(list(padded)))
    attached = [m is not None for m in masks]
    assert attached == [return_sequences] * (len(masks) - 4) + [False] * 4


# Copies ----------------------------------------------------------------------------------------


def test_is_a_keras_layer_and_leaves_the_given_one_alone():
    inner = cellkit.RNN(TwoStates(3), name="inner")
    layer = Bidirectional(inner)
    assert isinstance(layer, keras.layers.Bidirectional)
    assert layer.forward_layer is not inner and layer.forward_layer.cell is not inner.cell
    assert [layer.forward_layer.name, layer.backward_layer.name] == [
        "forward_inner",
        "backward_inner",
    ]
    layer(X)
    assert not inner.built
    assert len(layer.trainable_weights) == 6


def test_subclasses_and_their_own_options_are_copied():
    class Scaled(cellkit.RNN):
        def __init__(self, cell, scale=1.0, **kwargs):
            super().__init__(cell, **kwargs)
            self.scale = scale

        def get_config(self):
            return {**super().get_config(), "scale": self.scale}

    layer = Bidirectional(Scaled(TwoStates(3), scale=2.0, activity_regularizer="l2"))
    for direction in (layer.forward_layer, layer.backward_layer):
        assert type(direction) is Scaled and direction.scale == 2.0
        assert direction.activity_regularizer is not None
    assert tuple(layer(X).shape) == (B, 10)


def test_cells_around_cells_and_functions_that_are_not_registered():
    def bent(x):
        return ops.tanh(x) + 0.1 * x

    class Around(keras.layers.Layer):
        def __init__(self, cell, **kwargs):
            super().__init__(**kwargs)
            self.cell = cell

        @property
        def state_size(self):
            return self.cell.state_size

        def build(self, shape):
            self.cell.build(shape)

        def call(self, inputs, states):
            output, states = self.cell(inputs, states)
            return output + 1.0, states

        def get_config(self):
            cell = keras.saving.serialize_keras_object(self.cell)
            return {**super().get_config(), "cell": cell}

        @classmethod
        def from_config(cls, config):
            cell = keras.saving.deserialize_keras_object(config.pop("cell"))
            return cls(cell, **config)

    assert tuple(make(Around(TwoStates(3)))(X).shape) == (B, 10)
    layer = make(keras.layers.GRUCell(3, activation=bent))
    assert layer.backward_layer.cell.activation is bent
    assert tuple(layer(X).shape) == (B, 6)


def test_cells_that_are_plain_objects():
    layer = Bidirectional(cellkit.RNN(Decay(), return_sequences=True), merge_mode=None)
    forward, backward = arrays(layer(X))
    assert_same(backward, flip(cellkit.RNN(Decay(), return_sequences=True)(flip(X))))
    assert_same(forward, cellkit.RNN(Decay(), return_sequences=True)(X))


def test_layers_inside_a_plain_object_are_made_anew():
    class Holds:
        state_size = F

        def __init__(self):
            self.dense = keras.layers.Dense(F, activation="tanh")

        def call(self, inputs, states):
            h = self.dense(inputs) + 0.5 * states[0]
            return h, [h]

    cell = Holds()
    layer = Bidirectional(cellkit.RNN(cell))
    assert tuple(layer(X).shape) == (B, 2 * F)
    forward, backward = layer.forward_layer.cell.dense, layer.backward_layer.cell.dense
    assert len({id(d) for d in (cell.dense, forward, backward)}) == 3
    assert len(layer.trainable_weights) == 4
    assert not np.allclose(*map(arrays, (forward.kernel.value, backward.kernel.value)))


def test_a_cell_that_cannot_be_copied_is_reported_or_given_twice():
    class Stubborn(TwoStates):
        def __init__(self, function):
            super().__init__(3)
            self.function = function

    layer = cellkit.RNN(Stubborn(lambda x: x))
    what, received, *_ = raised(Bidirectional, layer)
    assert "Stubborn cannot be copied" in what and "NotImplementedError" in received
    second = cellkit.RNN(Stubborn(lambda x: x), go_backwards=True)
    both = Bidirectional(layer, backward_layer=second)
    assert both.forward_layer is layer
    assert tuple(both(X).shape) == (B, 10)


def dropped(layer):
    """Return which features each direction drops: inputs of one, seen through unit weights."""
    forward, backward = layer(np.ones((1, 2, 64), "float32"), training=True)
    return arrays(forward), arrays(backward)


@pytest.mark.parametrize("seed", [None, 7])
def test_the_directions_drop_different_units(seed):
    def one():
        cell = keras.layers.SimpleRNNCell(
            64,
            activation="linear",
            kernel_initializer="identity",
            recurrent_initializer="zeros",
            dropout=0.5,
            seed=seed,
        )
        return make(cell, None)

    forward, backward = dropped(one())
    assert set(np.unique(forward)) == set(np.unique(backward)) == {0.0, 2.0}
    assert 0.2 < np.mean(forward != backward) < 0.8
    if seed is not None:
        assert_same(dropped(one()), (forward, backward))


def test_seeds_of_layers_change_and_those_of_initializers_stay():
    initializer = keras.initializers.GlorotUniform(seed=3)
    layer = Bidirectional(keras.layers.LSTM(4, dropout=0.5, seed=7, kernel_initializer=initializer))
    forward, backward = layer.forward_layer, layer.backward_layer
    assert forward.cell.seed == 7 and backward.cell.seed not in (7, 8, None)
    assert backward.cell.kernel_initializer.seed == 3
    again = Bidirectional.from_config(layer.get_config())
    assert again.backward_layer.cell.seed == backward.cell.seed
    assert Bidirectional(keras.layers.SimpleRNN(4, seed=7)).forward_layer.cell.seed == 7


# Shapes, dtypes, masks -------------------------------------------------------------------------


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize(
    ("merge_mode", "dtype"),
    [*((mode, "float32") for mode in MERGES), ("ave", "mixed_bfloat16"), (None, "mixed_bfloat16")],
)
def test_symbolic_equals_eager(merge_mode, return_sequences, dtype):
    inner = cellkit.RNN(
        TwoStates(3, dtype=dtype),
        return_sequences=return_sequences,
        return_state=True,
        dtype=dtype,
    )
    layer = Bidirectional(inner, merge_mode=merge_mode, dtype=dtype)
    eager = layer(X)
    symbolic = layer(keras.Input((T, F), batch_size=B))
    keras.tree.assert_same_structure(list(eager), list(symbolic))
    shapes = layer.compute_output_shape(X.shape)
    assert [tuple(v.shape) for v in eager] == [tuple(v.shape) for v in symbolic] == list(shapes)
    for e, s in zip(eager, symbolic, strict=True):
        assert keras.backend.standardize_dtype(e.dtype) == s.dtype


def test_symbolic_equals_eager_for_nested_outputs():
    layer = make(Nested(3), return_sequences=True)
    inputs = nested_inputs(None)
    symbolic = layer(inputs)
    assert symbolic["vector"].shape == (None, None, 6)
    assert symbolic["matrix"].shape == (None, None, 3, 4)
    model = keras.Model(inputs, symbolic)
    assert_same(model(NESTED_X), layer(NESTED_X))
    assert_same(
        model({k: v[:2, :3] for k, v in NESTED_X.items()}),
        layer({k: v[:2, :3] for k, v in NESTED_X.items()}),
    )


@pytest.mark.parametrize("inner", ["cellkit", "keras"])
def test_masks_reach_the_next_layer(inner):
    def one():
        if inner == "keras":
            return Bidirectional(keras.layers.GRU(4, return_sequences=True))
        return make(keras.layers.GRUCell(4), return_sequences=True)

    tokens = np.array([[1, 2, 3, 0, 0], [4, 0, 5, 6, 0]])
    first, second, embed = one(), one(), keras.layers.Embedding(9, 3, mask_zero=True)
    inputs = keras.Input((None,), dtype="int32")
    model = keras.Model(inputs, second(first(embed(inputs))))
    embedded = arrays(embed(tokens))
    expected = second(first(embedded, mask=tokens != 0), mask=tokens != 0)
    assert_same(model(tokens), expected)
    assert not np.allclose(arrays(expected), arrays(second(first(embedded))))


def test_masks_of_all_outputs():
    outputs = make(Nested(3), None, return_sequences=True, return_state=True)
    outputs(NESTED_X)
    masks = outputs.compute_mask(NESTED_X, ops.convert_to_tensor(MASK))
    flat = keras.tree.flatten(list(outputs(NESTED_X)))
    assert len(masks) == len(flat) == 8
    assert [m is not None for m in masks] == [True] * 4 + [False] * 4
    assert make(Decay()).compute_mask(X, MASK) is None


# Saving, training ------------------------------------------------------------------------------


def test_config_round_trip():
    layer = Bidirectional(
        cellkit.RNN(keras.layers.LSTMCell(3), return_sequences=True, zero_output_for_mask=False),
        merge_mode="ave",
        backward_layer=cellkit.RNN(
            keras.layers.GRUCell(3), return_sequences=True, go_backwards=True
        ),
        name="both_ways",
        dtype="mixed_bfloat16",
    )
    config = layer.get_config()
    again = Bidirectional.from_config(config)
    assert again.get_config() == config
    assert isinstance(again.backward_layer.cell, keras.layers.GRUCell)
    assert keras.saving.get_registered_name(Bidirectional) == "cellkit>Bidirectional"


def test_saving(tmp_path):
    inputs = keras.Input((None, F))
    x = make(keras.layers.LSTMCell(3), return_sequences=True)(inputs)
    model = keras.Model(inputs, Bidirectional(keras.layers.GRU(2), merge_mode="mul")(x))
    model.save(tmp_path / "model.keras")
    assert_same(keras.saving.load_model(tmp_path / "model.keras")(X), model(X))


def test_saving_with_nested_inputs(tmp_path):
    inputs = nested_inputs(None)
    model = keras.Model(inputs, make(Nested(3), return_sequences=True)(inputs))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", custom_objects={"Nested": Nested})
    assert_same(again(NESTED_X), model(NESTED_X))


def test_weights_given_to_the_constructor():
    source = make(TwoStates(3))
    source.build(X.shape)
    randomise(source)
    layer = Bidirectional(cellkit.RNN(TwoStates(3)), weights=source.get_weights())
    assert_same(layer(X), source(X))


def test_training_reaches_both_directions():
    inputs = nested_inputs(T)
    layer = make(Nested(3))
    model = keras.Model(inputs, layer(inputs)["vector"])
    before = layer.get_weights()
    model.compile("sgd", "mse")
    model.fit(NESTED_X, values(B, 6), verbose=0)
    after = layer.get_weights()
    assert len(after) == 4
    assert not any(np.allclose(a, b) for a, b in zip(after, before, strict=True))


# Keras' own layers -----------------------------------------------------------------------------


# From Keras 3.16 on, its own wrapper says of every mask that it hands none on.
@pytest.mark.filterwarnings(r"ignore:.*of type Bidirectional\) was passed an input with a mask")
@pytest.mark.parametrize(
    ("inner", "merge_mode"), [("SimpleRNN", None), ("LSTM", "concat"), ("GRU", "ave")]
)
def test_stock_layers_give_what_they_give_in_keras(inner, merge_mode):
    def one(wrapper):
        layer = getattr(keras.layers, inner)(3, return_sequences=True, return_state=True)
        return wrapper(layer, merge_mode=merge_mode)

    ours, keras_own = one(Bidirectional), one(keras.layers.Bidirectional)
    keras_own.build(X.shape)
    ours.build(X.shape)
    randomise(keras_own)
    ours.set_weights(keras_own.get_weights())
    assert_same(ours(X), keras_own(X))
    output, *states = keras_own(X, mask=MASK)
    assert_same(ours(X, mask=MASK), (output, *states))
    states = states[-2 * len(ours.forward_layer.state_size) :]
    half = len(states) // 2
    expected = keras_own(X, initial_state=states)
    assert_same(ours(X, initial_state=states), expected)
    assert_same(ours(X, initial_state=(states[:half], states[half:])), expected)
    assert_same(ours(X, lengths=[4, 1, 2]), ours(X, mask=np.arange(T) < [[4], [1], [2]]))


def test_stock_stack_as_a_pair_of_states():
    cells = [keras.layers.LSTMCell(3), keras.layers.LSTMCell(2)]
    layer = Bidirectional(keras.layers.RNN(cells, return_state=True))
    _, *states = layer(X)
    assert_same(layer(X, initial_state=states), layer(X, initial_state=(states[:2], states[2:])))


def test_setting_the_states_of_a_stock_layer():
    layer = Bidirectional(keras.layers.LSTM(3, stateful=True))
    layer(X)
    new = [values(B, 3) for _ in range(4)]
    layer.reset_state(states=new)
    assert_same(tuple(layer.states), tuple(new))
    _, received, *_ = raised(layer.reset_state, [n[:1] for n in new])
    assert "(1, 3)" in received
    layer.reset_state()
    assert_same(tuple(layer.states), tuple(n * 0 for n in new))


# Errors ----------------------------------------------------------------------------------------


def test_errors_of_the_constructor():
    rnn = cellkit.RNN(TwoStates(3))
    assert "not a layer" in raised(Bidirectional, "lstm")[0]
    assert "`backward_layer`" in raised(Bidirectional, rnn, backward_layer=3)[0]
    *_, fix = raised(Bidirectional, TwoStates(3))
    assert "cellkit.RNN(TwoStates(" in fix
    assert "`go_backwards`" in raised(Bidirectional, keras.layers.Dense(2))[1]
    assert "'plus'" in raised(Bidirectional, rnn, merge_mode="plus")[1]
    assert "same direction" in raised(Bidirectional, rnn, backward_layer=cellkit.RNN(Decay()))[0]
    other = cellkit.RNN(TwoStates(3), go_backwards=True, return_state=True)
    assert "`return_state`" in raised(Bidirectional, rnn, backward_layer=other)[0]
    backwards = cellkit.RNN(TwoStates(3), go_backwards=True)
    assert "go_backwards=True" in raised(Bidirectional, backwards)[1]


def test_errors_of_a_call_leave_the_layer_working():
    layer = make(TwoStates(3))
    expected = layer(X)
    h, c = values(B, 3), values(B, 4)
    assert "divided" in raised(layer, X, initial_state=[h, c, h])[0]
    assert "divided" in raised(layer, X, initial_state=h)[0]
    assert "divided" in raised(layer, X, initial_state={"h": h})[0]
    raised(layer, X, initial_state=[h, c, h, c[:, :2]])
    raised(layer, X, initial_state=[h, c, h[:1], c])
    raised(layer, X, mask=MASK[:, :2])
    raised(layer, X, lengths=[1, 2])
    raised(layer, X[:, :, :1])
    raised(layer, X[0, 0])
    raised(layer, [X, X])
    assert "constants" in raised(layer, X, constants=h)[1]
    stock = Bidirectional(keras.layers.LSTM(3))
    assert "constants" in raised(stock, X, constants=h)[1]
    assert "stateful" in raised(layer.reset_state)[3]
    assert_same(layer(X), expected)


def test_outputs_without_features_cannot_be_concatenated():
    class Total(Decay):
        output_size = ()

        def call(self, inputs, states):
            output, states = super().call(inputs, states)
            return ops.sum(output, -1), states

    assert (
        "concatenated" in raised(Bidirectional(cellkit.RNN(Total(), return_sequences=True)), X)[0]
    )
    summed = Bidirectional(cellkit.RNN(Total(), return_sequences=True), merge_mode="sum")
    assert tuple(summed(X).shape) == (B, T)


@pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave", None])
def test_no_steps_give_no_outputs(merge_mode):
    layer = make(cellkit.create("mgu", units=3), merge_mode, return_sequences=True)
    layer.build((1, T, X.shape[-1]))
    for mask in (None, np.zeros((1, 0), bool)):
        outputs = layer(X[:1, :0], mask=mask)
        for y in outputs if merge_mode is None else [outputs]:
            assert tuple(y.shape) == (1, 0, 6 if merge_mode == "concat" else 3)
