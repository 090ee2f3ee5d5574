"""Layers run by one engine and by another, and what they return, compared."""

import keras
import numpy as np
from cell_numbers import DTYPE, TOLERANCE, random_weights
from keras import ops

import cellkit

BACKEND = keras.backend.backend()
BATCH, TIME, FEATURES = 5, 6, 3


# One row each: whole, padded on the right, on the left, with a gap, and all of it.
MASK = np.array(
    [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1], [0] * 6], bool
)


# Padded on the right alone, one row empty: what kernels for packed sequences could take.
RIGHT = np.arange(6) < np.array([[6], [3], [1], [5], [0]])


def data(shape, seed=0, dtype=DTYPE):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def layer_of(cell, shape=(None, None, FEATURES), **options):
    """Return a built layer with random weights; `cell` is a name with options, or a cell."""
    if isinstance(cell, tuple):
        name, arguments = cell
        cell = cellkit.create(name, **arguments, dtype=DTYPE)
    layer = cellkit.RNN(cell, dtype=options.pop("dtype", DTYPE), return_state=True, **options)
    layer.build(shape)
    random_weights(cell, np.random.default_rng(1))
    return layer


def npy(x):
    return np.array(ops.convert_to_numpy(ops.convert_to_tensor(x)))


def outcome(layer, engine, x, states=None, **call):
    """Return outputs, states and gradients of a call as a dict of arrays."""
    layer.engine = engine
    for v in layer.non_trainable_variables:
        if v.name == "seed_generator_state":
            v.assign(np.array([7, 0], "uint32"))
    names = [f"weight {v.path}" for v in layer.trainable_variables]
    tensors = [ops.convert_to_tensor(leaf) for leaf in keras.tree.flatten((x, states or []))]
    results, grads = _differentiate(layer, tensors, (x, states or []), call)
    assert layer.engine_report().engine == engine
    found = {f"result {i}": npy(y) for i, y in enumerate(results)}
    found |= {f"variable {v.path}": npy(v) for v in layer.non_trainable_variables}
    names = [f"argument {i}" for i in range(len(tensors))] + names
    return found | {n: None if g is None else npy(g) for n, g in zip(names, grads, strict=True)}


def _loss(results):
    """Weigh every number by its own factor, so that no error cancels another."""
    total = 0.0
    for i, y in enumerate(results):
        factors = ops.convert_to_tensor(data(tuple(y.shape), seed=50 + i, dtype="float32"))
        total = total + ops.sum(ops.cast(y, "float32") * factors)
    return total


def _apply(layer, tensors, structure, call):
    x, states = keras.tree.pack_sequence_as(structure, tensors)
    return keras.tree.flatten(layer(x, initial_state=states or None, **call))


def _differentiate(layer, tensors, structure, call):
    weights = layer.trainable_variables
    if BACKEND == "torch":
        import torch

        tensors = [t.detach().requires_grad_() for t in tensors]
        results = _apply(layer, tensors, structure, call)
        wrt = [*tensors, *(v.value for v in weights)]
        grads = torch.autograd.grad(_loss(results), wrt, allow_unused=True)
        return [y.detach() for y in results], grads
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function
        def run():
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                results = _apply(layer, tensors, structure, call)
                loss = _loss(results)
            return results, tape.gradient(loss, [*tensors, *(v.value for v in weights)])

        return run()
    import jax

    others = layer.non_trainable_variables

    def value(tensors, values):
        mapping = [*zip(weights, values, strict=True), *((v, v.value) for v in others)]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            results = _apply(layer, tensors, structure, call)
        return _loss(results), (results, [scope.get_current_value(v) for v in others])

    function = jax.jit(jax.grad(value, argnums=(0, 1), has_aux=True))
    (first, second), (results, updated) = function(tensors, [v.value for v in weights])
    for v, new in zip(others, updated, strict=True):
        v.assign(new)
    return results, [*first, *second]


def assert_equal(layer, engine, *arguments, tolerance=TOLERANCE, **call):
    """Compare a named engine with the plain loop."""
    want = outcome(layer, "loop", *arguments, **call)
    have = outcome(layer, engine, *arguments, **call)
    assert want.keys() == have.keys()
    for name, value in want.items():
        if value is None or have[name] is None:
            # A gradient that is nowhere connected may come as zeros.
            assert not np.any(value or 0) and not np.any(have[name] or 0), name
            continue
        scale = max(1.0, np.abs(value.astype("float64")).max(initial=0))
        (
            np.testing.assert_allclose(
                have[name].astype("float64"),
                value.astype("float64"),
                atol=tolerance * scale,
                rtol=0,
            ),
            name,
        )


def initial(layer, seed=3):
    return [data((BATCH, *s.shape), seed + i) for i, s in enumerate(layer.runner.layout.specs)]
