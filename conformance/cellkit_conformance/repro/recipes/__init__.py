"""Reproduction scripts of the requirements that compare no arrays: the check's few lines each.

One module per group of requirements. A recipe adds lines to a `Writer`. It may use `cell`
(built, with literal weights), `make()` for a new cell, and the data of the calls that the check
made.
"""

from __future__ import annotations

import importlib

from cellkit_conformance.repro.recipes.common import ALONE, RECIPES

MODULES = (
    "structure",
    "sequence",
    "training",
    "chance",
    "serialization",
    "compiled",
    "engines",
    "surroundings",
    "wrappers",
    "backends",
)

for _name in MODULES:
    importlib.import_module(f"{__name__}.{_name}")

__all__ = ["ALONE", "RECIPES"]
