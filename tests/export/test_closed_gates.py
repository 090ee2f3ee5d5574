"""Gates closed or open: the logarithm of a sigmoid, and a softplus, in files as in the layer."""

import keras
import numpy as np
import pytest
from cell_numbers import random_weights
from exporting import BACKEND, FORMATS, NAMES, data_for, expected, export, installed
from three_parts import raised

import cellkit

# Where the logarithm of a sigmoid is that of zero, and where an exponential overflows.
ZERO = (("jax", "onnx"), ("torch", "onnx"), ("torch", "openvino"))
OVERFLOWS = (("tensorflow", "litert"),)


class LogGate(cellkit.Cell):
    """Sums up the logarithms of a gate, by the function that it is given."""

    function = staticmethod(cellkit.cells.log_sigmoid)

    def build(self, input_shape):
        self.kernel = self.add_kernel((input_shape[-1], self.units))

    def step(self, projected, states):
        h = 0.5 * states[0] + self.function(keras.ops.matmul(projected, self.kernel))
        return h, [h]


class SoftplusGate(LogGate):
    """Sums up what is softly positive."""

    function = staticmethod(cellkit.cells.softplus)


class KerasLogGate(LogGate):
    """The same, as Keras has it."""

    function = staticmethod(keras.ops.log_sigmoid)


class KerasSoftplusGate(LogGate):
    """The same, as Keras has it."""

    function = staticmethod(keras.ops.softplus)


class KerasMishGate(LogGate):
    """The same with a function of a softplus that comes out right: the tanh of infinity is one."""

    function = staticmethod(keras.activations.mish)


def closed(cell, scale):
    """Return a model of a cell whose gates are closed, and open, as far as it goes."""
    layer = cellkit.RNN(cell, return_sequences=True, engine="loop")
    x = keras.Input(batch_shape=(3, 7, 5), name="a0")
    y = layer(x)
    random_weights(cell, np.random.default_rng(7))
    for variable in cell.trainable_variables:
        variable.assign(scale * variable)
    model = keras.Model(x, y)
    model.layer = layer
    return model


def compare(model, form, runtime, folder):
    if not installed(form) or (BACKEND == "jax" and form == "openvino"):
        pytest.skip(f"{form} is not written on {BACKEND}, or not installed")
    cellkit.check_export(model, NAMES.get(form, form), model.inputs)
    arrays = data_for(model, 3, 7)
    (got,) = runtime.run(form, export(model, form, folder), arrays)
    (want,) = expected(model, arrays)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize(
    ("form", "name", "options", "scale"),
    [
        *((form, "gla", {}, 3) for form in FORMATS),
        ("onnx", "slstm", {"forget_gate": "sigmoid"}, 20),
        ("onnx", "mlstm", {"forget_gate": "sigmoid"}, 20),
    ],
)
def test_gates_of_cells_are_closed_in_files(form, name, options, scale, runtime, tmp_path):
    compare(closed(cellkit.create(name, units=4, **options), scale), form, runtime, tmp_path)


@pytest.mark.parametrize("cell", [LogGate, SoftplusGate])
@pytest.mark.parametrize("form", FORMATS)
def test_a_gate_of_a_cell_of_ones_own_is_closed_in_files(form, cell, runtime, tmp_path):
    model = closed(cell(4), 60)
    assert np.abs(expected(model, data_for(model, 3, 7))[0]).max() > 90
    compare(model, form, runtime, tmp_path)


@pytest.mark.parametrize("cell", [KerasLogGate, KerasSoftplusGate, KerasMishGate])
@pytest.mark.parametrize("form", FORMATS)
def test_keras_function_is_right_or_refused(form, cell, runtime, tmp_path):
    model = closed(cell(4), 60)
    of_log = cell is KerasLogGate
    if ((BACKEND, form) in ZERO and of_log) or (BACKEND, form) in OVERFLOWS:
        what, received, _, fix = raised(lambda: cellkit.check_export(model, form))
        asked = "log_sigmoid" if (BACKEND, form) in ZERO else "softplus"
        assert asked in what.lower() and cell.__name__ in received
        assert f"cellkit.cells.{asked}" in fix
        if not installed(form):
            pytest.skip(f"what writes or runs {form} is not installed")
        # Or nothing need be refused.
        arrays = data_for(model, 3, 7)
        (got,) = runtime.run(form, export(model, form, tmp_path), arrays)
        assert cell is KerasMishGate or not np.allclose(got, expected(model, arrays)[0])
        return
    compare(model, form, runtime, tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logarithm_of_a_gate_has_the_digits_of_its_dtype(dtype):
    x = np.concatenate([np.linspace(-100, 100, 4001), [-40.0, 40.0, -1e4, 1e4]]).astype(dtype)
    given = keras.ops.convert_to_tensor(x)
    kind = np.finfo(keras.backend.standardize_dtype(given.dtype))
    exact = keras.ops.convert_to_numpy(given).astype("float64")
    got = keras.ops.convert_to_numpy(cellkit.cells.log_sigmoid(given))
    np.testing.assert_allclose(got, -np.logaddexp(0, -exact), rtol=8 * kind.eps, atol=kind.tiny)
    got = keras.ops.convert_to_numpy(cellkit.cells.softplus(given))
    # PyTorch's is the number itself beyond 20.
    bound = max(8 * kind.eps, 2e-9 / 20) if BACKEND == "torch" else 8 * kind.eps
    np.testing.assert_allclose(got, np.logaddexp(0, exact), rtol=bound, atol=kind.tiny)
