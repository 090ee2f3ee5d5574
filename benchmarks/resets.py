"""Which way round resets is faster for PyTorch's own LSTM and GRU, and does the rule know it?

    KERAS_BACKEND=torch python benchmarks/resets.py [--units 64] [--rows 32] [--steps 200]

The engine `kernel` runs a batch with resets in pieces or in spans, as a rule about the shape of the
resets says. Here both are made to run, in turns and on one thread, forward and backward. Printed
are the time of the spans to that of the pieces, what the rule expects it to be, and how much longer
the way that the rule takes is than the better one. Times are those of the processor, so that other
programs do not count.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import keras
import numpy as np
import torch

import cellkit
from cellkit.engines.torch import kernel

FEATURES = 32


def patterns(rows: int, steps: int) -> dict[str, np.ndarray]:
    """Return resets `(rows, steps)` of several shapes by their names."""
    rng = np.random.default_rng(0)
    none = np.zeros((rows, steps), bool)

    def at(*places: Any) -> np.ndarray:
        found = none.copy()
        for row, step in places:
            found[row, step] = True
        return found

    together = none.copy()
    together[:, :: max(1, steps // 10)] = True
    return {
        "one in one row": at((0, steps // 2)),
        "one in every fourth row": at(*((r, rng.integers(1, steps)) for r in range(0, rows, 4))),
        "one in every row": at(*((r, rng.integers(1, steps)) for r in range(rows))),
        "all rows together, ten times": together,
        "one step in fifty": rng.random((rows, steps)) < 1 / 50,
        "one step in ten": rng.random((rows, steps)) < 1 / 10,
        "one step in two": rng.random((rows, steps)) < 1 / 2,
        "every step": ~none,
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cell", default="lstm")
    parser.add_argument("--inference", action="store_true", help="forward alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    layer = cellkit.RNN(options.cell, units=options.units, return_sequences=True, engine="kernel")
    x = keras.random.normal((options.rows, options.steps, FEATURES), seed=1)
    rule, costs = kernel._costs, {}

    def run(resets: Any, way: str) -> float:
        def forced(*arguments: Any) -> dict[str, float]:
            costs.update(rule(*arguments))
            return {name: cost if name == way else float("inf") for name, cost in costs.items()}

        kernel._costs = forced
        start = time.process_time()
        with torch.set_grad_enabled(not options.inference):
            y = layer(x, resets=resets, training=not options.inference)
        if not options.inference:
            y.sum().backward()
        kernel._costs = rule
        return time.process_time() - start

    print(f"{options.cell}, {options.units} units, {options.rows} rows of {options.steps} steps")
    print("| resets | spans to pieces | expected | taken | longer than the better |")
    print("|---|---|---|---|---|")
    for name, flags in patterns(options.rows, options.steps).items():
        resets = torch.from_numpy(flags)
        best = {}
        for repeat in range(options.repeats + 1):
            for way in ("pieces", "spans"):
                took = run(resets, way)
                if repeat:
                    best[way] = min(took, best.get(way, took))
        taken = min(costs, key=lambda way: costs[way])
        print(
            f"| {name} | {best['spans'] / best['pieces']:.2f} "
            f"| {costs['spans'] / costs['pieces']:.2f} | {taken} "
            f"| {best[taken] / min(best.values()):.2f} |"
        )


if __name__ == "__main__":
    main()
