"""Contestants on TensorFlow, all of them inside a `tf.function`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf

from cellkit_bench import contestants
from cellkit_bench.contestants import Contestant
from cellkit_bench.plan import Work

XP = SimpleNamespace(
    sigmoid=tf.sigmoid,
    tanh=tf.tanh,
    mean=lambda x: tf.reduce_mean(x, -1, keepdims=True),
    split=lambda x, n: tf.split(x, n, -1),
)


def to_numpy(x: Any) -> np.ndarray[Any, Any]:
    """Copy a tensor to the host."""
    return x.numpy()


def make(work: Work, engines: tuple[str, ...] = ()) -> Iterator[Contestant]:
    """Yield the contestants one after the other."""
    x = tf.constant(contestants.data(work))
    for name, layer in contestants.layers(work, engines):
        variables = [v.value for v in layer.trainable_variables]
        yield _graph(name, layer, variables, x, layer=layer)
    hand = contestants.hand_step(work)
    if hand is not None:
        yield _by_hand(work, *hand, x)
    yield from peers(work)


def peers(work: Work) -> Iterator[Contestant]:
    """Yield the layers of PyTorch, if it is there."""
    if contestants.installed("torch"):
        from cellkit_bench.contestants import torch

        yield from torch.peers(work)


def product(work: Work) -> Callable[[], Any]:
    """Return a function that runs the product whose rate is measured."""
    a, b = (tf.ones(shape) for shape in contestants.product_shapes(work))
    return lambda: _wait(a @ b)


def streams(work: Work) -> Iterator[tuple[str, Callable[[int], Any]]]:
    """Yield functions that run so many steps, each on the states of the step before."""
    x = tf.constant(contestants.data(work))[:, 0]

    def stream(step: Callable[..., Any], start: Callable[[], Any]) -> Callable[[int], Any]:
        def run(count: int) -> Any:
            states, output = start(), None
            for _ in range(count):
                output, states = step(x, states)
            return _wait(output)

        return run

    for name, step, start in contestants.layer_steps(work):
        yield name, stream(step, start)
        yield f"{name}, tf.function", stream(tf.function(step, autograph=False), start)


def _wait(x: Any) -> Any:
    """Wait for the device: on a GPU, operations return before they are done."""
    if tf.config.list_physical_devices("GPU"):
        tf.test.experimental.sync_devices()
    return x


def _graph(name: str, call: Any, variables: list[Any], x: Any, **options: Any) -> Contestant:
    @tf.function(autograph=False)
    def inference(x: Any) -> Any:
        return call(x, training=False)

    @tf.function(autograph=False)
    def training(x: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            y = call(x, training=True)
            loss = tf.reduce_sum(y * y)
        return tape.gradient(loss, variables)

    return Contestant(name, lambda: _wait(inference(x)), lambda: _wait(training(x)), **options)


def _by_hand(work: Work, count: int, step: Any, x: Any) -> Contestant:
    values = contestants.weights(contestants.make_cell(work))
    w = {k: tf.Variable(v) for k, v in values.items()}

    def call(x: Any, training: bool) -> Any:
        steps = tf.transpose(x, [1, 0, 2])

        def body(t: Any, y: Any, states: Any) -> Any:
            y, states = step(XP, w, steps[t], states)
            return t + 1, y, states

        states = [tf.zeros([work.batch, work.width])] * count
        loop = (tf.constant(0), states[0], states)
        return tf.while_loop(
            lambda t, *_: t < work.length, body, loop, maximum_iterations=work.length
        )[1]

    return _graph(contestants.BY_HAND, call, list(w.values()), x)
