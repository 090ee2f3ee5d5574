"""Mistakes that people make, and the text that helps: each advice is followed, and works."""

import keras
import numpy as np
import pytest
from three_parts import parts, raised

import cellkit
from cellkit.cells import named

rng = np.random.default_rng(5)


def data(*shape):
    return rng.normal(size=shape).astype("float32")


# --- a bare cell -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lstm", "conv_lstm", "nested", "min_gru"])
def test_a_cell_without_states(name):
    case = next(iter(cellkit.get(name).spec.cases.values()))
    cell = cellkit.create(name, **case)
    what, received, expected, fix = raised(cell, data(2, 3))
    assert what == (
        f"{type(cell).__name__} is one step of a recurrence, and was called without states."
    )
    assert received == "inputs (2, 3) and no states" and "cell(inputs, states)" in expected
    assert "wrap it in `cellkit.RNN(cell)`" in fix and "cell.get_initial_state(batch_size)" in fix


def test_a_cell_in_the_place_of_a_layer():
    model = keras.Sequential([keras.Input((None, 3))])
    _, received, _, fix = raised(model.add, cellkit.create("gru", units=4))
    assert received == "inputs (None, None, 3) and no states" and "cellkit.RNN(cell)" in fix


@pytest.mark.parametrize(
    ("states", "received"),
    [
        (None, "a NoneType"),
        ([data(2, 4)], "[(2, 4)]"),
        (data(2, 4), "(2, 4)"),
        ({"h": data(2, 4), "c": data(2, 4)}, "{'h': (2, 4), 'c': (2, 4)}"),
        ([data(2, 4), data(2, 5)], "[(2, 4), (2, 5)], beside inputs (2, 3)"),
        ([data(2, 4), data(4)], "[(2, 4), (4,)], beside inputs (2, 3)"),
        ([data(3, 4), data(3, 4)], "[(3, 4), (3, 4)], beside inputs (2, 3)"),
    ],
)
def test_states_of_another_cell(states, received):
    what, got, expected, fix = raised(cellkit.create("lstm", units=4), data(2, 3), states)
    assert what == "The states that LSTMCell was called with are not its states."
    assert got == received
    assert expected == "[(batch, 4), (batch, 4)], with the batch of the inputs"
    assert fix == "pass what `cell.get_initial_state(batch_size)` or the step before returned"


def test_states_of_another_dtype():
    cell, x = cellkit.create("lstm", units=4), data(2, 3)
    what, received, expected, fix = raised(cell, x, [data(2, 4).astype("complex64"), data(2, 4)])
    assert what == "A state does not fit the dtype of the cell's state."
    assert received == "a state of dtype complex64" and expected.startswith("dtype float32")
    assert "keras.ops.cast(state, 'float32')" in fix
    assert (
        raised(cellkit.RNN(cell), x[:, None], initial_state=[1j * data(2, 4), data(2, 4)])[0]
        == what
    )


def test_inputs_of_another_size_than_before():
    cell = cellkit.create("lstm", units=4)
    states = cell.get_initial_state(2)
    cell(data(2, 3), states)
    what, received, expected, _ = raised(cell, data(2, 5), states)
    assert what == "The inputs do not fit the ones that LSTMCell was built for."
    assert (received, expected) == ("inputs of shape (2, 5)", "(batch, 3)")
    assert tuple(cell(data(2, 3), states)[0].shape) == (2, 4)


def test_states_that_fit_are_taken_in_any_form():
    cell, x = cellkit.create("lstm", units=4), data(2, 3)
    h, c = data(2, 4), data(2, 4)
    want = keras.ops.convert_to_numpy(cell(x, [h, c])[0])
    for states in ((h, c), [h.tolist(), c], [h.astype("float64"), keras.ops.convert_to_tensor(c)]):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(cell(x, states)[0]), want, rtol=1e-6, atol=1e-7
        )
    y, new = cell(x, cell.get_initial_state(2))
    assert tuple(y.shape) == (2, 4) and len(new) == 2


