"""The gradient of a function of one array, on the backend that Keras runs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np


def gradient(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    """Return the gradient of the sum of `function(x)`, an array of the shape of x."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return np.asarray(jax.jit(jax.grad(lambda x: function(x).sum()))(x))
    tensor = keras.ops.convert_to_tensor(x)
    if backend == "torch":
        tensor = tensor.detach().requires_grad_()
        function(tensor).sum().backward()
        return tensor.grad.cpu().numpy()
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensor)
        result = tf.reduce_sum(function(tensor))
    return tape.gradient(result, tensor).numpy()
