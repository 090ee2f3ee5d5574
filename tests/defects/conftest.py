"""Cheaper compilation for the tests of this folder."""

import keras
import pytest


@pytest.fixture(autouse=True)
def cheap_compilation(request):
    """Switch most of XLA's optimisations off: these tests compile much and compute little.

    The tests of memory (P3) ask for the real thing.
    """
    if keras.backend.backend() != "jax" or request.function.__name__.startswith("test_p3"):
        yield
        return
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
