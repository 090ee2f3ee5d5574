"""Outputs and gradients of one call of a layer, on the backend of this process."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()


def npy(x: Any) -> Any:
    """Return a tensor as an array."""
    return np.array(ops.convert_to_numpy(ops.convert_to_tensor(x)))


def is_smooth(x: Any) -> bool:
    """Tell whether a tensor can have a gradient."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    return keras.backend.is_float_dtype(dtype)


def forward(layer: Any, x: Any, states: Any, call: dict[str, Any]) -> list[Any]:
    """Return the leaves of what a call returns, where no gradient is wanted."""
    x = ops.convert_to_tensor(x)
    if states is not None:
        call = {**call, "initial_state": keras.tree.map_structure(ops.convert_to_tensor, states)}
    if BACKEND == "torch":
        import torch

        with torch.no_grad():
            return keras.tree.flatten(layer(x, **call))
    return keras.tree.flatten(layer(x, **call))


def with_gradients(
    layer: Any, x: Any, states: Any, call: dict[str, Any], graph: bool = False
) -> tuple[list[Any], list[Any]]:
    """Return what a call returns, and gradients for the inputs, the states and the weights.

    Args:
        layer: The layer.
        x: The inputs.
        states: The initial states, or None.
        call: Further arguments of the call.
        graph: True if the call is a part of a `tf.function`, on TensorFlow.
    """
    given = (x,) if states is None else (x, states)
    leaves = [ops.convert_to_tensor(v) for v in keras.tree.flatten(given)]
    smooth = [i for i, v in enumerate(leaves) if is_smooth(v)]

    def apply(values_of: list[Any]) -> list[Any]:
        values = list(leaves)
        for i, value in zip(smooth, values_of, strict=True):
            values[i] = value
        inputs, *start = keras.tree.pack_sequence_as(given, values)
        start = {"initial_state": start[0]} if start else {}
        return keras.tree.flatten(layer(inputs, **start, **call))

    return _BACKENDS[BACKEND](layer, apply, [leaves[i] for i in smooth], graph)


def _loss(results: list[Any]) -> Any:
    """Weigh every number by its own factor, so that no error cancels another."""
    total: Any = 0.0
    for i, y in enumerate(results):
        dtype = keras.backend.standardize_dtype(y.dtype)
        if "complex" in dtype:
            total = total + _weighed(ops.real(y), i) + _weighed(ops.imag(y), i + 0.5)
        elif keras.backend.is_float_dtype(dtype):
            total = total + _weighed(y, i)
    return total


def _weighed(y: Any, phase: float) -> Any:
    factors = np.cos(phase + 1.7 * np.arange(int(np.prod(y.shape)))).reshape(tuple(y.shape))
    return ops.cast(ops.sum(y * ops.convert_to_tensor(factors, dtype=y.dtype)), "float64")


def _torch(layer: Any, apply: Any, given: list[Any], graph: bool) -> Any:
    import torch

    given = [t.detach().clone().requires_grad_() for t in given]
    results = apply(given)
    loss = _loss(results)
    wrt = [*given, *(v.value for v in layer.trainable_variables)]
    if not torch.is_tensor(loss) or not loss.requires_grad:
        return results, [None] * len(wrt)
    grads = torch.autograd.grad(loss, wrt, allow_unused=True)
    return [y.detach() for y in results], list(grads)


def _tensorflow(layer: Any, apply: Any, given: list[Any], graph: bool) -> Any:
    import tensorflow as tf

    def run(given: list[Any]) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(given)
            results = apply(given)
            loss = _loss(results)
        wrt = [*given, *(v.value for v in layer.trainable_variables)]
        if not tf.is_tensor(loss):
            return results, [None] * len(wrt)
        return results, tape.gradient(loss, wrt)

    return (tf.function(run) if graph else run)(given)


def _jax(layer: Any, apply: Any, given: list[Any], graph: bool) -> Any:
    import jax

    weights, others = layer.trainable_variables, layer.non_trainable_variables

    def value(given: list[Any], values: list[Any], other_values: list[Any]) -> Any:
        mapping = [*zip(weights, values, strict=True), *zip(others, other_values, strict=True)]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            results = apply(given)
        return _loss(results), (results, [scope.get_current_value(v) for v in others])

    function = jax.jit(jax.grad(lambda *a: _real(value(*a)), argnums=(0, 1), has_aux=True))
    now = [v.value for v in others]
    (first, second), (results, updated) = function(given, [v.value for v in weights], now)
    for v, new in zip(others, updated, strict=True):
        v.assign(new)
    return results, [*first, *second]


def _real(pair: Any) -> Any:
    return ops.cast(pair[0], "float64"), pair[1]


_BACKENDS = {"torch": _torch, "tensorflow": _tensorflow, "jax": _jax}
