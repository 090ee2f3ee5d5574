"""OpenVINO as the backend of the engines: inference alone."""

from __future__ import annotations

from typing import Any

from cellkit.engines.openvino import loop
from cellkit.engines.shared.inference import InferenceBackend
from cellkit.typing import Tensor


class OpenVinoBackend(InferenceBackend):
    """OpenVINO; see `cellkit.engines.backend.Backend`."""

    name = "openvino"
    run = staticmethod(loop.run)
    select = staticmethod(loop.select)
    recurrence = staticmethod(loop.recurrence)

    def signature(self, x: Tensor) -> tuple[Any, ...] | None:
        """Return None: a tensor is a part of a graph that has not run yet."""
        return None

    def own(self, x: Tensor) -> Any:
        """Return the tensor: no one can change it."""
        return x

    def copied(self, x: Tensor) -> Any:
        """Return the tensor: no one can change it."""
        return x
