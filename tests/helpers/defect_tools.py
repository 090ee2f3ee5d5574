"""Tools of the defect tests: hostile numbers, the loop in NumPy, gradients, compiled calls."""

import keras
import numpy as np
from keras import ops, tree

BACKEND = keras.backend.backend()
MASK = np.array([[1, 1, 0, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]], bool)
"""Three rows of five steps: interior, right and left padding."""


def data(*shape, seed=0, dtype="float32"):
    """Random normal numbers of `shape`."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def npy(x):
    """The tensors or variables of a structure as NumPy arrays."""

    def array(t):
        return np.array(ops.convert_to_numpy(t.value if isinstance(t, keras.Variable) else t))

    return tree.map_structure(array, x)


def randomise(layer, seed=1, scale=0.5):
    """Give every weight of a built layer random values, biases too; returns the layer."""
    rng = np.random.default_rng(seed)
    for v in layer.trainable_variables:
        v.assign(rng.normal(size=v.shape, scale=scale).astype("float32"))
    return layer


def built(layer, *input_shape, seed=1):
    """The layer, built for `input_shape`, with random weights."""
    layer.build(input_shape)
    return randomise(layer, seed)


def close(actual, expected, tolerance=1e-5):
    """Assert that two structures of arrays hold the same numbers, shapes included."""
    actual, expected = tree.flatten(npy(actual)), tree.flatten(expected)
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == np.shape(e)
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


def differ(a, b, least=1e-3):
    """True if two arrays are clearly not the same numbers."""
    return bool(np.max(np.abs(np.asarray(a, "float64") - np.asarray(b, "float64"))) > least)


def shapes(x):
    """The shapes of a structure of tensors, lists and tuples as lists."""
    if isinstance(x, (list, tuple)):
        return [shapes(v) for v in x]
    if isinstance(x, dict):
        return {k: shapes(v) for k, v in x.items()}
    return tuple(x.shape)


def loop(step, x, states, mask=None, go_backwards=False, zero_output=False):
    """The recurrent loop as cellkit documents it, in NumPy.

    Args:
        step: `step(x_t, states) -> (output, new_states)` on NumPy arrays.
        x: Structure of arrays `(batch, time, ...)`.
        states: Structure of arrays `(batch, ...)`.
        mask: `(batch, time)` bool, or None.
        go_backwards: True to start with the last step.
        zero_output: True if masked steps emit zeros.

    Returns:
        The emitted outputs `(batch, time, ...)`, the last held output, the final states.
    """

    def where(keep, new, old):
        return tree.map_structure(
            lambda n, o: np.where(keep.reshape((-1,) + (1,) * (np.ndim(n) - 1)), n, o), new, old
        )

    batch, time = tree.flatten(x)[0].shape[:2]
    keeps = np.ones((batch, time), bool) if mask is None else np.asarray(mask, bool)
    held, emitted = None, []
    for t in reversed(range(time)) if go_backwards else range(time):
        keep = keeps[:, t]
        out, new = step(tree.map_structure(lambda a, t=t: a[:, t], x), states)
        zeros = tree.map_structure(np.zeros_like, out)
        states = where(keep, new, states)
        held = where(keep, out, zeros if held is None else held)
        emitted.append(where(keep, out, zeros) if zero_output else held)
    return tree.map_structure(lambda *ys: np.stack(ys, 1), *emitted), held, states


def cell_step(cell):
    """A step for `loop` that runs `cell.call` at inference, one eager step at a time."""

    def step(x, states):
        out, new = cell.call(
            tree.map_structure(ops.convert_to_tensor, x),
            tree.map_structure(ops.convert_to_tensor, states),
        )
        return npy(out), npy(new)

    return step


def tanh_step(cell):
    """A step for `loop`: `TanhCell` in float64 NumPy."""
    w, u, b = (npy(v.value).astype("float64") for v in (cell.w, cell.u, cell.b))

    def step(x, states):
        h = np.tanh(x @ w + states[0] @ u + b)
        return h, [h]

    return step


def wide_step(cell):
    """A step for `loop`: `WideCell` in float64 NumPy."""
    inner = tanh_step(cell)

    def step(x, states):
        h, new = inner(x, states)
        return np.concatenate([1 - h, 3 * h + 2], -1), new

    return step


def lstm_step(cell):
    """A step for `loop`: Keras' LSTM cell in float64 NumPy, from the equations."""
    kernel, recurrent, bias = (npy(v.value).astype("float64") for v in cell.trainable_variables)

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    def step(x, states):
        h, c = states
        i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        return h, [h, c]

    return step


