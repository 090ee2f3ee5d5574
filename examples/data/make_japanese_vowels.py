"""Rebuild japanese_vowels.npz from the aeon wheel, which carries the JapaneseVowels series.

python examples/data/make_japanese_vowels.py            # writes the file next to this script
python examples/data/make_japanese_vowels.py --check    # compares with the file that is there

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
        "aeon/datasets/data/JapaneseVowels/JapaneseVowels_TRAIN.ts",
        "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd",
    ),
    "test": (
        "aeon/datasets/data/JapaneseVowels/JapaneseVowels_TEST.ts",
        "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462",
    ),
}
TARGET = Path(__file__).with_name("japanese_vowels.npz")


def build(wheel: Path) -> dict[str, np.ndarray]:
    """Read both splits from the wheel and return the arrays of the npz file.

    The series of a split lie one after the other in `values`; `lengths` says where they end.
    """
    arrays: dict[str, np.ndarray] = {}
    for split, data in _wheel.members(wheel, DISTRIBUTION, MEMBERS).items():
        series, labels = _wheel.read_ts(data.decode("utf-8"))
        arrays[f"{split}_values"] = np.concatenate(series)
        arrays[f"{split}_lengths"] = np.array([len(x) for x in series], "int32")
        arrays[f"{split}_labels"] = np.array(labels, "int32") - 1  # the speakers are 1 to 9
    return arrays


if __name__ == "__main__":
    sys.exit(_wheel.main(__doc__, DISTRIBUTION, TARGET, build))
