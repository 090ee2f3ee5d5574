"""A worker ends with its parent, for whichever command it works."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORKER = """
import os
from cellkit_conformance.run.lifeline import end_with_parent
end_with_parent()
print(os.getpid(), flush=True)
sum(range(10**15))
"""

PARENT = """
import subprocess, sys
from cellkit_conformance.run import lifeline
worker = subprocess.Popen([sys.executable, "-c", sys.argv[1]], **lifeline.OF_A_WORKER)
worker.wait()
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc")


def state(pid):
    """Say in which state a process is; Z where it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return "Z"
    return text.rpartition(")")[2].split()[0]


@pytest.mark.one_backend
def test_a_worker_that_computes_in_c_ends_when_its_parent_is_killed():
    command = [sys.executable, "-c", PARENT, WORKER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        time.sleep(0.2)
        assert state(worker) != "Z"
        os.kill(parent.pid, signal.SIGKILL)
        end = time.monotonic() + 10.0
        while state(worker) != "Z" and time.monotonic() < end:
            time.sleep(0.02)
        assert state(worker) == "Z"


@pytest.mark.one_backend
def test_every_worker_is_started_and_watched_so():
    """A process that a command starts for a backend holds on to the parent's life."""
    root = Path(__file__).parents[2] / "conformance"
    texts = {path: path.read_text(encoding="utf-8") for path in root.rglob("*.py")}
    started = {
        module
        for text in texts.values()
        for module in re.findall(r'"-m",\s*"(cellkit_\w+(?:\.\w+)+)"', text)
    }
    assert len(started) >= 3
    for module in started:
        path = root / (module.replace(".", "/") + ".py")
        assert "end_with_parent()" in texts[path], module
    starting = [text for text in texts.values() if re.search(r'"-m",\s*"cellkit_', text)]
    assert all("lifeline.OF_A_WORKER" in text for text in starting)
