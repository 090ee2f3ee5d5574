"""Is `cellkit.RNN` ever slower than `keras.layers.RNN` with the same cell?

    KERAS_BACKEND=torch python benchmarks/sweep.py [CELL ...] [--over 1.0] [--seconds 0.2]
                                                   [--sizes large] [--options plain masked]

Runs cells (all that are registered, and three of Keras' own) with the options of a recurrent layer,
in two sizes, at inference and in training, wherever Keras runs them. Contestants take turns; times
are those of the process' processor, so that a busy machine does not count, on as many threads as
the framework takes (set OMP_NUM_THREADS=1 for one). Printed are all cases above `--over`, and for
every cell the median and the largest of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

import cellkit

SIZES = {"small": (1, 10, 16), "large": (32, 100, 128)}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sequences": {"return_sequences": True},
    "masked": {"mask": True, "return_sequences": True},
    "backwards": {"go_backwards": True},
    "stateful": {"stateful": True},
    "initial state": {"initial_state": True, "return_state": True},
    "dropout": {"dropout": 0.1, "recurrent_dropout": 0.1},
}
OWN = ("LSTMCell", "GRUCell", "SimpleRNNCell")


def make(name: str, width: int, drops: dict[str, float]) -> Any:
    """Return a cell, or None if it does not take these options."""
    try:
        if name in OWN:
            return getattr(keras.layers, name)(width, **drops)
        return cellkit.create(name, units=width, **drops)
    except (TypeError, ValueError):
        return None


def caller(layer: Any, x: Any, call: dict[str, Any], training: bool) -> Callable[[], Any]:
    """Return a function that runs the layer, and in training differentiates the sum of squares."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        weights = [v.value for v in layer.trainable_variables]

        def run() -> Any:
            if not training:
                with torch.no_grad():
                    return layer(x, **call)
            y = keras.tree.flatten(layer(x, training=True, **call))[0]
            return torch.autograd.grad((y * y).sum(), weights, allow_unused=True)

        return run
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function(autograph=False)
        def compiled(x: Any) -> Any:
            if not training:
                return layer(x, **call)
            with tf.GradientTape() as tape:
                y = keras.tree.flatten(layer(x, training=True, **call))[0]
                loss = tf.reduce_sum(y * y)
            return tape.gradient(loss, layer.trainable_variables)

        return lambda: compiled(x)
    import jax

    trainable = [v.value for v in layer.trainable_variables]
    others = [v.value for v in layer.non_trainable_variables]

    def forward(trainable: Any, others: Any, x: Any) -> Any:
        result, _ = layer.stateless_call(trainable, others, x, training=training, **call)
        return keras.tree.flatten(result)[0]

    function = jax.jit(jax.grad(lambda *a: (forward(*a) ** 2).sum()) if training else forward)
    return lambda: jax.block_until_ready(function(trainable, others, x))


def cases(
    name: str, sizes: list[str], options: list[str]
) -> Iterator[tuple[str, dict[str, Callable[[], Any]]]]:
    """Yield the name of each case and its two contestants, wherever Keras runs the case."""
    for size in sizes:
        batch, length, width = SIZES[size]
        rng = np.random.default_rng(0)
        x = keras.ops.convert_to_tensor(rng.normal(size=(batch, length, width)).astype("float32"))
        mask = keras.ops.convert_to_tensor(rng.uniform(size=(batch, length)) < 0.8)
        for title in options:
            chosen, call = dict(OPTIONS[title]), {}
            drops = {k: chosen.pop(k) for k in ("dropout", "recurrent_dropout") if k in chosen}
            cell = make(name, width, drops)
            if cell is None:
                continue
            if chosen.pop("mask", False):
                call["mask"] = mask
            initial = chosen.pop("initial_state", False)
            for mode in ("inference", "training"):
                found = {}
                try:
                    for owner in (keras.layers.RNN, cellkit.RNN):
                        layer = owner(cell, **chosen)
                        layer(x)
                        if initial:
                            call["initial_state"] = layer.get_initial_state(batch)
                        found[owner.__module__.split(".")[0]] = run = caller(
                            layer, x, call, mode == "training"
                        )
                        run()
                except Exception as error:  # what Keras cannot run is no case
                    if owner is cellkit.RNN:
                        print(f"{name}, {size}, {title}, {mode}: {error!r}"[:200])
                    continue
                yield f"{size}, {title}, {mode}", found


def ratio(runs: dict[str, Callable[[], Any]], seconds: float) -> float:
    """Return the least time of cellkit over the least time of Keras."""
    best = dict.fromkeys(runs, float("inf"))
    start = time.process_time()
    while True:
        for name, run in runs.items():
            before = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - before)
        if time.process_time() - start > seconds:
            return best["cellkit"] / best["keras"]


def main() -> None:
    """Sweep, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cells", nargs="*")
    parser.add_argument("--over", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    arguments = parser.parse_args()
    for name in arguments.cells or [*OWN, *cellkit.list_cells()]:
        found = {}
        for title, runs in cases(name, arguments.sizes, arguments.options):
            found[title] = ratio(runs, arguments.seconds)
            if found[title] > arguments.over:
                print(f"{name}, {title}: {found[title]:.2f}", flush=True)
        if found:
            median, most = statistics.median(found.values()), max(found.values())
            print(f"{name}: {len(found)} cases, median {median:.2f}, most {most:.2f}", flush=True)
        else:
            print(f"{name}: Keras runs none of the cases", flush=True)


if __name__ == "__main__":
    main()
