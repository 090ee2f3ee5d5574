"""State that cells of one process share, watched for changes by one of them.

The cells of a run follow each other in one worker, because starting a process costs more than most
checks. That is fair only as long as a cell leaves Keras, NumPy and the suite as it found them: one
that puts a function of its own in the place of `keras.ops.tanh` gets the next cell a new process,
and a note in the report.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

SHARED = ("keras", "cellkit", "cellkit_conformance")
"""Packages all of whose modules are looked at; of NumPy and the backend the first level is."""

SHOWN = 5
"""Changes that are named."""


def take(backend: str) -> dict[str, int | str]:
    """Remember which functions and classes the shared packages consist of, and the settings.

    Args:
        backend: The Keras backend of this process.

    Returns:
        Identities by dotted name, and settings by what they are called.
    """
    from cellkit_conformance.subject.targets import settings

    found: dict[str, int | str] = {f"setting {k}": str(v) for k, v in settings().items()}
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        if module is None or not (top in SHARED or name in ("numpy", backend)):
            continue
        found[name] = id(module)
        for key, value in list(vars(module).items()):
            if callable(value):
                found[f"{name}.{key}"] = id(value)
                if isinstance(value, type) and value.__module__ == name:
                    found.update(_methods(f"{name}.{key}", value))
    return found


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Name what is another thing than before; what is new does not count.

    Args:
        before: An earlier result of `take`.
        after: A later one.
    """
    found = [name for name, value in before.items() if after.get(name) != value]
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return found[:SHOWN] + more


def _methods(prefix: str, cls: type) -> dict[str, int]:
    return {f"{prefix}.{key}": id(value) for key, value in vars(cls).items() if callable(value)}