# --- inputs without a time axis ----------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(cellkit.list_cells()))
def test_inputs_without_a_time_axis(name):
    registered = cellkit.get(name)
    layer = cellkit.RNN(name, **next(iter(registered.spec.cases.values())))
    sizes = {size: n if isinstance(n, int) else n[0] for size, n in registered.spec.dims.items()}

    def inputs(shape):
        if isinstance(shape, dict):
            return {key: inputs(value) for key, value in shape.items()}
        if isinstance(shape, list) or not all(isinstance(size, (int, str)) for size in shape):
            return [inputs(entry) for entry in shape]
        return np.abs(data(4, *(sizes.get(s, 3) if isinstance(s, str) else s for s in shape)))

    given = {}
    if registered.spec.constants is not None:
        given["constants"] = inputs(registered.spec.constants)
    what, _, expected, fix = raised(layer, inputs(registered.spec.inputs), **given)
    assert what == "The inputs have no time axis." and expected.startswith("(batch, time, ...)")
    assert "keras.Input((time, features))" in fix and "x[:, None]" in fix


def test_the_advice_on_the_time_axis_works():
    layer, x = cellkit.RNN("gru", units=4), data(5, 3)
    assert "x[:, None]" in raised(layer, x)[3]
    assert tuple(layer(x[:, None]).shape) == (5, 4)


def test_symbolic_inputs_and_stock_cells_and_stacks():
    for cell in ("lstm", keras.layers.LSTMCell(4), ["gru", "lstm"]):
        words = {} if isinstance(cell, keras.layers.Layer) else {"units": 4}
        what, received, _, _ = raised(cellkit.RNN(cell, **words), keras.Input((7,)))
        assert what == "The inputs have no time axis." and "(None, 7)" in received


@pytest.mark.parametrize("shape", [(5, 3), (5, 4, 4, 3)])
def test_both_directions_say_that_the_time_axis_is_missing(shape):
    kind = "lstm" if len(shape) == 2 else "conv_lstm"
    words = {"units": 4} if len(shape) == 2 else {"filters": 2, "kernel_size": 3}
    layer = cellkit.Bidirectional(cellkit.RNN(kind, **words))
    what, received, _, fix = raised(layer, data(*shape))
    assert what == "The inputs have no time axis." and str(shape) in received
    assert "x[:, None]" in fix
    assert layer(data(*shape)[:, None]).shape[0] == 5


def test_a_single_sequence_of_numbers():
    layer, x = cellkit.RNN("gru", units=4), data(7)
    what, received, _, fix = raised(layer, x)
    assert what == "The inputs of RNN lack a batch or a time axis." and "(7,)" in received
    assert "`x[None, :, None]` for a single sequence of numbers" in fix
    assert tuple(layer(x[None, :, None]).shape) == (1, 4)


def test_inputs_written_out_as_lists():
    x = [[[1.0, 2.0], [3.0, 4.0]]]
    for layer in (
        cellkit.RNN("gru", units=4),
        cellkit.Bidirectional(cellkit.RNN("gru", units=4)),
    ):
        want = keras.ops.convert_to_numpy(layer(np.asarray(x, "float32")))
        np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(x)), want, rtol=1e-6)


def test_an_unknown_number_of_features():
    what, _, _, fix = raised(cellkit.RNN("lstm", units=4), keras.Input((None, None)))
    assert what == "LSTMCell must know the number of features."
    assert "`keras.Input((None, 8))`" in fix
    assert cellkit.RNN("lstm", units=4)(keras.Input((None, 8))).shape == (None, 4)


def test_several_inputs_for_a_cell_of_one():
    inputs = [data(2, 5, 3), data(2, 5, 1)]
    _, _, _, fix = raised(cellkit.RNN("lstm", units=4), inputs)
    assert fix.startswith("join the inputs into one, e.g. `keras.ops.concatenate(inputs, axis=-1)`")
    joined = keras.ops.concatenate(inputs, axis=-1)
    assert tuple(cellkit.RNN("lstm", units=4)(joined).shape) == (2, 4)


