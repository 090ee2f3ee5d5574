"""Rebuild basic_motions.npz from the aeon wheel, which carries the BasicMotions recordings.

python examples/data/make_basic_motions.py            # writes the file next to this script
python examples/data/make_basic_motions.py --check    # compares with the file that is there

Version and checksums are pinned, so the result is the same every time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import _wheel
import numpy as np

DISTRIBUTION = "aeon==1.6.0"
MEMBERS = {
    "train": (
        "aeon/datasets/data/BasicMotions/BasicMotions_TRAIN.ts",
        "8dc43cc6306cb679c888c01e26f91772ac4441a916da43bac8b79734a538b9d6",
    ),
    "test": (
        "aeon/datasets/data/BasicMotions/BasicMotions_TEST.ts",
        "79213102bc6fca1a398ad98ce1185dff0208fa3d1465e687f48288946b0ff8dc",
    ),
}
CLASSES = ("Standing", "Running", "Walking", "Badminton")  # the order in the files' headers
TARGET = Path(__file__).with_name("basic_motions.npz")


def read_ts(text: str) -> tuple[np.ndarray, list[str]]:
    """Read recordings that all have the same length.

    Returns:
        Values of shape (recordings, steps, channels), float32, and the labels.
    """
    recordings, labels = _wheel.read_ts(text)
    return np.stack(recordings), labels


def build(wheel: Path) -> dict[str, np.ndarray]:
    """Read both splits from the wheel and return the arrays of the npz file."""
    arrays: dict[str, np.ndarray] = {"classes": np.array(CLASSES)}
    for split, data in _wheel.members(wheel, DISTRIBUTION, MEMBERS).items():
        values, labels = read_ts(data.decode("utf-8"))
        arrays[f"{split}_values"] = values
        arrays[f"{split}_labels"] = np.array([CLASSES.index(name) for name in labels], "int32")
    return arrays


if __name__ == "__main__":
    sys.exit(_wheel.main(__doc__, DISTRIBUTION, TARGET, build))
