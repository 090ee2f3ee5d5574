"""The end of a worker with its parent, however busy the worker and however sudden the end.

A parent holds the writing end of its worker's standard input, and the system closes it with the
parent. A worker that computes does not look, and one that loops in compiled code has no thread that
could. So a small process beside it waits for that end, and kills the worker with all that the
worker has started.
"""

from __future__ import annotations

import select
import subprocess
import sys
from typing import Any

OF_A_WORKER: dict[str, Any] = {"stdin": subprocess.PIPE, "start_new_session": True}
"""What `subprocess.Popen` is told where a parent starts a worker."""

_watchers: list[subprocess.Popen[bytes]] = []

_WATCH = """
import os, select, signal
ends = select.poll()
ends.register(0, 0)  # no event but the end of the other side
ends.poll()
os.killpg(0, signal.SIGKILL)
"""


def end_with_parent() -> None:
    """Have this worker end with its parent.

    The worker leads a session of its own, see `OF_A_WORKER`. Where the system has no such question
    (Windows), a worker ends when it asks for the next request.
    """
    if not hasattr(select, "poll"):
        return
    command = [sys.executable, "-E", "-S", "-c", _WATCH]
    watcher = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _watchers.append(watcher)