def test_a_cell_of_scalars_needs_no_features():
    class Sum:
        state_size = [cellkit.TensorSpec(())]

        def call(self, inputs, states, training=False):
            return states[0] + inputs, [states[0] + inputs]

    x = data(3, 5)
    got = keras.ops.convert_to_numpy(cellkit.RNN(Sum())(x))
    np.testing.assert_allclose(got, x.sum(axis=1), rtol=1e-5, atol=1e-6)


def test_a_step_with_too_many_axes_is_still_told_to_flatten():
    x = data(2, 5, 3, 2)
    _, _, _, fix = raised(cellkit.RNN("lstm", units=4), x)
    assert fix.startswith("flatten what a step holds") and "(batch, time, -1)" in fix
    flat = keras.ops.reshape(x, (2, 5, -1))
    assert tuple(cellkit.RNN("lstm", units=4)(flat).shape) == (2, 4)


# --- a cell by its name ------------------------------------------------------------------------


def test_arguments_without_keywords():
    what, received, _, fix = raised(cellkit.create, "lstm", 4)
    assert what == "The arguments of a cell that is made by its name go by keyword."
    assert received == "cellkit.create('lstm', 4)"
    assert fix == "write e.g. cellkit.create('lstm', units=4)"
    what, _, _, fix = raised(cellkit.RNN, "lstm", 4)
    assert what == "`return_sequences` of RNN is neither True nor False."
    assert fix == "write e.g. cellkit.RNN('lstm', units=4)"
    assert cellkit.RNN("lstm", True, units=4).return_sequences


@pytest.mark.parametrize(
    ("maker", "words", "advice"),
    [
        ("RNN", {"unit": 4}, "did you mean 'units'? write cellkit.RNN('lstm', units=4)"),
        ("create", {"unit": 4}, "did you mean 'units'? write cellkit.create('lstm', units=4)"),
        ("RNN", {}, "write cellkit.RNN('lstm', units=4)"),
    ],
)
def test_the_advice_names_what_was_called(maker, words, advice):
    assert raised(getattr(cellkit, maker), "lstm", **words)[3] == advice


@pytest.mark.parametrize("units", [None, 0, -1, 2.5, "4", True, [4]])
def test_units_that_are_no_number_of_units(units):
    what, received, expected, _ = raised(cellkit.create, "lstm", units=units)
    assert what == "`units` of LSTMCell is not a positive integer."
    assert (received, expected) == (f"units={units!r}", "an int of 1 or more")


def test_what_is_no_cell():
    for wrong in (4, None, keras.layers.Dense(2)):
        what, received, _, fix = raised(cellkit.RNN, wrong)
        assert what == "This object is not a recurrent cell."
        assert received.startswith(f"{wrong!r}, of type {type(wrong).__name__}, without")
        assert "`cellkit.create('lstm', units=32)`" in fix
    what = raised(cellkit.RNN, keras.layers.LSTMCell, units=4)[0]
    assert what == "A class of cells was passed instead of a cell."
    _, _, _, fix = raised(cellkit.Bidirectional, "lstm")
    assert fix == "make one of the cell first: `Bidirectional(cellkit.RNN('lstm', units=32))`"


# --- what a call is given ----------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda layer: layer, cellkit.Bidirectional])
def test_a_misspelt_argument_of_a_call(wrap):
    layer = wrap(cellkit.RNN("gru", units=2))
    what, received, expected, fix = raised(layer, data(2, 4, 3), masks=np.ones((2, 4), bool))
    assert what == f"A call of {type(layer).__name__} has no argument 'masks'."
    assert received == "masks=..." and "lengths" in expected and fix == "did you mean 'mask'?"


