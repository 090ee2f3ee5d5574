"""The fused engines of JAX and TensorFlow: any step, differentiated once per sequence."""

import keras
import numpy as np
import pytest
from cell_numbers import DTYPE
from engine_runs import BATCH, FEATURES, MASK, TIME, assert_equal, data, initial, layer_of, npy
from keras import ops
from three_parts import raised

import cellkit

BACKEND = keras.backend.backend()
if BACKEND == "torch":
    pytest.skip("PyTorch's fused engine is another one", allow_module_level=True)


@pytest.mark.parametrize(
    "cell",
    [
        ("gru", {"units": 4}),
        ("gru", {"units": 4, "reset_after": False, "dropout": 0.4, "recurrent_dropout": 0.3}),
        ("peephole_lstm", {"units": 4, "recurrent_dropout": 0.3}),
        ("layer_norm_lstm", {"units": 4}),
        ("nested_lstm", {"units": 4}),
        ("phased_lstm", {"units": 4}),
    ],
    ids=lambda cell: cell[0],
)
def test_a_step_of_any_kind(cell):
    timed = cell[0] == "phased_lstm"
    shape = (None, None, FEATURES)
    layer = layer_of(cell, (shape, (None, None, 1)) if timed else shape, return_sequences=True)
    x = data((BATCH, TIME, FEATURES))
    if timed:
        x = (x, np.cumsum(np.abs(data((BATCH, TIME, 1), seed=9)), axis=1))
    assert_equal(layer, "fused", x, initial(layer), mask=MASK, training=True)


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX alone")
@pytest.mark.parametrize("ahead", [0, 10**9])
def test_steps_are_fetched_ahead_or_not(ahead, monkeypatch):
    from cellkit.engines.jax import fused as fused_jax

    monkeypatch.setattr(fused_jax, "AHEAD", ahead)
    layer = layer_of(("peephole_lstm", {"units": 4}), return_sequences=True, go_backwards=True)
    x = data((BATCH, TIME, FEATURES))
    assert_equal(layer, "fused", x, initial(layer), mask=MASK, training=True)


class Twice(cellkit.Cell):
    """Two products in a row, one of them with a weight that is used otherwise as well."""

    def build(self, input_shape):
        super().build(input_shape)
        self.kernel = self.add_kernel((input_shape[-1], self.units))
        self.recurrent_kernel = self.add_recurrent_kernel((self.units, self.units))
        self.scale = self.add_weight(shape=(self.units,), name="scale")

    def step(self, inputs, states):
        u = self.recurrent_kernel
        h = ops.tanh(cellkit.cells.matmul(inputs, self.kernel) + self.scale * states[0])
        h = ops.tanh(cellkit.cells.matmul(h * states[0], u) + cellkit.cells.matmul(h, u))
        return h * states[0], [h + ops.sum(u) * self.scale]


def test_products_of_products_and_of_inputs_that_are_not_projected():
    layer = layer_of(Twice(4, dtype=DTYPE), return_sequences=True)
    assert_equal(layer, "fused", data((BATCH, TIME, FEATURES)), initial(layer), mask=MASK)


def test_steps_backwards_with_zeros_where_masked():
    layer = layer_of(
        ("lstm", {"units": 4}),
        return_sequences=True,
        go_backwards=True,
        zero_output_for_mask=True,
    )
    assert_equal(layer, "fused", data((BATCH, TIME, FEATURES)), mask=MASK)


def test_many_rows_are_left_to_the_loop():
    layer = cellkit.RNN(cellkit.create("lstm", units=64))
    layer.build((None, 2, 64))

    def call(x):
        return layer(x, training=True)

    for rows, engine in ((16, "fused"), (512, "loop")):
        if BACKEND == "jax":
            import jax

            jax.eval_shape(call, jax.ShapeDtypeStruct((rows, 2, 64), "float32"))
        else:
            import tensorflow as tf

            spec = tf.TensorSpec((rows, 2, 64))
            tf.function(call, autograph=False).get_concrete_function(spec)
        assert layer.engine_report().engine == engine
    assert "with 512 rows a step keeps more" in layer.engine_report().reasons["fused"]


