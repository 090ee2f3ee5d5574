"""Edges of what a layer is given: empty, whole, odd or wrong values of every argument."""

import keras
import numpy as np
import pytest
from keras import ops
from three_parts import raised

import cellkit

X = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
MASK = np.array([[1, 0, 1, 1], [1, 1, 0, 0]], bool)


def values(x):
    return [ops.convert_to_numpy(v) for v in keras.tree.flatten(x)]


def close(a, b):
    for u, v in zip(values(a), values(b), strict=True):
        np.testing.assert_allclose(u, v, rtol=1e-6, atol=1e-7)


def layer(**options):
    return cellkit.RNN(cellkit.create("gru", units=3), **options)


def tensor(x):
    return ops.convert_to_tensor(x)


# Masks and lengths ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [np.asarray, tensor, np.ndarray.tolist], ids=["np", "t", "list"])
@pytest.mark.parametrize("wrong", [0.5, np.nan, -1.0, 2.0, np.inf])
@pytest.mark.parametrize("wrap", [lambda la: la, cellkit.Bidirectional])
def test_masks_of_numbers_are_refused(form, wrong, wrap):
    mask = MASK.astype("float32")
    mask[1, 2] = wrong
    rnn = wrap(layer())
    what, received, expected, fix = raised(rnn, X, mask=form(mask))
    assert "flags" in what and "float" in received and "bool" in expected and "> 0.5" in fix
    close(rnn(X, mask=MASK), rnn(X, mask=MASK.astype("int32")))


def test_complex_masks_are_refused():
    what, received, _, _ = raised(layer(), X, mask=MASK.astype("complex64"))
    assert "flags" in what and "complex64" in received


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32", "int64", "float32", "float16"])
def test_flags_count_in_every_dtype(dtype):
    rnn = layer(return_sequences=True)
    want = rnn(X, mask=MASK)
    close(rnn(X, mask=MASK.astype(dtype)), want)
    close(rnn(X, mask=tensor(MASK.astype(dtype))), want)
    close(rnn(X, mask=list(MASK.astype(dtype).tolist())), want)
    close(rnn(X, mask=[list(row) for row in MASK.astype(dtype)]), want)


def test_a_symbolic_mask_of_floats_is_refused():
    mask = keras.Input((4,), dtype="float32")
    what, received, _, _ = raised(layer(), keras.Input((4, 3)), mask=mask)
    assert "flags" in what and "float32" in received
    flags = keras.Input((4,), dtype="bool")
    assert layer()(keras.Input((4, 3)), mask=flags).shape == (None, 3)


@pytest.mark.parametrize("form", [np.asarray, tensor, np.ndarray.tolist], ids=["np", "t", "list"])
@pytest.mark.parametrize("wrong", [[5, 1], [-1, 2], [0, 100]])
def test_lengths_out_of_range_are_refused(form, wrong):
    rnn = layer()
    what, received, expected, _ = raised(rnn, X, lengths=form(np.array(wrong)))
    assert "lengths" in what and f"between {min(wrong)} and {max(wrong)}" in received
    assert "between 0 and 4" in expected
    close(rnn(X, lengths=[4, 2]), rnn(X, lengths=tensor(np.array([4, 2]))))


@pytest.mark.parametrize(
    "wrong",
    [3, [1.0, 2.0], [True, False], ["a", "b"], [None, 2], [[1], [2]], [[1], [2, 3]], [1, 2, 3]],
)
def test_lengths_of_another_kind_are_refused(wrong):
    what, *_ = raised(layer(), X, lengths=wrong)
    assert "lengths" in what


def test_lengths_that_cannot_be_seen_count_as_the_nearest_in_range():
    inputs, lengths = keras.Input((4, 3)), keras.Input((), dtype="int32")
    rnn = layer()
    model = keras.Model([inputs, lengths], rnn(inputs, lengths=lengths))
    given = [X, np.array([9, -3], "int32")]
    if keras.backend.backend() == "torch":  # where nothing is traced, they can be seen
        with pytest.raises(ValueError, match="between -3 and 9"):
            model.predict(given, verbose=0)
    else:
        close(model.predict(given, verbose=0), rnn(X, lengths=[4, 0]))


# Sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["gru", "mgu", "min_gru"])
@pytest.mark.parametrize("engine", ["auto", "loop"])
@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 4, 3), (0, 0, 3), (2, 1, 3), (1, 1, 3)])
def test_empty_and_single(cell, engine, shape):
    rnn = cellkit.RNN(
        cellkit.create(cell, units=3), return_sequences=True, return_state=True, engine=engine
    )
    rnn.build((None, None, 3))
    x = np.ones(shape, "float32")
    start = np.full((shape[0], 3), 0.3, "float32")
    outputs, state = rnn(x, initial_state=[start], mask=np.ones(shape[:2], bool))
    assert tuple(outputs.shape) == (*shape[:2], 3) and tuple(state.shape) == (shape[0], 3)
    if shape[1] == 0:
        close(state, start)
    close(rnn(x, initial_state=[start]), (outputs, state))
    close(
        rnn(x, initial_state=[start], lengths=[shape[1]] * shape[0] or np.zeros(0, int)),
        [outputs, state],
    )


def test_no_step_hands_back_a_copy_of_the_states():
    rnn, start = layer(return_state=True), tensor(np.full((2, 3), 0.3, "float32"))
    rnn.build((None, None, 3))
    _, state = rnn(np.zeros((2, 0, 3), "float32"), initial_state=[start])
    if keras.backend.backend() == "torch":
        state += 1.0
    close(start, np.full((2, 3), 0.3, "float32"))