@pytest.mark.parametrize(
    ("mask", "received", "advice"),
    [
        (np.ones((2, 3), bool), "a mask of shape (2, 3)", "cut or pad it"),
        (np.ones((2, 4, 3), bool), "a mask of shape (2, 4, 3)", "keras.ops.any(mask, axis=-1)"),
        (np.ones(4, bool), "a mask of shape (4,)", "keras.ops.broadcast_to(mask, (batch, time))"),
        (True, "mask=True", "leave it out where every step counts"),
        ("yes", "mask='yes'", "leave it out where every step counts"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda layer: layer, cellkit.Bidirectional])
def test_masks_of_another_shape(wrap, mask, received, advice):
    what, got, _, fix = raised(wrap(cellkit.RNN("gru", units=2)), data(2, 4, 3), mask=mask)
    assert what == "The mask does not fit the inputs." and got == received and advice in fix


def test_the_advice_on_one_mask_for_all_rows_works():
    mask = keras.ops.broadcast_to(np.array([True, True, False, False]), (2, 4))
    assert tuple(cellkit.RNN("gru", units=2)(data(2, 4, 3), mask=mask).shape) == (2, 2)


def test_masks_that_are_no_flags():
    layer = cellkit.RNN("gru", units=2)
    _, received, _, fix = raised(layer, data(2, 4, 3), mask=np.full((2, 4), 0.3, "float32"))
    assert received == "a mask of dtype float32 that holds 0.3" and "`mask > 0.5`" in fix
    _, _, _, fix = raised(layer, data(2, 4, 3), mask=np.full((2, 4), "padding"))
    assert "`mask != 'padding'`" in fix


@pytest.mark.parametrize(
    "states", [[data(2, 4)], data(2, 4), {"h": data(2, 4)}, "zeros", [data(2, 4)] * 2]
)
def test_states_of_two_directions(states):
    layer = cellkit.Bidirectional(cellkit.RNN("lstm", units=4))
    what, _, expected, fix = raised(layer, data(2, 5, 3), initial_state=states)
    assert what == "The initial states cannot be divided between the two directions."
    assert expected.endswith("[(batch, 4), (batch, 4)] and [(batch, 4), (batch, 4)]")
    assert "[*forward_states, *backward_states]" in fix
    one = [data(2, 4), data(2, 4)]
    assert tuple(layer(data(2, 5, 3), initial_state=[*one, *one]).shape) == (2, 8)


@pytest.mark.parametrize("seed", [-1, 2**31, 2**40])
def test_seeds_that_not_every_backend_takes(seed):
    cell = cellkit.create("gru", units=2, dropout=0.5, seed=seed)
    assert cell.get_config()["seed"] == seed
    assert tuple(cellkit.RNN(cell)(data(2, 4, 3), training=True).shape) == (2, 2)


# --- misspelt names ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "misspelt", "meant"),
    [
        ("activation", "tahn", "tanh"),
        ("recurrent_activation", "hardsigmoid", "hard_sigmoid"),
        ("kernel_initializer", "glorot_unifrom", "glorot_uniform"),
        ("recurrent_initializer", "Ortogonal", "orthogonal"),
        ("bias_initializer", "zeroes", "zeros"),
        ("kernel_regularizer", "l1l3", "l1l2"),
        ("bias_constraint", "nonneg", "non_neg"),
    ],
)
def test_misspelt_names(argument, misspelt, meant):
    what, received, expected, fix = raised(cellkit.create, "lstm", units=3, **{argument: misspelt})
    assert what.startswith(f"`{argument}` of LSTMCell does not name a")
    assert received == f"{argument}={misspelt!r}" and meant in expected
    assert fix.startswith("did you mean ") and repr(meant) in fix
    cellkit.create("lstm", units=3, **{argument: meant})


@pytest.mark.parametrize(
    ("cell", "argument"),
    [
        ("peephole_lstm", "peephole_initializer"),
        ("gru_d", "decay_initializer"),
        ("cfc", "backbone_activation"),
    ],
)
def test_misspelt_names_of_arguments_of_one_cell(cell, argument):
    what, received, _, _ = raised(cellkit.create, cell, units=3, **{argument: "nonsense"})
    assert f"`{argument}`" in what and received == f"{argument}='nonsense'"


