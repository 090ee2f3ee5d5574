"""The step of a layer as a model of its own: the same numbers, here and in another process."""

import keras
import numpy as np
import pytest
from cell_numbers import random_weights
from exporting import (
    BACKEND,
    FORMATS,
    chosen,
    constants_of,
    export,
    installed,
    nested,
    shapes_of,
    shapes_of_constants,
)
from three_parts import raised

import cellkit

STEPS = 5
CELLS = chosen(cellkit.list_cells(), ("gru", "nested"))


def built(name, **options):
    found = cellkit.get(name)
    layer = cellkit.RNN(
        found.cls(**next(iter(found.spec.cases.values()))),
        return_sequences=True,
        return_state=True,
        **options,
    )
    leaves, structure = shapes_of(name)
    shapes = [(None, *s) for s in shapes_of_constants(name)]
    sequences = nested(structure, [(None, None, *s) for s in leaves])
    layer.build(sequences, constants_shape=shapes or None)
    random_weights(layer.cell, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    xs = [np.abs(rng.normal(size=(2, STEPS, *s))).astype("float32") for s in leaves]
    inputs = nested(structure, xs)
    return layer, keras.tree.flatten(inputs), inputs


def numbers(values):
    return [np.asarray(keras.ops.convert_to_numpy(y)) for y in keras.tree.flatten(values)]


def streamed(step, layer, xs, constants=()):
    """Run a function of one step over a sequence, and return what the layer returns."""
    states, outputs = numbers(layer.get_initial_state(2)), []
    for t in range(STEPS):
        results = step([*(x[:, t] for x in xs), *constants, *states])
        count = len(results) - len(states)
        outputs.append(results[:count])
        states = results[count:]
    return [np.stack(ys, axis=1) for ys in zip(*outputs, strict=True)] + list(states)


def compare(got, want):
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.part(2)
@pytest.mark.parametrize("name", CELLS)
def test_steps_give_what_the_layer_gives(name):
    layer, xs, inputs = built(name)
    model, constants = cellkit.step_model(layer), constants_of(name, 2)
    got = streamed(lambda arrays: numbers(model(arrays)), layer, xs, constants)
    compare(got, numbers(layer(inputs, constants=constants or None)))


@pytest.mark.parametrize("name", ["gru", "nested"])
@pytest.mark.parametrize("form", FORMATS)
def test_steps_run_where_cellkit_is_not_to_be_had(form, name, runtime, tmp_path):
    if not installed(form) or (BACKEND == "jax" and form == "openvino"):
        pytest.skip(f"{form} is not written on {BACKEND}, or not installed")
    layer, xs, inputs = built(name)
    path = export(cellkit.step_model(layer), form, tmp_path)
    got = streamed(lambda arrays: runtime.run(form, path, arrays), layer, xs)
    compare(got, numbers(layer(inputs)))


def test_a_model_of_steps_has_the_weights_of_the_layer_and_leaves_its_states():
    layer = cellkit.RNN(cellkit.create("lstm", units=3), stateful=True)
    x = np.ones((2, 4, 5), "float32")
    layer(x)
    kept = numbers(layer.states)
    model = cellkit.step_model(layer, batch_size=2)
    assert [v.path for v in model.variables] == [v.path for v in layer.cell.variables]
    model([x[:, 0], *kept])
    for one, other in zip(numbers(layer.states), kept, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [i.name for i in model.inputs] == ["inputs", "state_h", "state_c"]


def test_inputs_are_called_by_their_keys():
    layer, _, _ = built("gru_d")
    names = [i.name for i in cellkit.step_model(layer).inputs]
    assert names[:3] == ["inputs_dt", "inputs_observed", "inputs_values"]


def test_layers_without_a_step_of_their_own_are_refused():
    layer = cellkit.RNN(cellkit.create("gru", units=2), go_backwards=True)
    assert "not built" in str(raised(lambda: cellkit.step_model(layer)))
    layer.build((None, None, 3))
    assert "backwards" in str(raised(lambda: cellkit.step_model(layer)))
    both = cellkit.Bidirectional(cellkit.RNN(cellkit.create("gru", units=2)))
    assert "Bidirectional" in str(raised(lambda: cellkit.step_model(both)))
