"""What does `torch.compile` make of a layer, beside the same layer eager?

    KERAS_BACKEND=torch python benchmarks/compiled.py [CELL ...] [--steps 25] [--rows 32]

A layer is compiled as one graph, which holds every step of its plain loop; eager, it runs on the
engine that it chooses. Keras' RNN with the same cell is compiled beside it, in several graphs. All
take turns in one process, on one thread; printed are the eager time, its ratio to the others,
and how long the first compiled call took. Times are those of the processor, so that other programs
do not count.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Of what it cannot compile of others, PyTorch says more than anybody reads here.
os.environ.setdefault("TORCH_LOGS", "-dynamo")

import time

import keras
import torch
from sweep import caller

import cellkit
from cellkit_bench.timing import alternate, ratio, summarize

CELLS = ("lstm", "gru", "peephole_lstm", "min_gru")


def measure(name: str, shape: tuple[int, int, int], training: bool, seconds: float) -> list[str]:
    """Return the cells of one row of the table."""
    x = torch.randn(shape)
    calls: dict[str, Callable[[], Any]] = {}
    first: dict[str, float] = {}
    for who, make in (("cellkit", cellkit.RNN), ("Keras", keras.layers.RNN)):
        try:
            layer = make(cellkit.create(name, units=shape[-1]))
            layer.build(shape)
        except ValueError:  # Keras takes no states of other shapes or dtypes
            continue
        compiled = torch.compile(layer, fullgraph=who == "cellkit")
        for way, run in (("eager", layer), ("compiled", compiled)):
            call = calls[f"{who}, {way}"] = caller(run, x, {}, training)
            start = time.process_time()
            call()
            first[f"{who}, {way}"] = time.process_time() - start
    times = alternate(calls, seconds, 7, clock=time.process_time)
    medians = {who: [summarize(turn).median for turn in taken] for who, taken in times.items()}
    eager = medians.pop("cellkit, eager")
    others = ("cellkit, compiled", "Keras, eager", "Keras, compiled")
    ratios = [f"{ratio(eager, medians[o]).median:.2f}" if o in medians else "" for o in others]
    took = f"{first['cellkit, compiled']:.0f} s"
    return [f"{1e3 * summarize(eager).median:.1f} ms", *ratios, took]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cells", nargs="*", default=CELLS)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each row of the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape = (options.rows, options.steps, options.width)
    print(f"PyTorch {torch.__version__}, batch x steps x width {shape}, one thread")
    print("| cell | eager | to compiled | to Keras | to Keras compiled | first compiled call |")
    print("|---|---|---|---|---|---|")
    for name in options.cells:
        for training in (False, True):
            what = f"`{name}`, {'training' if training else 'inference'}"
            row = measure(name, shape, training, options.seconds)
            print(f"| {what} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