def test_masks_and_lengths_of_no_steps():
    rnn = layer(return_sequences=True)
    rnn.build((None, None, 3))
    x = np.zeros((2, 0, 3), "float32")
    for given in ({"mask": np.zeros((2, 0), bool)}, {"mask": [[], []]}, {"lengths": [0, 0]}):
        assert tuple(rnn(x, **given).shape) == (2, 0, 3)
    assert "lengths" in raised(rnn, x, lengths=[1, 0])[0]


def test_numbers_of_numpy_are_numbers():
    cell = cellkit.create("gru", units=np.int64(3), dropout=np.float32(0.25), seed=np.int32(4))
    assert cell.units == 3 and type(cell.units) is int and cell.dropout == 0.25
    rnn = cellkit.RNN(cell, unroll=np.int64(2), remat=np.int32(2), truncate_gradient=np.int64(3))
    assert [type(v) for v in (rnn.unroll, rnn.remat, rnn.truncate_gradient)] == [int] * 3
    again = cellkit.RNN.from_config(rnn.get_config())
    assert tuple(again(X).shape) == (2, 3)

    class Sized(keras.layers.SimpleRNNCell):
        @property
        def state_size(self):
            return np.int64(3)

        @state_size.setter
        def state_size(self, value):
            pass

    assert tuple(cellkit.RNN(Sized(3))(X).shape) == (2, 3)


# Objects that are not a cell, a dtype or a state --------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: keras.layers.LSTM(4), "LSTM"),
        (lambda: keras.layers.GRU(4), "GRU"),
        (lambda: cellkit.RNN(keras.layers.GRUCell(4)), "RNN"),
        (lambda: keras.layers.RNN(keras.layers.GRUCell(4)), "RNN"),
        (lambda: keras.layers.ConvLSTM1D(4, 2), "ConvLSTM1D"),
        (lambda: cellkit.Bidirectional(layer()), "Bidirectional"),
        (lambda: keras.layers.Bidirectional(keras.layers.LSTM(4)), "Bidirectional"),
    ],
)
@pytest.mark.parametrize(
    "use",
    [cellkit.RNN, lambda x: cellkit.RNN([x]), lambda x: cellkit.StackedCells([x])],
    ids=["RNN", "list", "stack"],
)
def test_a_layer_in_the_place_of_a_cell(make, name, use):
    what, received, expected, fix = raised(use, make())
    assert what == "A layer was passed where a cell is needed."
    assert name in received and "cell" in expected
    assert "as it is" in fix and "pass its cell" in fix


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64", "uint8"])
@pytest.mark.parametrize(
    "make",
    [
        lambda dtype: cellkit.RNN(keras.layers.GRUCell(4), dtype=dtype),
        lambda dtype: cellkit.StackedCells([keras.layers.GRUCell(4)], dtype=dtype),
        lambda dtype: cellkit.Bidirectional(layer(), dtype=dtype),
        lambda dtype: cellkit.create("gru", units=3, dtype=dtype),
    ],
    ids=["RNN", "stack", "Bidirectional", "cell"],
)
def test_dtypes_that_nothing_computes_in(make, dtype):
    try:
        what, received, expected, _ = raised(make, dtype)
    except TypeError as error:
        # Keras itself knows no policy of that name.
        raise AssertionError(f"a {type(error).__name__}: {error}") from error
    assert "dtype" in what and dtype in received and "float" in expected


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "mixed_bfloat16"])
def test_dtypes_that_layers_compute_in(dtype):
    rnn = cellkit.RNN(cellkit.create("gru", units=3, dtype=dtype), dtype=dtype)
    assert keras.backend.standardize_dtype(rnn(X).dtype) == rnn.compute_dtype


def test_initial_states_that_a_dtype_cannot_hold():
    rnn = layer()
    what, received, expected, _ = raised(rnn, X, initial_state=[np.ones((2, 3), "complex64")])
    assert "dtype" in what and "complex64" in received and "float32" in expected

    class Counter(cellkit.Cell):
        @property
        def state_size(self):
            return [cellkit.TensorSpec(1, dtype="int32")]

        def step(self, inputs, states):
            return states[0], [states[0] + 1]

    count = cellkit.RNN(Counter(), return_state=True)
    _, state = count(X, initial_state=[np.full((2, 1), 2.0)])
    close(state, np.full((2, 1), 6))
    what, received, _, _ = raised(count, X, initial_state=[np.full((2, 1), 0.5)])
    assert "dtype" in what and "float" in received
    close(count(X, initial_state=[np.full((2, 1), 2)])[1], state)


@pytest.mark.parametrize("seed", ["a", 1.5, True, [1]])
def test_seeds_that_are_no_integers(seed):
    what, received, _, _ = raised(cellkit.create, "gru", units=3, seed=seed)
    assert "seed" in what and repr(seed) in received


def test_a_cell_without_a_state():
    class Stateless:
        state_size = ()

        def call(self, inputs, states):
            return inputs, states

    what, received, _, fix = raised(cellkit.RNN(Stateless()), X)
    assert "no state" in what and "[]" in received and "TimeDistributed" in fix


def test_initial_states_of_uneven_lists():
    what, *_ = raised(layer(), X, initial_state=[[[1.0, 2.0, 3.0], [1.0]]])
    assert "structure" in what
