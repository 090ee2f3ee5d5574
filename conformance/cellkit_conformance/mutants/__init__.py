"""The mutants: deliberately broken cells and layers, and which checks must notice each.

A check that no mutant fails could be passed by anything. What a mutant is declared with names the
checks that must fail on it on every backend; others may notice it too. The project's tests run all
of them, and demand that every requirement of the edition kills at least one.
"""

from __future__ import annotations

import importlib

import keras

from cellkit_conformance.mutants.base import MUTANTS, Mutant, breaks

_MODULES = (
    "structure",
    "numerics",
    "sequence",
    "states",
    "masking",
    "gradients",
    "randomness",
    "serialization",
    "dtypes",
    "compiled",
    "wrappers",
    "purity",
    "errors",
    "engines",
)

for _name in _MODULES:
    importlib.import_module(f"{__name__}.{_name}")

MUTANTS.append(Mutant("cellkit_conformance.mutants.meddler:Meddler", ("PUR-06",)))
breaks("MSK-09", "SEQ-04", raises=True)(keras.layers.RNN)
