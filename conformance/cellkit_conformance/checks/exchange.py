"""Exchange between the backends of one run: files in a folder that they share.

A worker has one backend, so no worker can compare two. Each leaves what it found, by cell and
subject, and compares with what the others have left before it: every pair is compared once, by the
one that comes later.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy as np


class Exchange:
    """The shared folder, as the checks of one cell on one backend see it.

    Args:
        cell: The cell's name.
        backend: This process's place; see `places`.
        folder: The folder; a new one, of nobody else, unless given.
    """

    def __init__(self, cell: str, backend: str, folder: str | None = None) -> None:
        self.backend = backend
        self.met: set[str] = set()  # backends that have left something that was asked for
        if folder is None:
            folder = tempfile.mkdtemp(prefix="cellkit-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        root = Path(folder)
        # A cell's name may be a path.
        readable = "".join(c if c.isalnum() else "-" for c in cell)[-40:]
        self.folder = root / f"{readable}-{hashlib.sha256(cell.encode()).hexdigest()[:8]}"

    def mine(self, topic: str, suffix: str) -> Path:
        """Give the file that this backend writes.

        Args:
            topic: The subject of the file.
            suffix: Such as ".npz".
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{topic}.{self.backend}{suffix}"

    def others(self, topic: str, suffix: str) -> dict[str, Path]:
        """Find the files that other backends have left, by backend.

        Args:
            topic: The subject of the files.
            suffix: Such as ".npz".
        """
        if not self.folder.is_dir():
            return {}
        found = {}
        for path in sorted(self.folder.iterdir()):
            name = path.name.removeprefix(f"{topic}.").removesuffix(suffix)
            if path.name == f"{topic}.{name}{suffix}" and name != self.backend:
                found[name] = path
        self.met.update(found)
        return found

    def arrays(self, topic: str, own: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
        """Leave arrays for the others, and read what they have left.

        Args:
            topic: The subject of the arrays.
            own: This backend's, by name.

        Returns:
            The arrays of the others, by backend and name.
        """
        found = {}
        for name, path in self.others(topic, ".npz").items():
            with np.load(path) as data:
                found[name] = {key: data[key] for key in data.files}
        # Written aside and moved, so that nobody reads half a file.
        path = self.mine(topic, ".npz")
        unfinished = path.with_name(f"unfinished-{path.name}")
        np.savez(unfinished, **own)  # type: ignore[arg-type]  # taken for its option
        unfinished.replace(path)
        return found
