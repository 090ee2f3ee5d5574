"""Differentiate a layer on the backend at hand: eagerly, or compiled."""

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()


def npy(x):
    """Return an array; float32 in the place of what NumPy has no dtype for."""
    x = ops.convert_to_tensor(x)
    narrow = keras.backend.standardize_dtype(x.dtype) == "bfloat16"
    return np.array(ops.convert_to_numpy(ops.cast(x, "float32") if narrow else x))


def loss_of(results):
    """Weigh every number by its own factor, so that no error cancels another."""
    total = 0.0
    for i, y in enumerate(results):
        dtype = keras.backend.standardize_dtype(y.dtype)
        parts = [ops.real(y), ops.imag(y)] if "complex" in dtype else [y]
        for j, part in enumerate(parts):
            if not keras.backend.is_float_dtype(part.dtype):
                continue
            shape = tuple(part.shape)
            factors = np.random.default_rng(50 + 10 * i + j).normal(size=shape).astype("float32")
            total = total + ops.sum(ops.cast(part, "float32") * ops.convert_to_tensor(factors))
    return total


def differentiate(layer, apply, arrays, compiled=False):
    """Return what `apply` returns for the arrays, and the gradients of `loss_of` that by name.

    Args:
        layer: Whose trainable variables are differentiated for, beside the arrays.
        apply: Takes tensors, returns a list of tensors.
        arrays: Its arguments.
        compiled: True to run `tf.function` around everything on TensorFlow. JAX always compiles.
    """
    weights = layer.trainable_variables
    names = [f"argument {i}" for i in range(len(arrays))] + [
        f"weight {i} ({v.name})" for i, v in enumerate(weights)
    ]
    tensors = [ops.convert_to_tensor(x) for x in arrays]
    if BACKEND == "torch":
        import torch

        tensors = [t.detach().requires_grad_() for t in tensors]
        results = apply(*tensors)
        wrt = [*tensors, *(v.value for v in weights)]
        grads = torch.autograd.grad(loss_of(results), wrt, allow_unused=True)
        results = [y.detach() for y in results]
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        def run():
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                results = apply(*tensors)
                loss = loss_of(results)
            return results, tape.gradient(loss, [*tensors, *(v.value for v in weights)])

        results, grads = tf.function(run)() if compiled else run()
    else:
        import jax

        others = layer.non_trainable_variables

        def value(tensors, values):
            mapping = [*zip(weights, values, strict=True), *((v, v.value) for v in others)]
            with keras.StatelessScope(state_mapping=mapping) as scope:
                results = apply(*tensors)
            return loss_of(results), (results, [scope.get_current_value(v) for v in others])

        function = jax.jit(jax.grad(value, argnums=(0, 1), has_aux=True))
        (first, second), (results, updated) = function(tensors, [v.value for v in weights])
        for variable, new in zip(others, updated, strict=True):
            variable.assign(new)
        grads = [*first, *second]
    pairs = zip(names, grads, strict=True)
    return results, {name: None if g is None else npy(g) for name, g in pairs}
