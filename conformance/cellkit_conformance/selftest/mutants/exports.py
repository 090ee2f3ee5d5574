"""EXP: a broken layer that is another one in a file."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import keras

from cellkit_conformance.checks.exports import FORMS
from cellkit_conformance.edition import requirements
from cellkit_conformance.selftest.mutants.base import BrokenLayer, breaks, is_traced
from cellkit_conformance.subject.canaries import PlainCanary


@keras.saving.register_keras_serializable(package="cellkit_conformance")
class ExportedCanary(PlainCanary):
    """A cell that claims every format."""


ExportedCanary.spec = dataclasses.replace(
    PlainCanary.spec,
    traits=frozenset({"masking", *(t for id in FORMS for t in requirements()[id].traits)}),
)


@breaks(*FORMS, cell=ExportedCanary)
class AnotherInFiles(BrokenLayer):
    """Outputs of the traced layer are not those of the eager one."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Shift the outputs where the call is traced."""
        return self.on_output(result, lambda y: y + 0.01) if _written(sequences) else result


@breaks(*FORMS, cell=ExportedCanary)
class OtherOrderInFiles(BrokenLayer):
    """Outputs of the traced layer are in the order of time reversed."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Reverse the outputs where the call is traced."""
        written = _written(sequences) and self.return_sequences
        return self.on_output(result, lambda y: keras.ops.flip(y, axis=1)) if written else result


def _written(sequences: Any) -> bool:
    """Tell whether a call is traced, as it is for a file."""
    torch = sys.modules.get("torch")
    traced = is_traced(keras.tree.flatten(sequences)[0])
    if keras.backend.backend() == "torch" and torch is not None:
        return traced or torch.jit.is_tracing()
    return traced
