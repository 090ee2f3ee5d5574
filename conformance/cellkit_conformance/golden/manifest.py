"""The manifest of a folder of golden files, and what becomes of one of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellkit.errors import problem

DEFAULT_LIMITS = {"float64": 1e-9, "float32": 1e-5}
"""Relative to the largest magnitude of an array, where the manifest says nothing."""


@dataclass
class Match:
    """Result of comparing one file on one backend.

    Attributes:
        name: The cell in the manifest.
        cell: The registered cell, or "" where there is none.
        dtype: The dtype that was computed in.
        error: The largest difference relative to the largest magnitude, by array.
        limit: The largest one allowed.
        problem: Reason why nothing could be compared, or "".
    """

    name: str
    cell: str = ""
    dtype: str = ""
    error: dict[str, float] | None = None
    limit: float = 0.0
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Say whether every array is within the limit."""
        return not self.problem and bool(self.error) and self.worst <= self.limit

    @property
    def worst(self) -> float:
        """The largest relative difference."""
        return max(self.error.values()) if self.error else float("nan")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a folder.

    Args:
        folder: Holds `manifest.json`.

    Raises:
        ValueError: There is none, or it is not one.
    """
    file = folder / "manifest.json"
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        cells = manifest["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise problem(
            f"{folder} is not a folder of golden files.",
            received=f"{type(error).__name__}: {error}",
            expected="a folder with manifest.json, which has a list `cells`, and .npz files",
            fix="pass such a folder, for example tests/golden",
        ) from error
    return {**manifest, "cells": cells}


def limits(manifest: Mapping[str, Any]) -> dict[str, float]:
    """Give the relative limits of a manifest by dtype."""
    return {
        dtype: float(manifest.get(f"tolerance_rel_{dtype}", default))
        for dtype, default in DEFAULT_LIMITS.items()
    }
