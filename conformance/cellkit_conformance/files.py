"""Files of results: whole or not at all, so that a full disk costs no earlier result."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

from cellkit.errors import problem


def unwritable(failures: Iterable[tuple[object, OSError]]) -> ValueError:
    """Make the error that says which files could not be written.

    Args:
        failures: The names of what was to be written, and the system's errors.
    """
    said = [f"{what}: {type(error).__name__}: {error.strerror}" for what, error in failures]
    return problem(
        "A report cannot be written.",
        received="; ".join(said),
        expected="the path of a file that can be written, and room for it",
        fix="make room, or name a file in a folder of your own; what stood there is as it was",
    )


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole: until all of the text is on the disk, what was there stays.

    Args:
        path: The file; its folder is made. A link leads to the file that is replaced, and what is
            no file (a pipe, a device) is written to as it is.
        text: The new content, as UTF-8. A lone surrogate is spelt out.

    Raises:
        OSError: It cannot be written; nothing has changed then.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file as a whole, see `write_text`.

    Args:
        path: The file.
        data: The new content.
    """
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and not target.is_file():
        target.write_bytes(data)
        return
    unfinished = target.with_name(f".cellkit-{uuid.uuid4().hex}.unfinished")
    try:
        with unfinished.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # a full disk may say so as late as this
        if target.exists():
            shutil.copymode(target, unfinished)
        unfinished.replace(target)
    except OSError as error:
        # A file that is mounted alone, or in a folder that is closed, can be changed only in place.
        if error.errno not in (errno.EACCES, errno.EBUSY, errno.EXDEV) or not target.is_file():
            raise
        target.write_bytes(data)
    finally:
        if unfinished.exists():
            unfinished.unlink()
