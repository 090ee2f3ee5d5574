"""Savings of packed rows beside padded ones, on lengths of real sequences.

    KERAS_BACKEND=torch python benchmarks/packed.py [--units 64] [--batch 32] [--repeats 5]

The utterances of the Japanese vowels and the sentences of the movie reviews, in batches in their
order. Padded, each batch is as long as its longest sequence; packed, `cellkit.pack` puts the same
sequences into as many rows of that length as they need. One GRU runs over all batches, forward and
backward. Contestants take turns; printed are the steps in all rows, and the best of the repeats.

Memory is that of one gradient with the whole set as one batch, each in a process of its own: how
far the memory of the process grows at its peak, inputs included, and on JAX what the compiler says
of the compiled gradient, since compiling takes more than to run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import cellkit
from cellkit_bench.worker import peak_memory

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import _data  # noqa: E402

BACKEND = keras.backend.backend()
FEATURES, MOST = 12, 640


def lengths_of(name: str) -> list[int]:
    """Return the lengths of the training sequences of a set, at most `MOST` of them."""
    loaded, _ = _data.load(name, "train")
    if name == "japanese_vowels":
        return [int(n) for n in loaded["lengths"][:MOST]]
    return [max(1, len(text.split())) for text in loaded[:MOST]]


def padded(sequences: list[np.ndarray]) -> dict[str, Any]:
    """Return one row for each sequence."""
    longest = max(map(len, sequences))
    inputs = np.zeros((len(sequences), longest, FEATURES), "float32")
    for row, sequence in zip(inputs, sequences, strict=True):
        row[: len(sequence)] = sequence
    mask = np.arange(longest)[None] < np.array([len(s) for s in sequences])[:, None]
    return {"sequences": inputs, "mask": mask}


def packed(sequences: list[np.ndarray]) -> dict[str, Any]:
    """Return as many rows as are needed."""
    found = cellkit.pack(sequences)
    return {"sequences": found.inputs, "mask": found.mask, "segments": found.segments}


def gradient(layer: Any) -> Callable[[dict[str, Any]], Any]:
    """Return a function of a batch that computes the gradients of a layer's weights."""
    weights = layer.trainable_variables
    if BACKEND == "torch":

        def in_torch(batch: dict[str, Any]) -> Any:
            layer(**batch, training=True).sum().backward()
            return [w.value.grad for w in weights]

        return in_torch
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function(reduce_retracing=True, autograph=False)
        def in_tensorflow(batch: dict[str, Any]) -> Any:
            with tf.GradientTape() as tape:
                total = tf.reduce_sum(layer(**batch, training=True))
            return tape.gradient(total, [w.value for w in weights])

        return in_tensorflow
    import jax

    def loss(values: Any, batch: dict[str, Any]) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(weights, values, strict=True))):
            return layer(**batch, training=True).sum()

    compiled = jax.jit(jax.grad(loss))

    def in_jax(batch: dict[str, Any]) -> Any:
        return jax.block_until_ready(compiled([w.value for w in weights], batch))

    in_jax.lower = lambda batch: compiled.lower([w.value for w in weights], batch)
    return in_jax


def tensors(batch: Any) -> Any:
    """Return the arrays of a batch, or of several, as tensors."""
    return keras.tree.map_structure(keras.ops.convert_to_tensor, batch)


def new_layer(units: int) -> Any:
    """Return the layer that is measured."""
    layer = cellkit.RNN("gru", units=units, return_sequences=True)
    layer.build((None, None, FEATURES))
    return layer


def sequences_of(name: str) -> list[np.ndarray]:
    """Return a random sequence for each of a set, of its length."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, FEATURES)).astype("float32") for n in lengths_of(name)]


def bytes_of(name: str, way: str, units: int) -> int:
    """Return the memory of one gradient of a whole set, `"padded"` or `"packed"`."""
    make = {"padded": padded, "packed": packed}[way]
    batch, run = make(sequences_of(name)), gradient(new_layer(units))
    if BACKEND == "jax":
        found = run.lower(tensors(batch)).compile().memory_analysis()
        sizes = (
            found.argument_size_in_bytes,
            found.output_size_in_bytes,
            found.temp_size_in_bytes,
        )
        return sum(sizes)
    for count in (2, 3):  # loads and traces what a run needs, for any number of rows and steps
        run(tensors(make(sequences_of(name)[:count])))
    with peak_memory(BACKEND) as memory:
        run(tensors(batch))
    return int(memory["bytes"])


def apart(name: str, way: str, units: int) -> int:
    """Return `bytes_of` from a process of its own."""
    call = [sys.executable, __file__, "--units", str(units), "--memory", name, way]
    done = subprocess.run(call, check=True, capture_output=True, text=True)  # noqa: S603
    return int(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", nargs=2, metavar=("SET", "WAY"), help="this number alone")
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(bytes_of(*options.memory, options.units)))
        return
    print(f"{BACKEND}, {options.units} units, batches of {options.batch}")
    print(
        "| set | sequences | mean, longest | padded steps | packed | time padded | packed "
        "| memory padded | packed | engines |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in ("japanese_vowels", "reviews"):
        sequences = sequences_of(name)
        lengths = [len(s) for s in sequences]
        size = options.batch
        groups = [sequences[i : i + size] for i in range(0, len(sequences), size)]
        layer = new_layer(options.units)
        run = gradient(layer)
        ways = [[make(group) for group in groups] for make in (padded, packed)]
        steps = [sum(batch["mask"].size for batch in way) for way in ways]
        batches, best = [tensors(way) for way in ways], [float("inf")] * 2
        engines = []
        for way in batches:
            for batch in way:
                run(batch)
            engines.append(layer.engine_report().engine)
        for _ in range(options.repeats):
            for which, way in enumerate(batches):
                start = time.process_time()
                for batch in way:
                    run(batch)
                best[which] = min(best[which], time.process_time() - start)
        memory = [apart(name, way, options.units) / 1e6 for way in ("padded", "packed")]
        print(
            f"| {name} | {len(lengths)} | {np.mean(lengths):.1f}, {max(lengths)} "
            f"| {steps[0]:,} | {steps[1]:,} ({steps[1] / steps[0]:.2f}) "
            f"| {1000 * best[0]:.0f} ms | {1000 * best[1]:.0f} ms ({best[1] / best[0]:.2f}) "
            f"| {memory[0]:.0f} MB | {memory[1]:.0f} MB ({memory[1] / memory[0]:.2f}) "
            f"| {', '.join(engines)} |"
        )


if __name__ == "__main__":
    main()
