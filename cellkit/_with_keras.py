"""Lets Keras find cellkit's layers in saved models, without cellkit importing Keras.

Keras finds a saved class by the name that the class was registered under, so its module has to be
imported before a model is loaded. ``import cellkit`` must not do that, since it would import a
backend; but once Keras is there, with its backend, nothing is lost. So the modules are imported
together with Keras, whichever of the two comes first::

    import cellkit
    import keras

    model = keras.saving.load_model("model.keras")  # finds cellkit.RNN
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

NAMES = {
    "RNN": "cellkit.layers.rnn",
    "Bidirectional": "cellkit.layers.bidirectional",
    "StackedCells": "cellkit.layers.stacked",
    "Cell": "cellkit.cells.cell",
    "GatedCell": "cellkit.cells.gated",
    "LinearCell": "cellkit.cells.linear",
    "CellWrapper": "cellkit.cells.wrapper",
    "MatrixCell": "cellkit.cells.matrix",
    "TensorSpec": "cellkit.cells.structure",
    "EquationCell": "cellkit.equations.cell",
    "define": "cellkit.equations.cell",
    "generate": "cellkit.layers.generation",
    "Generated": "cellkit.layers.generation",
    "Packed": "cellkit.layers.packing",
    "pack": "cellkit.layers.packing",
    "unpack": "cellkit.layers.packing",
    "load_keras_weights": "cellkit.layers.keras_weights",
    "step_model": "cellkit.layers.step_model",
    "check_export": "cellkit.layers.exporting",
    "layout_map": "cellkit.layers.distribution",
}
"""The public names of cellkit that need Keras, with their modules."""


def import_with_keras() -> None:
    """Import the modules of `NAMES` now if Keras is imported already, otherwise when it is."""
    if "keras" in sys.modules:
        import_all()
    else:
        sys.meta_path.insert(0, _KerasFinder())


def import_all() -> None:
    """Import the modules of `NAMES`."""
    for module in dict.fromkeys(NAMES.values()):
        importlib.import_module(module)


class _KerasFinder(importlib.abc.MetaPathFinder):
    """Waits for the import of Keras, however often others look for Keras before."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find Keras as the other finders do, and have cellkit's modules imported after it."""
        if name != "keras":
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _KerasLoader(spec.loader.name, spec.loader.path, self)
        return spec


class _KerasLoader(importlib.machinery.SourceFileLoader):
    """Loads Keras from its source as usual, then imports cellkit's modules."""

    def __init__(self, name: str, path: str, finder: _KerasFinder) -> None:
        super().__init__(name, path)
        self.finder = finder

    def exec_module(self, module: ModuleType) -> None:
        """Run Keras' code, then import cellkit's."""
        super().exec_module(module)
        # Only now: where the backend is missing, Keras may be imported again with another one.
        if self.finder in sys.meta_path:
            sys.meta_path.remove(self.finder)
        # If one of cellkit's modules is what imports Keras, the others can't use it yet. It
        # registers its own classes; the rest follows with the first name taken from `cellkit`.
        if not any(map(_is_being_imported, list(sys.modules))):
            import_all()


def _is_being_imported(name: str) -> bool:
    spec = getattr(sys.modules[name], "__spec__", None)
    return name.startswith("cellkit.") and getattr(spec, "_initializing", False)
