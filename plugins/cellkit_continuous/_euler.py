"""Recurrent matrices that are made of others, so that an ODE stays stable."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import matmul


def mixed(h: Any, kernel: Any, beta: float) -> Any:
    """Return the product of a state with ``(1 - beta) (K + K^T) + beta (K - K^T)``.

    Args:
        h: Tensor of shape `(batch, units)`.
        kernel: K, a square weight, as ``h @ K``.
        beta: Degree of antisymmetry: 1 entirely, 0 not at all.
    """
    value = keras.ops.convert_to_tensor(kernel)
    return matmul(h, value - (2 * beta - 1) * keras.ops.transpose(value))


def antisymmetric(h: Any, upper: Any) -> Any:
    """Return the product of a state with ``K - K^T``, of which `upper` is one half.

    Args:
        h: Tensor of shape `(batch, units)`.
        upper: Entries above the diagonal of ``K - K^T``, row by row, as ``h @ (K - K^T)``. None
            for one unit, which has no such numbers.
    """
    if upper is None:
        return 0.0 * h
    units = round((1 + (1 + 8 * upper.shape[0]) ** 0.5) / 2)
    value = keras.ops.convert_to_tensor(upper)
    entries = keras.ops.concatenate([value, -value, keras.ops.zeros((1,), value.dtype)])
    index: Any = places(units)
    if keras.backend.backend() == "torch":
        import torch

        index = torch.as_tensor(index, device=value.device)  # torch.compile traces this alone
    # Rows of one column: what PyTorch writes to ONNX.
    matrix = keras.ops.take(keras.ops.expand_dims(entries, -1), index, axis=0)
    return matmul(h, keras.ops.reshape(matrix, (units, units)))


def places(units: int) -> np.ndarray:
    """Return where each entry of an antisymmetric matrix stands in (half, -half, 0), flat."""
    rows, columns = np.triu_indices(units, 1)
    found = np.full((units, units), 2 * len(rows), "int32")
    found[rows, columns] = np.arange(len(rows))
    found[columns, rows] = np.arange(len(rows), 2 * len(rows))
    return found.reshape(-1)