def loss_and_gradients(loss, variables):
    """The value of `loss()` and its gradients with respect to Keras variables, in NumPy."""
    if BACKEND == "torch":
        import torch

        value = loss()
        grads = torch.autograd.grad(value, [v.value for v in variables], allow_unused=True)
    elif BACKEND == "jax":
        import jax

        def function(values):
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return loss()

        value, grads = jax.value_and_grad(function)([v.value for v in variables])
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss()
        grads = tape.gradient(value, [v.value for v in variables])
    return npy(value), [
        np.zeros(v.shape, "float32") if g is None else npy(g)
        for g, v in zip(grads, variables, strict=True)
    ]


def gradients(loss, variables):
    """The gradients of `loss()` alone."""
    return loss_and_gradients(loss, variables)[1]


def compiled(layer, training=False):
    """A function `x -> layer(x)` run as the backend's `fit` runs it: traced once, state carried.

    Torch has no compilation by default, so there it is the eager call.
    """
    if BACKEND == "torch":
        return lambda x: layer(ops.convert_to_tensor(x), training=training)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        function = tf.function(lambda x: layer(x, training=training))
        return lambda x: function(ops.convert_to_tensor(x))
    import jax

    function = jax.jit(lambda tv, ntv, x: layer.stateless_call(tv, ntv, x, training=training))

    def call(x):
        y, new = function(
            [v.value for v in layer.trainable_variables],
            [v.value for v in layer.non_trainable_variables],
            ops.convert_to_tensor(x),
        )
        for v, value in zip(layer.non_trainable_variables, new, strict=True):
            v.assign(value)
        return y

    return call


def model_of(*layers, input_shape, batch_size=None, dtype=None, optimizer=None):
    """A compiled Sequential model with mean squared error; the optimizer is SGD(0.1)."""
    model = keras.Sequential(
        [keras.Input(input_shape, batch_size=batch_size, dtype=dtype), *layers]
    )
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse")
    return model


class Probe(keras.layers.Layer):
    """Passes its input through and keeps the mask that came with it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.mask = "never called"

    def call(self, inputs, mask=None):
        self.mask = mask
        return inputs


serializable = keras.saving.register_keras_serializable("cellkit_tests")


@serializable
class TanhCell(keras.layers.Layer):
    """`h' = tanh(x W + h U + b)`, output `h'`: the simplest cell that anyone writes."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size = units
        self.output_size = units

    def build(self, input_shape):
        self.w = self.add_weight(shape=(input_shape[-1], self.units), name="w")
        self.u = self.add_weight(shape=(self.units, self.units), name="u")
        self.b = self.add_weight(shape=(self.units,), name="b")
        self.built = True

    def call(self, inputs, states):
        h = ops.tanh(ops.matmul(inputs, self.w) + ops.matmul(states[0], self.u) + self.b)
        return h, [h]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@serializable
class WideCell(TanhCell):
    """Its output is neither its state nor as wide as its state."""

    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.output_size = 2 * units

    def call(self, inputs, states):
        h, new = super().call(inputs, states)
        return ops.concatenate([1 - h, 3 * h + 2], axis=-1), new


@serializable
class LearnedCell(TanhCell):
    """Starts from a learned state."""

    def build(self, input_shape):
        super().build(input_shape)
        self.h0 = self.add_weight(shape=(self.units,), initializer="ones", name="h0")

    def get_initial_state(self, batch_size=None):
        return [ops.broadcast_to(ops.convert_to_tensor(self.h0), (batch_size, self.units))]


FORMS = {
    "tuple": (lambda a, b: (a, b), lambda x: (x[0], x[1])),
    "list": (lambda a, b: [a, b], lambda x: (x[0], x[1])),
    "dict": (lambda a, b: {"a": a, "b": b}, lambda x: (x["a"], x["b"])),
    "nested": (lambda a, b: [a, {"b": [b]}], lambda x: (x[0], x[1]["b"][0])),
}
"""How two inputs are put into a structure, and how they are taken out again."""


@serializable
class NestedInputs(keras.layers.Layer):
    """Adds its two inputs, which come in a structure."""

    def __init__(self, form, **kwargs):
        super().__init__(**kwargs)
        self.form = form
        self.state_size = 4
        self.output_size = 4

    def build(self, input_shape):
        self.w = self.add_weight(shape=(3, 4), name="w")
        self.v = self.add_weight(shape=(2, 6, 4), name="v")
        self.built = True

    def call(self, inputs, states):
        a, b = FORMS[self.form][1](inputs)
        h = ops.matmul(a, self.w) + ops.einsum("bij,ijk->bk", b, self.v)
        h = ops.tanh(h + 0.5 * states[0])
        return h, [h]


def nested_step(cell):
    """A step for `loop`: `NestedInputs` in float64 NumPy."""
    w, v = npy(cell.w).astype("float64"), npy(cell.v).astype("float64")

    def step(x, states):
        a, b = FORMS[cell.form][1](x)
        h = np.tanh(a @ w + np.einsum("bij,ijk->bk", b, v) + 0.5 * states[0])
        return h, [h]

    return step
