"""Memory of a training step with and without `remat`, as a part of what it takes without.

    KERAS_BACKEND=torch python benchmarks/remat.py [--units 128] [--steps 4096] [--batch 32]

One `gru` runs forward and backward over long sequences, with `remat` and without, each in a process
of its own. Memory is how far the process grows at its peak, inputs included, and on JAX what the
compiler says of the compiled gradient.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import numpy as np
from packed import BACKEND, FEATURES, gradient, tensors

import cellkit
from cellkit_bench.worker import peak_memory


def bytes_of(remat: bool, units: int, steps: int, batch: int) -> int:
    """Return the memory of one gradient."""
    layer = cellkit.RNN("gru", units=units, remat=remat)
    layer.build((None, None, FEATURES))
    rng, run = np.random.default_rng(0), gradient(layer)

    def inputs(steps: int) -> dict[str, np.ndarray]:
        return {"sequences": rng.normal(size=(batch, steps, FEATURES)).astype("float32")}

    if BACKEND == "jax":
        found = run.lower(tensors(inputs(steps))).compile().memory_analysis()
        return int(
            found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
        )
    for few in (5, 6):  # loads and traces what a run needs, for any number of steps
        run(tensors(inputs(few)))
    long = tensors(inputs(steps))
    with peak_memory(BACKEND) as memory:
        run(long)
    return int(memory["bytes"])


def main() -> int:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("units", 128), ("steps", 4096), ("batch", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--one", choices=["plain", "remat"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sizes = options.units, options.steps, options.batch
        print(json.dumps(bytes_of(options.one == "remat", *sizes)))
        return 0
    found = {}
    for way in ("plain", "remat"):
        words = [f"--{name}={getattr(options, name)}" for name in ("units", "steps", "batch")]
        call = [sys.executable, __file__, *words, "--one", way]
        done = subprocess.run(call, check=True, capture_output=True, text=True)  # noqa: S603
        found[way] = int(json.loads(done.stdout.splitlines()[-1]))
    plain, remat = (found[way] / 2**20 for way in ("plain", "remat"))
    said = f"{options.units} units, {options.batch} rows of {options.steps} steps"
    print(f"{BACKEND}, a gru of {said}: {plain:.0f} MiB, with remat {remat:.0f}", end="")
    print(f" ({remat / plain:.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
