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

import sys
from typing import TYPE_CHECKING, Any

from cellkit import _with_keras
from cellkit.registry import PluginWarning, RegisteredCell, create, get, list_cells, register
from cellkit.spec import CellSpec, Paper, WeightMap, export_weights, import_weights

if TYPE_CHECKING:
    from cellkit.bidirectional import Bidirectional
    from cellkit.cell import Cell, GatedCell
    from cellkit.linear import LinearCell
    from cellkit.rnn import RNN
    from cellkit.stacked import StackedCells
    from cellkit.structure import TensorSpec

__version__ = "0.1.0"

__all__ = [
    "RNN",
    "Bidirectional",
    "Cell",
    "CellSpec",
    "GatedCell",
    "LinearCell",
    "Paper",
    "PluginWarning",
    "RegisteredCell",
    "StackedCells",
    "TensorSpec",
    "WeightMap",
    "__version__",
    "create",
    "export_weights",
    "get",
    "import_weights",
    "list_cells",
    "register",
]


def __getattr__(name: str) -> Any:
    """Import the names that need Keras when the first of them is used."""
    if name not in _with_keras.NAMES:
        raise AttributeError(f"module 'cellkit' has no attribute {name!r}")
    _with_keras.import_all()
    for public, module in _with_keras.NAMES.items():
        globals()[public] = getattr(sys.modules[module], public)
    return globals()[name]


def __dir__() -> list[str]:
    """Return all public names, found already or not."""
    return sorted({*globals(), *__all__})


_with_keras.import_with_keras()
