"""The inputs of a golden file, in the structure that its cell takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cellkit_conformance.trees import Tree


def inputs_of(spec: Any, entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Tree:
    """Bring the file's inputs into the structure that the cell takes.

    Args:
        spec: Of the cell.
        entry: The manifest's entry.
        arrays: The arrays of the file.
    """
    if "inputs" in entry:
        return [arrays[key] for key in entry["inputs"]]
    if isinstance(spec.inputs, dict):
        return {key: arrays[key] for key in spec.inputs}
    extra = [arrays[key] for key in ("dt", "time") if key in arrays]
    return [arrays["x"], *extra] if extra else arrays["x"]
