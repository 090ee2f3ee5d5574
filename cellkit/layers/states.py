"""The stored states of a stateful layer."""

from __future__ import annotations

from typing import Any

import keras

from cellkit.cells.operations import where


@keras.saving.register_keras_serializable(package="cellkit")
class StateStore(keras.layers.Layer):
    """Variables that carry the states of a stateful layer from batch to batch.

    A sublayer of its own, so that the variables are tracked (they travel through `jax.jit`,
    `stateless_call` and training steps, and are saved with the model) but do not count as weights:
    `get_weights` of a stateful layer is that of a stateless one.

    `started` tells whether a batch has been seen since the last reset. Until then the initial
    states are computed anew, so that learned initial states receive gradients and follow their
    weights.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def create(self, states: list[Any]) -> None:
        """Create the variables, with `states` as their first values."""
        self.started = self._add("started", False, (), "bool")
        self.values = [
            self._add(f"state_{i}", x, tuple(x.shape), keras.backend.standardize_dtype(x.dtype))
            for i, x in enumerate(states)
        ]
        self.built = True

    def _add(self, name: str, value: Any, shape: tuple[int, ...], dtype: str) -> Any:
        def initializer(shape: Any, dtype: Any = None) -> Any:
            if isinstance(value, bool):
                return keras.ops.full(shape, value, dtype=dtype)
            # A copy: an initial state may be one row shown many times, or a weight itself.
            return keras.ops.copy(keras.ops.cast(value, dtype))

        return self.add_weight(
            shape=shape,
            dtype=dtype,
            initializer=initializer,
            trainable=False,
            autocast=False,
            name=name,
        )

    @property
    def weights(self) -> list[Any]:
        """Empty: stored states are variables, but no weights."""
        return []

    def read(self, initial: list[Any]) -> list[Any]:
        """Return the states to start from: the stored ones, or `initial` after a reset."""
        # Torch keeps the condition for its backward pass, and `assign` would change it in place.
        started = keras.ops.copy(self.started.value)
        # `where` also makes a copy: Torch's variables are assigned in place, which must not reach
        # into a graph that still waits for its backward pass.
        return [where(started, v.value, x) for v, x in zip(self.values, initial, strict=True)]

    def assign(self, states: list[Any]) -> None:
        """Store `states` for the next batch."""
        for variable, state in zip(self.values, states, strict=True):
            variable.assign(keras.ops.stop_gradient(state))
        self.started.assign(keras.ops.ones_like(self.started.value))

    def reset(self, initial: list[Any]) -> None:
        """Go back to `initial`, which is computed anew by the next call."""
        for variable, state in zip(self.values, initial, strict=True):
            variable.assign(keras.ops.stop_gradient(state))
        self.started.assign(keras.ops.zeros_like(self.started.value))

    def load_own_variables(self, store: Any) -> None:
        """Restore stored states, or keep the initial ones when the file holds no fitting ones."""
        variables = [self.started, *self.values] if self.built else []
        saved = [store[str(i)] for i in range(len(store.keys()))]
        if [tuple(s.shape) for s in saved] == [tuple(v.shape) for v in variables]:
            for variable, value in zip(variables, saved, strict=True):
                variable.assign(value)