@pytest.mark.parametrize("value", [3, object(), ["tanh"]])
def test_values_that_name_nothing(value):
    what, received, _, fix = raised(cellkit.create, "gru", units=3, activation=value)
    assert "`activation`" in what and received == f"activation={value!r}"
    assert "did you mean" not in fix


@pytest.mark.one_backend
@pytest.mark.parametrize("kind", sorted(named._KINDS))
def test_every_name_that_a_message_offers_is_taken(kind):
    _, module, get = named._KINDS[kind]
    names = named._names(module, get)
    assert len(names) > 3 and kind not in names
    for name in names:
        get(name)


@pytest.mark.parametrize(
    "make",
    [
        lambda **k: cellkit.create("lstm", units=3, **k),
        lambda **k: cellkit.RNN(cellkit.create("lstm", units=3), **k),
        lambda **k: cellkit.RNN("lstm", units=3, **k),
    ],
)
def test_misspelt_dtypes_and_regularizers_of_the_activity(make):
    what, received, expected, fix = raised(make, dtype="flaot32")
    assert what.endswith("names neither a dtype nor a policy.") and received == "dtype='flaot32'"
    assert "bfloat16" in expected and "did you mean 'float32'" in fix
    what, received, _, fix = raised(make, activity_regularizer="l1l3")
    assert "`activity_regularizer`" in what and "'l1l2'" in fix
    assert make(dtype="mixed_bfloat16").compute_dtype == "bfloat16"


def test_objects_and_configurations_are_taken_as_before():
    policy = keras.DTypePolicy("mixed_float16")
    initializer = keras.initializers.serialize(keras.initializers.Orthogonal(gain=2.0))
    cell = cellkit.create(
        "lstm",
        units=3,
        dtype=policy,
        activation=keras.ops.relu,
        recurrent_initializer=initializer,
        kernel_regularizer=None,
    )
    assert cell.dtype_policy.name == "mixed_float16" and cell.recurrent_initializer.gain == 2.0


# --- the mask of an inner sequence -------------------------------------------------------------


# From Keras 3.16 on, its wrapper hands no mask on, and says so.
@pytest.mark.filterwarnings(r"ignore:.*of type TimeDistributed\) was passed an input with a mask")
def test_a_mask_that_time_distributed_hands_on():
    ids = rng.integers(0, 5, size=(2, 4, 3))
    ids[1, 3] = 0

    def model(**mask):
        inputs = keras.Input((4, 3), dtype="int32")
        words = keras.layers.Embedding(5, 6, mask_zero=True)(inputs)
        sentences = keras.layers.TimeDistributed(cellkit.RNN("gru", units=3))(words)
        given = {key: make(inputs) for key, make in mask.items()}
        return keras.Model(inputs, cellkit.RNN("gru", units=2, name="above")(sentences, **given))

    if keras.layers.TimeDistributed(keras.layers.Dense(2)).supports_masking:
        with pytest.raises(ValueError, match="The mask that an earlier layer") as error:
            model()(ids)
        text = str(error.value)
        begin = text.index("The mask that an earlier layer")
        what, received, expected, fix = parts(
            text[begin : text.index("hands that on") + len("hands that on")]
        )
        assert what == (
            "The mask that an earlier layer has attached to the inputs does not fit them."
        )
        assert received == "a mask of shape (2, 4, 3), for inputs of shape (2, 4, 3)"
        assert expected == "(2, 4) or (2, 4, 1): one value per row and time step"
        assert "mask=keras.ops.any(inner, axis=-1)" in fix and "TimeDistributed" in fix
    else:
        assert tuple(model()(ids).shape) == (2, 2)
    mended = model(mask=lambda x: keras.ops.any(keras.ops.not_equal(x, 0), axis=-1))
    assert tuple(mended(ids).shape) == (2, 2)


def test_a_mask_that_was_passed_is_told_as_one_that_was_passed():
    what, received, _, _ = raised(
        cellkit.RNN("gru", units=2), data(2, 4, 3), mask=np.ones((2, 4, 3), bool)
    )
    assert what == "The mask does not fit the inputs." and received == "a mask of shape (2, 4, 3)"
