"""Cost of a step of a stream beside the framework's own cell.

    KERAS_BACKEND=torch python benchmarks/stream.py [--width 128] [--repeats 40]

One step of `layer.stream(batch)` with states that are kept, against one of the framework's own
cell: `torch.nn.LSTMCell` without gradients on PyTorch; Keras' cell in a function of `jax.jit` or
`tf.function` elsewhere. On one thread. Contestants take turns; printed is the best of the repeats
in microseconds, and the ratio of the two.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import cellkit

BACKEND = keras.backend.backend()
NAMES = {"lstm": "LSTMCell", "gru": "GRUCell", "simple_rnn": "SimpleRNNCell"}
TORCH = {"lstm": "LSTMCell", "gru": "GRUCell", "simple_rnn": "RNNCell"}


def own(name: str, batch: int, width: int, x: Any) -> Callable[[], Any]:
    """Return a step of the framework's own cell."""
    states = [keras.ops.zeros((batch, width)) for _ in range(2 if name == "lstm" else 1)]
    if BACKEND == "torch":
        import torch

        module = getattr(torch.nn, TORCH[name])(width, width)
        given = tuple(states) if name == "lstm" else states[0]

        def run() -> Any:
            with torch.no_grad():
                return module(x, given)

        return run
    cell = getattr(keras.layers, NAMES[name])(width)
    cell.build((batch, width))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        function = tf.function(cell.call, autograph=False)
        return lambda: function(x, states)
    import jax

    function = jax.jit(lambda *a: cell.stateless_call(*a)[0])
    weights = [v.value for v in cell.trainable_variables]
    others = [v.value for v in cell.non_trainable_variables]
    return lambda: jax.block_until_ready(function(weights, others, x, states))


def stream(name: str, batch: int, width: int, x: Any) -> Callable[[], Any]:
    """Return a step of a stream."""
    step = cellkit.RNN(cellkit.create(name, units=width)).stream(batch)
    if BACKEND == "jax":
        import jax

        return lambda: jax.block_until_ready(step(x))
    return lambda: step(x)


def best(contestants: list[Callable[[], Any]], repeats: int) -> list[float]:
    """Return the best time of each contestant in microseconds."""
    times = [float("inf")] * len(contestants)
    for run in contestants:
        run()
    for _ in range(repeats):
        for i, run in enumerate(contestants):
            start = time.perf_counter()
            for _ in range(50):
                run()
            times[i] = min(times[i], (time.perf_counter() - start) / 50 * 1e6)
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=40)
    options = parser.parse_args()
    if BACKEND == "torch":
        import torch

        torch.set_num_threads(1)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    rng = np.random.default_rng(0)
    print(f"{BACKEND}, width {options.width}; microseconds a step")
    print(f"{'cell':<12}{'batch':>6}{'stream':>10}{'own':>10}{'ratio':>8}")
    for batch in (1, 32):
        x = rng.normal(size=(batch, options.width)).astype("float32")
        x = keras.ops.convert_to_tensor(x)
        for name in NAMES:
            pair = [f(name, batch, options.width, x) for f in (stream, own)]
            ours, theirs = best(pair, options.repeats)
            print(f"{name:<12}{batch:>6}{ours:>10.1f}{theirs:>10.1f}{ours / theirs:>8.2f}")


if __name__ == "__main__":
    main()
