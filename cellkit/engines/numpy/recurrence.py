"""`recurrence` on NumPy: step by step."""

from __future__ import annotations

from typing import Any

import numpy as np

from cellkit.typing import Tensor


def recurrence(a: Tensor, b: Tensor, h: Tensor, cuts: bool = False) -> Any:
    """Return all ``h_t = a_t * h_{t-1} + b_t``; see `cellkit.engines.backend.Backend`."""
    a, h = np.broadcast_to(a, b.shape), np.broadcast_to(h, b[:, 0].shape)
    states = np.empty_like(b)
    for t in range(b.shape[1]):
        passed = a[:, t] * h
        h = (np.where(a[:, t] == 0, 0, passed) if cuts else passed) + b[:, t]
        states[:, t] = h
    return states
