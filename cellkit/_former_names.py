"""Former names of modules and options, kept for code that was written with them.

``from cellkit.cell import matmul`` finds `cellkit.cells`. A module is imported under its name of
today, and stands under both. Whoever uses a former name is told the name of today, once.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

NAMES = {
    "cellkit.bidirectional": "cellkit.layers.bidirectional",
    "cellkit.cell": "cellkit.cells",
    "cellkit.gaps": "cellkit.cells",
    "cellkit.initializers": "cellkit.cells",
    "cellkit.linear": "cellkit.cells",
    "cellkit.reference": "cellkit.registry.reference",
    "cellkit.rnn": "cellkit.layers.rnn",
    "cellkit.spec": "cellkit.registry",
    "cellkit.stacked": "cellkit.layers.stacked",
    "cellkit.states": "cellkit.layers.states",
    "cellkit.structure": "cellkit.cells.structure",
    "cellkit.symbols": "cellkit.registry",
    "cellkit._errors": "cellkit.errors",
    "cellkit._names": "cellkit.registry.names",
}
"""The module of today for each former name."""

_BETWEEN = {"cellkit", "importlib", "_frozen_importlib", "keras"}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules of today under their former names."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module that has another name today."""
        return importlib.machinery.ModuleSpec(name, self) if name in NAMES else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of today in the place of the empty one."""
        warn(module.__name__, NAMES[module.__name__])
        sys.modules[module.__name__] = importlib.import_module(NAMES[module.__name__])


def warn(former: str, today: str) -> None:
    """Tell the code that uses a former name which one to use.

    Args:
        former: The former name.
        today: The name of today.
    """
    frame = sys._getframe(1)
    # Between here and that code, there is nothing but imports and cellkit.
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] in _BETWEEN:
        frame = frame.f_back
    warnings.warn_explicit(
        f"{former} is a former name, which cellkit 1.0 will not know: write {today}.",
        DeprecationWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def install() -> None:
    """Let imports find the former names, once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
