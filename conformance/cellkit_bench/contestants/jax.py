"""Contestants on JAX, all of them compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cellkit_bench import contestants
from cellkit_bench.contestants import Contestant
from cellkit_bench.plan import Work

XP = SimpleNamespace(
    sigmoid=jax.nn.sigmoid,
    tanh=jnp.tanh,
    mean=lambda x: x.mean(-1, keepdims=True),
    split=lambda x, n: jnp.split(x, n, -1),
)


def to_numpy(x: Any) -> np.ndarray[Any, Any]:
    """Copy a tensor to the host."""
    return np.asarray(x)


def make(work: Work, engines: tuple[str, ...] = ()) -> Iterator[Contestant]:
    """Yield the contestants one after the other."""
    x = jnp.asarray(contestants.data(work))
    for name, layer in contestants.layers(work, engines):
        yield _layer(name, layer, x)
    hand = contestants.hand_step(work)
    if hand is not None:
        yield _by_hand(work, *hand, x)
    if work.cell in contestants.FLAX and contestants.installed("flax"):
        yield _flax(work, x)
    yield from peers(work)


def peers(work: Work) -> Iterator[Contestant]:
    """Yield the layers of PyTorch, if it is there."""
    if contestants.installed("torch"):
        from cellkit_bench.contestants import torch

        yield from torch.peers(work)


def product(work: Work) -> Callable[[], Any]:
    """Return a function that runs the product whose rate is measured."""
    a, b = (jnp.ones(shape, "float32") for shape in contestants.product_shapes(work))
    multiply = jax.jit(jnp.matmul)
    return lambda: multiply(a, b).block_until_ready()


def streams(work: Work) -> Iterator[tuple[str, Callable[[int], Any]]]:
    """Yield functions that run so many steps, each on the states of the step before."""
    x = jnp.asarray(contestants.data(work))[:, 0]

    def stream(step: Callable[..., Any], start: Callable[[], Any]) -> Callable[[int], Any]:
        def run(count: int) -> Any:
            states, output = start(), None
            for _ in range(count):
                output, states = step(x, states)
            return jax.block_until_ready(output)

        return run

    for name, step, start in contestants.layer_steps(work):
        yield name, stream(step, start)
    hand = contestants.hand_step(work)
    if hand is not None:
        count, equation = hand
        w = _device_weights(work)
        compiled = jax.jit(lambda x, s: equation(XP, w, x, s))
        yield "by hand, compiled", stream(compiled, lambda: _zeros(work, count))


def _layer(name: str, layer: Any, x: Any) -> Contestant:
    trainable = [v.value for v in layer.trainable_variables]
    rest = [v.value for v in layer.non_trainable_variables]

    def call(trainable: Any, x: Any, training: bool) -> Any:
        return layer.stateless_call(trainable, rest, x, training=training)[0]

    return _compiled(name, call, trainable, x, layer=layer)


def _compiled(name: str, call: Any, weights: Any, x: Any, **options: Any) -> Contestant:
    def loss(weights: Any, x: Any) -> Any:
        return jnp.sum(call(weights, x, True) ** 2)

    inference = jax.jit(lambda weights, x: call(weights, x, False))
    training = jax.jit(jax.grad(loss))
    return Contestant(
        name,
        lambda: jax.block_until_ready(inference(weights, x)),
        lambda: jax.block_until_ready(training(weights, x)),
        **options,
    )


def _device_weights(work: Work) -> dict[str, Any]:
    values = contestants.weights(contestants.make_cell(work))
    return {k: jnp.asarray(v) for k, v in values.items()}


def _zeros(work: Work, count: int) -> list[Any]:
    return [jnp.zeros((work.batch, work.width))] * count


def _by_hand(work: Work, count: int, step: Any, x: Any) -> Contestant:
    def call(w: Any, x: Any, training: bool) -> Any:
        def body(carry: Any, x_t: Any) -> Any:
            y, states = step(XP, w, x_t, carry[1])
            return (y, states), None

        states = _zeros(work, count)
        (y, _), _ = jax.lax.scan(body, (states[0], states), jnp.swapaxes(x, 0, 1))
        return y

    return _compiled(contestants.BY_HAND, call, _device_weights(work), x)


def _flax(work: Work, x: Any) -> Contestant:
    from flax import linen

    name = contestants.FLAX[work.cell]
    module = linen.RNN(getattr(linen, name)(work.width))
    variables = module.init(jax.random.key(0), x)
    return _compiled(
        f"flax.linen.RNN({name})",
        lambda w, x, training: module.apply(w, x)[:, -1],
        variables,
        x,
        comparable=False,
    )
