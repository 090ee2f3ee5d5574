"""Standard output whose reader may leave, as ``head`` does."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import TextIO


class _Output(io.FileIO):
    """A file descriptor that drops its data when the reader has gone."""

    def write(self, data: object, /) -> int:
        """Write, or drop all where the reader is gone."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


@contextlib.contextmanager
def readers_may_leave() -> Iterator[None]:
    """Let a command run to its end, and keep its exit code, where its reader has left.

    Streams that are not files of the process, as those of a test, stay as they are.
    """
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_tolerant, kept)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = kept


def _tolerant(stream: TextIO) -> TextIO:
    """Give the same stream on a tolerant descriptor."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # with PYTHONUNBUFFERED there is no buffer
    if not isinstance(stream, io.TextIOWrapper) or type(raw) is not io.FileIO:
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(raw.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
