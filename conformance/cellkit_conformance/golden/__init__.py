"""Golden files: frozen inputs, weights and outputs of implementations by other authors.

A folder holds `manifest.json` and one `.npz` per cell, in the format that `tests/golden/README.md`
describes. A file is compared when its cell is registered, under its own name or as an alias in a
spec; the spec's weight map brings the paper's symbols onto the cell's weights.

Files in float64 are compared in float64 on every backend; JAX workers run with x64 for that.
"""
