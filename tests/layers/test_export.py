"""Exported for another program: any batch, and where the backend loops by itself, any length."""

import warnings

import keras
import numpy as np
import pytest
from cell_numbers import random_weights

import cellkit

BACKEND = keras.backend.backend()


def data(rows, steps):
    rng = np.random.default_rng(rows)
    return rng.normal(size=(rows, steps, 3)).astype("float32"), rng.random((rows, steps)) > 0.3


def exported(layer, masked, tmp_path):
    """Export a layer that has seen 4 rows of 6 steps, as a function of other rows and steps."""
    x, mask = data(4, 6)
    arguments = (x, mask)[: 1 + masked]

    def call(x, mask=None):
        return layer(x, mask=mask)

    if BACKEND == "jax":
        import jax
        from jax import export

        sizes = export.symbolic_shape("b, t")
        given = [jax.ShapeDtypeStruct((*sizes, *a.shape[2:]), a.dtype) for a in arguments]
        return export.export(jax.jit(call))(*given).call
    if BACKEND == "tensorflow":
        import tensorflow as tf

        given = [tf.TensorSpec((None, None, *a.shape[2:]), a.dtype) for a in arguments]
        archive = keras.export.ExportArchive()
        archive.track(layer)
        archive.add_endpoint("call", call, input_signature=given)
        archive.write_out(str(tmp_path), verbose=False)
        loaded = tf.saved_model.load(str(tmp_path))
        return lambda *arguments: loaded.call(*map(tf.constant, arguments))
    import torch

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, *arguments):
            return call(*arguments)

    given = tuple(torch.tensor(a) for a in arguments)
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(
        Module().eval(), given, dynamic_shapes=(tuple({0: rows} for _ in given),), strict=False
    )
    return lambda *arguments: program.module()(*map(torch.tensor, arguments))


@pytest.mark.slow
@pytest.mark.part(2)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lstm", {"return_sequences": True}),
        ("peephole_lstm", {"go_backwards": True}),
        ("min_gru", {}),
        ("min_gru", {"return_sequences": True, "return_state": True}),
        ("gru", {"remat": True}),
    ],
)
def test_an_exported_layer_takes_other_rows_and_steps(name, options, masked, tmp_path):
    layer = cellkit.RNN(cellkit.create(name, units=5), **options)
    layer(data(4, 6)[0])
    random_weights(layer.cell, np.random.default_rng(1))
    function = exported(layer, masked, tmp_path)
    # PyTorch writes a loop out step by step: the number of steps is part of what is exported.
    for rows, steps in ((3, 6), (2, 6 if BACKEND == "torch" else 9)):
        x, mask = data(rows, steps)
        want = keras.tree.flatten(layer(x, mask=mask if masked else None))
        got = keras.tree.flatten(function(*(x, mask)[: 1 + masked]))
        for one, other in zip(got, want, strict=True):
            one, other = (keras.ops.convert_to_numpy(y) for y in (one, other))
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(BACKEND != "jax", reason="others export no gradients, or no loop")
def test_an_exported_gradient_is_truncated_where_the_layer_says():
    import jax
    from jax import export

    layer = cellkit.RNN(cellkit.create("lstm", units=4), truncate_gradient=3)
    x, _ = data(2, 7)
    layer(x)
    random_weights(layer.cell, np.random.default_rng(1))
    rows, steps = export.symbolic_shape("b, t")
    given = jax.ShapeDtypeStruct((rows, steps, 3), "float32")
    program = export.export(jax.jit(layer))(given)
    _, back = jax.vjp(program.call, x)
    (got,) = back(np.ones((2, 4), "float32"))
    (want,) = jax.vjp(layer, x)[1](np.ones((2, 4), "float32"))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    assert not np.asarray(got)[:, :6].any() and np.asarray(got)[:, 6].all()


class Dividing(cellkit.Cell):
    """Calls operations by names that PyTorch has several of."""

    def build(self, input_shape):
        self.kernel = self.add_kernel((input_shape[-1], self.units))
        self.scale = self.add_weight(shape=(self.units,), name="scale", initializer="ones")

    def step(self, projected, states):
        h = keras.ops.arctan(keras.ops.matmul(projected, self.kernel) - states[0] / self.scale)
        h = keras.ops.where(keras.ops.greater(h, 0), h, keras.ops.negative(h))
        return keras.ops.divide(h, 2.0 + keras.ops.abs(states[0])), [h]


@pytest.mark.skipif(BACKEND != "torch", reason="only PyTorch's trace keeps such names")
@pytest.mark.parametrize("stream", [False, True])
def test_a_trace_has_the_first_names_of_operations(stream):
    import torch

    layer = cellkit.RNN(Dividing(4))
    layer.build((2, 5, 3))
    random_weights(layer.cell, np.random.default_rng(0))
    shapes = ((2, 3), (2, 4)) if stream else ((2, 5, 3),)
    rng = np.random.default_rng(1)
    arguments = [torch.tensor(rng.normal(size=s), dtype=torch.float32) for s in shapes]
    model = cellkit.step_model(layer) if stream else keras.Sequential([layer])

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, *arguments):
            found = self.model(list(arguments) if stream else arguments[0])
            return tuple(keras.tree.flatten(found))

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of branches that a trace does not hold
        program = torch.jit.trace(Module().eval(), tuple(arguments), check_trace=False)
        got, want = program(*arguments), Module()(*arguments)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    text = str(program.inlined_graph)
    assert "aten::div(" in text and "aten::atan(" in text
    for alias in ("divide", "arctan", "greater", "negative"):
        assert f"aten::{alias}(" not in text
