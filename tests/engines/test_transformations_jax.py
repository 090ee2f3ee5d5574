"""Transformations of JAX see through every engine: forwards, backwards, batched, nested."""

import keras
import numpy as np
import pytest
from cell_numbers import DTYPE, random_weights

import cellkit

if keras.backend.backend() != "jax":
    pytest.skip("transformations of JAX", allow_module_level=True)

import jax
import jax.numpy as jnp

X, V = np.random.default_rng(0).normal(size=(2, 2, 3, 2)).astype(DTYPE)
MASK = np.array([[1, 0, 1], [0, 1, 1]], bool)
TOLERANCE = 1e-10 if DTYPE == "float64" else 2e-4


def layers_of(name, engine, **options):
    """Return two layers around one cell, with an engine and with the plain loop."""
    cell = cellkit.create(name, units=2, dtype=DTYPE)
    options = {**options, "return_sequences": True, "dtype": DTYPE}
    layers = [cellkit.RNN(cell, engine=e, **options) for e in (engine, "loop")]
    layers[0].build(X.shape)
    layers[1].build(X.shape)
    random_weights(cell, np.random.default_rng(1))
    return layers


TRANSFORMATIONS = {
    "jvp": lambda f, loss: jax.jvp(f, (X,), (V,))[1],
    "vmap of jvp": lambda f, loss: jax.vmap(lambda v: jax.jvp(f, (X,), (v,))[1])(jnp.stack([X, V])),
    "linearize": lambda f, loss: jax.linearize(f, X)[1](V),
    "grad": lambda f, loss: jax.grad(loss)(X),
    "grad of checkpoint": lambda f, loss: jax.grad(jax.checkpoint(loss))(X),
    "vmap of grad": lambda f, loss: jax.vmap(jax.grad(loss))(jnp.stack([X, V])),
    "jvp of grad": lambda f, loss: jax.jvp(jax.grad(loss), (X,), (V,))[1],
    "grad of jvp": lambda f, loss: jax.grad(lambda x: jax.jvp(loss, (x,), (V,))[1])(X),
    "hessian": lambda f, loss: jax.hessian(loss)(X),
}


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize(
    ("name", "engine", "backwards"),
    [("lstm", "fused", False), ("min_gru", "scan", True), ("lru", "scan", False)],
)
def test_a_transformation_sees_through_an_engine(name, engine, backwards, transformation):
    layers = layers_of(name, engine, go_backwards=backwards)
    function = TRANSFORMATIONS[transformation]

    @jax.jit
    def both():
        return [
            function(
                lambda x, layer=layer: jnp.sin(layer(x, mask=MASK)),
                lambda x, layer=layer: jnp.sum(jnp.sin(layer(x, mask=MASK)) ** 2),
            )
            for layer in layers
        ]

    have, want = both()
    scale = max(1.0, np.abs(want).max())
    np.testing.assert_allclose(have, want, rtol=0, atol=TOLERANCE * scale)


def test_weights_are_differentiated_forwards_too():
    layers = layers_of("lstm", "fused")
    found = []
    for layer in layers:
        weights = [v.value for v in layer.trainable_variables]
        others = [v.value for v in layer.non_trainable_variables]

        def loss(weights, layer=layer, others=others):
            return jnp.sum(jnp.sin(layer.stateless_call(weights, others, X)[0]))

        towards = [
            np.random.default_rng(i).normal(size=w.shape).astype(DTYPE)
            for i, w in enumerate(weights)
        ]
        forwards = jax.jvp(loss, (weights,), (towards,))[1]
        grads = jax.grad(loss)(weights)
        found.append((forwards, sum(jnp.vdot(g, t) for g, t in zip(grads, towards, strict=True))))
    np.testing.assert_allclose(found, np.full((2, 2), found[1][1]), rtol=TOLERANCE)
