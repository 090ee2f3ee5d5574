"""Reproduction scripts of the requirements that compare no arrays: the check's few lines each.

One module per group of requirements. A recipe adds lines to a `scripts.Writer`. It may use `cell`
(built, with literal weights), `make()` for a new cell, and the data of the calls that the check
made.
"""

from __future__ import annotations

import importlib

from cellkit_conformance.recipes.common import ALONE, RECIPES

MODULES = ("structure", "sequence", "training", "serialization", "surroundings", "wrappers")

WITHOUT = {
    "GRD-02": "it needs another backend beside this one",
    "SER-03": "it reads a model file where the cell's module was not imported",
    "SER-04": "it needs another backend beside this one",
    "SER-10": "it tries a table of objects",
    "ERR-02": "it needs another backend beside this one",
    "CMP-01": "it needs the backend's compiler",
    "CMP-02": "it counts what the backend's compiler traces",
    "DTY-02": "on JAX it needs a process with x64",
    "DEV-01": "it needs several devices",
    "DEV-04": "it needs several devices",
    "RNG-04": "it compares the sizes of gradients over many rows",
    "RNG-09": "it counts kept entries over many rows",
}
"""Why a requirement has no script; the command that runs its check alone is always there."""

for _name in MODULES:
    importlib.import_module(f"{__name__}.{_name}")

__all__ = ["ALONE", "RECIPES", "WITHOUT"]
