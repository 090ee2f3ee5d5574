"""Cells by their names: in a layer, and what is said when the arguments don't fit."""

import keras
import numpy as np
import pytest
from three_parts import parts, raised

import cellkit
from cellkit.layers.options import _OPTIONS
from cellkit.registry.registry import accepted_arguments

pytestmark = pytest.mark.one_backend


def data(*shape):
    return np.random.default_rng(7).normal(size=shape).astype("float32")


def first_case(name):
    return next(iter(cellkit.get(name).spec.cases.values()))


def test_a_name_makes_the_cell_with_its_arguments():
    x = data(3, 6, 4)
    named = cellkit.RNN("lstm", units=5, unit_forget_bias=False, return_sequences=True)
    cell = cellkit.create("lstm", units=5, unit_forget_bias=False)
    made = cellkit.RNN(cell, return_sequences=True)
    assert type(named.cell) is type(cell) and named.return_sequences
    for layer in (named, made):
        layer.build(x.shape)
    weights = [np.random.default_rng(k).normal(size=w.shape) for k, w in enumerate(named.weights)]
    for layer in (named, made):
        layer.set_weights(weights)
    got, want = (keras.ops.convert_to_numpy(layer(x)) for layer in (named, made))
    assert got.shape == (3, 6, 5)
    np.testing.assert_array_equal(got, want)


def config(layer):
    """Return what is saved of a layer, but for the names that Keras counts up."""

    def nameless(value):
        if isinstance(value, dict):
            return {k: nameless(v) for k, v in value.items() if k != "name"}
        return [nameless(v) for v in value] if isinstance(value, list) else value

    return nameless(layer.get_config())


@pytest.mark.one_backend
@pytest.mark.parametrize("name", sorted(cellkit.list_cells()))
def test_every_cell_is_serialised_as_the_cell(name):
    case = first_case(name)
    layer = cellkit.RNN(name, **case, return_state=True)
    assert config(layer) == config(cellkit.RNN(cellkit.create(name, **case), return_state=True))
    again = cellkit.RNN.from_config(layer.get_config())
    assert type(again.cell) is cellkit.get(name).cls and config(again) == config(layer)


def test_a_saved_model_with_a_layer_by_name_loads(tmp_path):
    x = data(2, 5, 3)
    model = keras.Sequential([keras.Input((5, 3)), cellkit.RNN("gru", units=4, name="by_name")])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("by_name").cell.units == 4
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-6, atol=1e-7
    )


def test_the_words_of_the_layer_are_the_layers_and_the_dtype_is_both():
    layer = cellkit.RNN("gru", units=3, name="mine", dtype="mixed_bfloat16", trainable=False)
    assert layer.name == "mine" and layer.cell.name != "mine" and not layer.trainable
    assert layer.compute_dtype == layer.cell.compute_dtype == "bfloat16"
    assert layer.variable_dtype == layer.cell.variable_dtype == "float32"


def test_a_list_may_hold_names():
    layer = cellkit.RNN(["lstm", cellkit.create("gru", units=2), "janet"], units=4)
    assert [type(cell).__name__ for cell in layer.cell.cells] == [
        "LSTMCell",
        "GRUCell",
        "JANETCell",
    ]
    assert [cell.units for cell in layer.cell.cells] == [4, 2, 4]
    assert tuple(layer(data(2, 3, 5)).shape) == (2, 4)


def test_a_layer_around_a_layer_by_name():
    both = cellkit.Bidirectional(cellkit.RNN("lstm", units=3, return_sequences=True))
    assert tuple(both(data(2, 4, 5)).shape) == (2, 4, 6)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", sorted(cellkit.list_cells()))
def test_no_cell_has_an_argument_that_the_layer_would_take(name):
    assert not set(accepted_arguments(cellkit.get(name).cls)) & set(_OPTIONS)


def test_a_misspelt_option_of_the_layer_is_not_taken_for_one_of_the_cell():
    what, received, expected, fix = raised(cellkit.RNN, "lstm", units=3, return_sequence=True)
    assert what == "Neither the layer nor the cell 'lstm' has an option `return_sequence`."
    assert received == "return_sequence=True" and "return_sequences" in expected
    assert fix == "did you mean `return_sequences`?"


def test_an_unknown_name_is_told():
    what, _, _, fix = raised(cellkit.RNN, "lsmt", units=3)
    assert what == "There is no cell 'lsmt'." and "did you mean 'lstm'" in fix


def test_keywords_of_a_cell_without_a_name_are_told():
    what, received, _, _ = raised(cellkit.RNN, cellkit.create("lstm", units=3), units=4)
    assert what == "RNN has no option `units`." and received == "units=4"


# --- the arguments of a cell -------------------------------------------------------------------


def advised(fix):
    """Run the call that an advice gives."""
    return eval(fix[fix.index("cellkit.create(") :], {"cellkit": cellkit})


@pytest.mark.one_backend
@pytest.mark.parametrize("name", sorted(cellkit.list_cells()))
@pytest.mark.parametrize("kwargs", [{}, {"units": 4}, {"unit": 4}, {"no_such_thing": 1}])
def test_the_advice_on_arguments_works(name, kwargs):
    try:
        cellkit.create(name, **kwargs)
    except ValueError as error:
        if "cellkit.create(" in str(error):
            assert isinstance(advised(str(error)), cellkit.get(name).cls)
        else:
            assert any(said in parts(error)[3] for said in ("did you mean", "remove it", "units="))


def test_a_wrong_name_for_the_width_of_a_convolutional_cell():
    what, received, expected, fix = raised(cellkit.create, "conv_lstm", units=4)
    assert what == "The cell 'conv_lstm' has no argument 'units'."
    assert received == "units=4" and expected.startswith("filters, kernel_size; optional: ")
    case = first_case("conv_lstm")
    assert fix == (
        f"write cellkit.create('conv_lstm', filters={case['filters']}, "
        f"kernel_size={case['kernel_size']!r})"
    )


def test_a_misspelt_argument_that_has_to_be_given():
    what, received, expected, fix = raised(cellkit.create, "lstm", unit=4, dropout=0.5)
    assert what == "The cell 'lstm' has no argument 'unit'."
    assert received == "unit=4, dropout=0.5" and expected.startswith("units; optional: ")
    assert fix == "did you mean 'units'? write cellkit.create('lstm', dropout=0.5, units=4)"
    assert advised(fix).units == 4


def test_a_missing_argument():
    what, received, expected, fix = raised(cellkit.create, "conv_lstm", filters=7)
    assert what == "The cell 'conv_lstm' lacks an argument."
    assert received == "filters=7" and expected == "filters, kernel_size"
    assert advised(fix).filters == 7
