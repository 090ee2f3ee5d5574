"""NumPy as the backend of the engines: inference alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from cellkit.engines.numpy import loop
from cellkit.engines.numpy.recurrence import recurrence
from cellkit.engines.shared.inference import InferenceBackend
from cellkit.typing import Tensor


class NumpyBackend(InferenceBackend):
    """NumPy; see `cellkit.engines.backend.Backend`."""

    name = "numpy"
    run = staticmethod(loop.run)
    select = staticmethod(loop.select)
    recurrence = staticmethod(recurrence)

    def signature(self, x: Tensor) -> tuple[Any, ...] | None:
        """Return shape and dtype; see `Backend`."""
        return (x.shape, x.dtype) if type(x) is np.ndarray else None

    def own(self, x: Tensor) -> Any:
        """Return a copy."""
        return x.copy()

    def copied(self, x: Tensor) -> Any:
        """Return a copy."""
        return np.array(x)
