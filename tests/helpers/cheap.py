"""Environment variables of processes that compile much and compute little."""

import keras

from cellkit_conformance.run.startup import cheap_flags


def cheaply():
    """Return the variables with which XLA compiles quickly what will run slowly, on JAX alone."""
    if keras.backend.backend() != "jax":
        return {}
    return {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": cheap_flags()}
