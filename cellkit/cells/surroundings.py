"""The surroundings of a cell in a layer's call: its dtypes, and the training flag.

Keras casts variables to the compute dtype, and tells sublayers whether they train, only while a
layer is being called. What runs a step after that, such as a backward pass, must find the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from cellkit import _keras_compat as compat


class Surroundings(keras.layers.Layer):
    """Runs functions as the call of a layer with these dtypes would run them.

    Args:
        compute_dtype: Compute dtype of the layer.
        variable_dtype: Variable dtype of the layer.
    """

    def __init__(self, compute_dtype: str, variable_dtype: str) -> None:
        mixed = compute_dtype != variable_dtype
        super().__init__(dtype=f"mixed_{compute_dtype}" if mixed else compute_dtype)
        compat.take_over_conversion(self)
        self.built = True

    def call(self, function: Callable[[], Any], training: bool = False) -> Any:
        """Return what `function` returns."""
        return function()
