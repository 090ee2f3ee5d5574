"""Cheaper compilation for the tests of this folder."""

import keras
import pytest


@pytest.fixture(autouse=True, scope="module")
def cheap_compilation(request):
    """Switch most of XLA's optimisations off: these tests compile much and compute little.

    The tests of speed and memory ask for the real thing.
    """
    if keras.backend.backend() != "jax" or request.module.__name__.endswith("test_p_speed"):
        yield
        return
    import jax

    before = jax.config.jax_disable_most_optimizations
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
