"""Every example runs to its end with `--quick`, on the backend of this process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(p.name for p in EXAMPLES.glob("[!_]*.py"))
PNG = b"\x89PNG\r\n\x1a\n"


def run(name, *arguments, backend):
    """Run an example as a reader would: in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    # What is not installed is found from the root of the repository.
    environment["PYTHONPATH"] = os.pathsep.join(
        [*map(str, (ROOT, ROOT / "plugins")), environment.get("PYTHONPATH", "")]
    )
    return subprocess.run(
        [sys.executable, EXAMPLES / name, "--backend", backend, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def test_motion_nested_beats_its_baselines_and_draws_a_plot(backend, tmp_path):
    plot = tmp_path / "made" / "plot.png"
    done = run("motion_nested.py", "--quick", "--plot", str(plot), backend=backend)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("holds") == 2
    assert "FAILS" not in done.stdout
    assert f"{backend} backend" in done.stdout
    assert done.stdout.count("LICENSES.md") == 1
    written = plot.read_bytes()
    assert written.startswith(PNG)
    assert len(written) > 30_000


def test_guide_trains_with_one_import_changed(backend):
    done = run("guide_nested_cell.py", "--quick", backend=backend)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "after one epoch" in done.stdout


def test_guide_needs_that_import(backend, tmp_path):
    # When this fails, Keras has learnt it, and the example's docstring must say so.
    text = (EXAMPLES / "guide_nested_cell.py").read_text()
    changed = text.replace("from cellkit import RNN", "from keras.layers import RNN")
    assert changed != text
    script = tmp_path / "guide.py"
    script.write_text(
        changed.replace(
            "import _options", f"sys.path.insert(0, {str(EXAMPLES)!r})\nimport _options"
        )
    )
    done = run(script, "--quick", backend=backend)
    assert done.returncode == 1
    assert "Error" in done.stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_says_what_an_example_shows(name, backend):
    done = run(name, "--help", backend=backend)
    assert done.returncode == 0
    assert "--quick" in done.stdout
    assert f"python examples/{name}" in done.stdout


def test_unknown_backend_is_refused_before_keras_is_imported():
    done = run("guide_nested_cell.py", backend="numpy")
    assert done.returncode == 2
    assert "invalid choice: 'numpy'" in done.stderr
