"""The example serves a file of its own, on every backend."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from exporting import installed

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not installed("onnx"), reason="what writes or runs ONNX is not installed")
def test_steps_are_served_from_a_file(backend):
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [*map(str, (ROOT, ROOT / "plugins")), environment.get("PYTHONPATH", "")]
    )
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "serve_steps.py", "--backend", backend, "--quick"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("holds") == 2
