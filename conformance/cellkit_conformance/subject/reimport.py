"""Import of a cell's module a second time, beside the first: what another process would find."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

import keras

from cellkit.registry.registry import forgotten
from cellkit_conformance.subject.constants import is_fed

FRAMEWORKS = {"keras", "cellkit", "cellkit_conformance", "__main__"}
"""Packages that are not imported anew: what is in them is not the cell's own."""


def imported_anew(cls: Any) -> Any:
    """Import the file of a class again, and return the class that is found there.

    The first import stays what everybody else sees: modules, registered cells and what Keras knows
    by name are put back.

    Args:
        cls: A class of cells.

    Returns:
        Another class of the same name, or None where there is no such file or it does not import
        twice.
    """
    name = cls.__module__
    if is_fed(cls):  # made by the suite of one that is there
        return None
    try:
        file = inspect.getsourcefile(cls)
    except (TypeError, OSError):  # a class that was made in an interpreter
        return None
    if file is None or Path(file).name == "__init__.py" or name.split(".")[0] in FRAMEWORKS:
        return None
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        return None
    known = keras.saving.get_custom_objects()
    before, first = dict(known), sys.modules.get(name)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    found: Any = module
    try:
        with forgotten():
            spec.loader.exec_module(module)
        for part in cls.__qualname__.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit):  # noqa: BLE001 (it can be imported once, as most programs do)
        return None
    finally:
        known.clear()
        known.update(before)
        sys.modules.pop(name, None)
        if first is not None:
            sys.modules[name] = first
    return found if inspect.isclass(found) and found is not cls else None
