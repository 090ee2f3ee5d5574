"""Recurrent cells as plugins for Keras 3, and one recurrent layer with one exact semantics.

```python
import cellkit

layer = cellkit.RNN(cellkit.create("lstm", units=32), return_sequences=True)
```

Importing cellkit imports neither Keras nor a backend: a backend is chosen once per process, and
listing cells should not choose it. The names that need Keras are found when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cellkit.registry import PluginWarning, RegisteredCell, create, get, list_cells, register
from cellkit.spec import CellSpec, Paper, WeightMap, export_weights, import_weights

if TYPE_CHECKING:
    from cellkit.bidirectional import Bidirectional
    from cellkit.cell import Cell, GatedCell
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

_LAZY = {
    "RNN": "cellkit.rnn",
    "Bidirectional": "cellkit.bidirectional",
    "StackedCells": "cellkit.stacked",
    "Cell": "cellkit.cell",
    "GatedCell": "cellkit.cell",
    "TensorSpec": "cellkit.structure",
}


def __getattr__(name: str) -> Any:
    """Import a name that needs Keras when it is first used."""
    if name not in _LAZY:
        raise AttributeError(f"module 'cellkit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return all public names, found already or not."""
    return sorted({*globals(), *__all__})
