"""The mutants: deliberately broken cells and layers, and which checks must notice each.

A check that no mutant fails could be passed by anything. What a mutant is declared with names the
checks that must fail on it on every backend; others may notice it too. The project's tests run all
of them, and demand that every requirement of the edition kills at least one.
"""

from __future__ import annotations

import importlib

import keras

from cellkit_conformance.checks import MODULES
from cellkit_conformance.selftest.mutants.base import MUTANTS, Mutant, breaks

__all__ = ["MUTANTS", "Mutant"]

# A module of mutants is named after that of the checks; those of these modules stand with the rest
# of their group: the masks, gradients, randomness, serialization.
_WITH_OTHERS = ("poison", "learning", "dropout", "rates", "statistics", "saving")
for _name in MODULES:
    if _name not in _WITH_OTHERS:
        importlib.import_module(f"{__name__}.{_name}")
importlib.import_module(f"{__name__}.hall")

MUTANTS.append(Mutant("cellkit_conformance.selftest.mutants.meddler:Meddler", ("PUR-06",)))
breaks("MSK-09", "SEQ-04", raises=True)(keras.layers.RNN)
