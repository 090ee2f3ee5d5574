"""Rebuild digits.npz from the scikit-learn wheel, which carries the test set of UCI optdigits.

python examples/data/make_digits.py            # writes the file next to this script
python examples/data/make_digits.py --check    # compares with the file that is there

Version and checksums are pinned, so the result is the same every time.
"""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path

import _wheel
import numpy as np

DISTRIBUTION = "scikit-learn==1.9.1"
MEMBERS = {
    "digits": (
        "sklearn/datasets/data/digits.csv.gz",
        "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
    )
}
TRAIN = 1200  # images; cut, not shuffled: the source says of no image which of 13 people wrote it
TARGET = Path(__file__).with_name("digits.npz")


def build(wheel: Path) -> dict[str, np.ndarray]:
    """Read the images from the wheel and return the arrays of the npz file."""
    text = gzip.decompress(_wheel.members(wheel, DISTRIBUTION, MEMBERS)["digits"])
    table = np.loadtxt(io.BytesIO(text), delimiter=",").astype("uint8")
    images, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype("int32")
    return {
        "train_images": images[:TRAIN],
        "train_labels": labels[:TRAIN],
        "test_images": images[TRAIN:],
        "test_labels": labels[TRAIN:],
    }


if __name__ == "__main__":
    sys.exit(_wheel.main(__doc__, DISTRIBUTION, TARGET, build))