class Counting(cellkit.get("lstm").cls):
    """Adds a loss at every step."""

    def step(self, projected, states):
        output, states = super().step(projected, states)
        self.add_loss(ops.sum(output))
        return output, states


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (keras.layers.LSTMCell(4), "no `cellkit.Cell`"),
        (cellkit.create("lstm", units=4, zoneout=0.2), "draws random numbers"),
        (Counting(4), "adds a loss"),
        (cellkit.create("lstm", units=4, dtype="float16"), "a dtype of its own"),
    ],
    ids=["keras", "zoneout", "loss", "dtype"],
)
def test_other_steps_are_left_to_the_loop(cell, reason):
    def call(layer):
        x = data((BATCH, TIME, FEATURES), dtype="float32")
        if BACKEND == "jax":
            return layer(x, training=True)
        import tensorflow as tf

        return tf.function(lambda x: layer(x, training=True), autograph=False)(x)

    layer = cellkit.RNN(cell, dtype="float32")
    call(layer)
    report = layer.engine_report()
    assert report.engine == "loop"
    assert reason in report.reasons["fused"]
    named = cellkit.RNN(cell, dtype="float32", engine="fused")
    assert reason in raised(call, named)[1]


def _second(layer, x):
    """Return the gradients of the squared gradients."""
    weights = layer.trainable_variables
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function(autograph=False)
        def run(x):
            sources = [x, *(v.value for v in weights)]
            with tf.GradientTape() as outer:
                outer.watch(sources)
                with tf.GradientTape() as inner:
                    inner.watch(sources)
                    value = tf.reduce_sum(layer(x)[0] ** 2)
                total = sum(tf.reduce_sum(g**2) for g in inner.gradient(value, sources))
            return outer.gradient(total, sources)

        return run(tf.constant(x))
    import jax

    others = [v.value for v in layer.non_trainable_variables]

    def value(values, x):
        return (layer.stateless_call(values, others, x)[0][0] ** 2).sum()

    def total(values, x):
        return sum((g**2).sum() for g in jax.tree.leaves(jax.grad(value, (0, 1))(values, x)))

    return jax.tree.leaves(jax.jit(jax.grad(total, (1, 0)))([v.value for v in weights], x))


def test_the_gradient_has_a_gradient():
    layer = layer_of(("gru", {"units": 4}))
    x = data((BATCH, TIME, FEATURES))
    found = []
    for engine in ("loop", "fused"):
        layer.engine = engine
        found.append([npy(g) for g in _second(layer, x)])
        assert layer.engine_report().engine == engine
    for want, have in zip(*found, strict=True):
        np.testing.assert_allclose(have, want, rtol=0, atol=1e-5 * max(1, np.abs(want).max()))


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX alone")
def test_a_batch_of_batches_on_jax():
    import jax

    layer = layer_of(("lstm", {"units": 4}), return_sequences=True)
    x = data((2, BATCH, TIME, FEATURES))
    weights = [v.value for v in layer.trainable_variables]
    others = [v.value for v in layer.non_trainable_variables]

    def gradient(x):
        return jax.grad(lambda w: (layer.stateless_call(w, others, x)[0][0] ** 2).sum())(weights)

    found = []
    for layer.engine in ("loop", "fused"):
        found.append(jax.tree.leaves(jax.jit(jax.vmap(gradient))(x)))
    for want, have in zip(*found, strict=True):
        np.testing.assert_allclose(have, want, atol=1e-5 * max(1, np.abs(want).max()))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow alone")
@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
def test_tensorflow_graphs_of_unknown_sizes_and_xla(xla):
    import tensorflow as tf

    layer = layer_of(("gru", {"units": 4, "dropout": 0.0}), return_sequences=True)
    x, weights = data((BATCH, TIME, FEATURES)), [v.value for v in layer.trainable_variables]
    shape = x.shape if xla else (None, None, FEATURES)
    found = []
    for layer.engine in ("loop", "fused"):

        @tf.function(
            autograph=False, jit_compile=xla, input_signature=[tf.TensorSpec(shape, DTYPE)]
        )
        def run(x):
            with tf.GradientTape() as tape:
                tape.watch(weights)
                y = layer(x, training=True)[0]
                value = tf.reduce_sum(y**2)
            return y, tape.gradient(value, weights)

        found.append([npy(v) for v in tf.nest.flatten(run(tf.constant(x)))])
        assert layer.engine_report().engine == layer.engine
    for want, have in zip(*found, strict=True):
        np.testing.assert_allclose(have, want, atol=1e-5 * max(1, np.abs(want).max()))
