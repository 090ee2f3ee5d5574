"""The checks: one function per requirement, found by its id.

A check takes a `Context` and returns nothing. It raises through the context (`require`, `close`,
`same`, `raises`) when the requirement does not hold, and `NotApplicable` when the cell denies the
trait. It says *what must hold*; shapes, examples and tolerances are the context's business.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from cellkit_conformance.checks.context import Context

Check = Callable[[Context], None]

MODULES = (
    "structure",
    "numerics",
    "sequence",
    "states",
    "masking",
    "poison",
    "resets",
    "gradients",
    "learning",
    "engines",
    "randomness",
    "dropout",
    "rates",
    "statistics",
    "serialization",
    "saving",
    "dtypes",
    "compiled",
    "distribution",
    "exports",
    "wrappers",
    "purity",
    "extremes",
    "options",
    "errors",
)

CHECKS: dict[str, Check] = {}


def check(identifier: str) -> Callable[[Check], Check]:
    """Register a function as the check of a requirement.

    Args:
        identifier: The id of the requirement.

    Raises:
        RuntimeError: The id has a check already.
    """

    def register(function: Check) -> Check:
        if identifier in CHECKS:
            raise RuntimeError(f"{identifier} has two checks")
        CHECKS[identifier] = function
        return function

    return register


def load() -> dict[str, Check]:
    """Import all checks and return them by id."""
    for module in MODULES:
        importlib.import_module(f"{__name__}.{module}")
    return CHECKS
