"""Recurrent cells as plugins for Keras 3, and one recurrent layer with one exact semantics.

```python
import cellkit

layer = cellkit.RNN(cellkit.create("lstm", units=32), return_sequences=True)
```

Importing cellkit imports neither Keras nor a backend: a backend is chosen once per process, and
listing cells should not choose it. The names that need Keras are found when they are first used,
and saved models find cellkit's layers as soon as both cellkit and Keras are imported.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from cellkit import _backends, _former_names, _with_keras
from cellkit.registry import (
    CellSpec,
    Guide,
    Paper,
    PluginWarning,
    RegisteredCell,
    WeightMap,
    create,
    export_weights,
    get,
    import_weights,
    list_cells,
    register,
)

if TYPE_CHECKING:
    from cellkit.cells import Cell, CellWrapper, GatedCell, LinearCell, MatrixCell, TensorSpec
    from cellkit.equations.cell import EquationCell, define
    from cellkit.layers.bidirectional import Bidirectional
    from cellkit.layers.distribution import layout_map
    from cellkit.layers.exporting import check_export
    from cellkit.layers.generation import Generated, generate
    from cellkit.layers.keras_weights import load_keras_weights
    from cellkit.layers.packing import Packed, pack, unpack
    from cellkit.layers.rnn import RNN
    from cellkit.layers.stacked import StackedCells
    from cellkit.layers.step_model import step_model

__version__ = "0.1.0"

__all__ = [
    "RNN",
    "Bidirectional",
    "Cell",
    "CellSpec",
    "CellWrapper",
    "EquationCell",
    "GatedCell",
    "Generated",
    "Guide",
    "LinearCell",
    "MatrixCell",
    "Packed",
    "Paper",
    "PluginWarning",
    "RegisteredCell",
    "StackedCells",
    "TensorSpec",
    "WeightMap",
    "__version__",
    "check_export",
    "create",
    "define",
    "export_weights",
    "generate",
    "get",
    "import_weights",
    "layout_map",
    "list_cells",
    "load_keras_weights",
    "register",
    "step_model",
    "pack",
    "unpack",
]


def __getattr__(name: str) -> Any:
    """Import the names that need Keras when the first of them is used."""
    if f"cellkit.{name}" in _former_names.NAMES:
        return importlib.import_module(f"cellkit.{name}")
    if name not in _with_keras.NAMES:
        raise AttributeError(f"module 'cellkit' has no attribute {name!r}")
    try:
        _with_keras.import_all()
    except Exception as error:
        of_backend = _backends.explain(error)
        if of_backend is None:
            raise
        raise of_backend from error
    for public, module in _with_keras.NAMES.items():
        globals()[public] = getattr(sys.modules[module], public)
    return globals()[name]


def __dir__() -> list[str]:
    """Return all public names, found already or not."""
    return sorted({*globals(), *__all__})


_former_names.install()
_with_keras.import_with_keras()
_backends.warn()
