"""Every example runs to its end with `--quick`, on one backend at least, and beats its baseline."""

import os
import subprocess
import sys
from pathlib import Path

import _gradients
import _options
import keras
import numpy as np
import pytest
from cheap import cheaply
from portions import full

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(p.name for p in EXAMPLES.glob("[!_]*.py"))
PNG = b"\x89PNG\r\n\x1a\n"

# Runs on each backend: arguments that keep it off the network, and how much it claims.
# Each example runs on one backend; those with a test of their own below run on more.
CLAIMS = {
    "torch": {
        "digit_rows.py": (["--data", "digits"], 2),
        "first_steps.py": ([], 3),
        "long_stream.py": ([], 4),
        "temperature.py": ([], 2),
    },
    "jax": {
        "ants_go_home.py": ([], 3),
        "dates_attention.py": ([], 3),
        "irregular_time.py": ([], 2),
        "sentiment.py": (["--data", "generated"], 2),
    },
    "tensorflow": {
        "handwriting_nested.py": ([], 2),
        "numpy_rnn.py": ([], 5),
        "topics.py": (["--data", "generated"], 2),
    },
}
# Take the longest; the others are run every day.
DEAR = {
    *("ants_go_home.py", "dates_attention.py", "digit_rows.py", "handwriting_nested.py"),
    *("long_stream.py", "sentiment.py", "temperature.py", "topics.py"),
}
# Tested in tests/export, where what it needs is installed.
ELSEWHERE = ("serve_steps.py",)
WITH_A_TEST = ("guide_nested_cell.py", "motion_nested.py", "train_every_cell.py")


def run(name, *arguments, backend):
    """Run an example as a reader would: in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"} | cheaply()
    # Modules that are not installed are found from the root of the repository.
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


@pytest.mark.slow
@pytest.mark.each_backend
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=full(n in DEAR)) for n in CLAIMS[keras.backend.backend()]]
)
def test_example_beats_its_baseline_and_draws_a_plot(name, backend, tmp_path):
    plot = tmp_path / "made" / "plot.png"
    arguments, claims = CLAIMS[backend][name]
    done = run(name, "--quick", "--plot", str(plot), *arguments, backend=backend)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("holds ") == claims
    assert "FAILS" not in done.stdout
    assert f"{backend} backend" in " ".join(done.stdout.split())
    written = plot.read_bytes()
    assert written.startswith(PNG)
    assert len(written) > 20_000


def test_every_example_runs_on_a_backend():
    assert (
        sorted([*WITH_A_TEST, *ELSEWHERE, *(name for names in CLAIMS.values() for name in names)])
        == SCRIPTS
    )


def test_gradient_is_that_of_finite_differences():
    x = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")

    def cubes(x):
        return keras.ops.sum(x * x * x, axis=1)

    step = 1e-2
    for place in np.ndindex(x.shape):
        moved = [x.astype("float64") for _ in range(2)]
        moved[0][place] += step
        moved[1][place] -= step
        difference = ((moved[0] ** 3).sum() - (moved[1] ** 3).sum()) / (2 * step)
        assert _gradients.gradient(cubes, x)[place] == pytest.approx(difference, abs=1e-3)


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.full
def test_motion_nested_beats_its_baselines_and_draws_a_plot(backend, tmp_path):
    plot = tmp_path / "made" / "plot.png"
    done = run("motion_nested.py", "--quick", "--plot", str(plot), backend=backend)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("holds") == 2
    assert "FAILS" not in done.stdout
    assert f"{backend} backend" in " ".join(done.stdout.split())
    assert done.stdout.count("LICENSES.md") == 1
    written = plot.read_bytes()
    assert written.startswith(PNG)
    assert len(written) > 30_000


@pytest.mark.slow
@pytest.mark.each_backend
def test_guide_trains_with_one_import_changed(backend):
    done = run("guide_nested_cell.py", "--quick", backend=backend)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "after one epoch" in done.stdout


@pytest.mark.slow
@pytest.mark.full  # it changes with Keras alone
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


@pytest.mark.one_backend
@pytest.mark.parametrize("name", SCRIPTS)
def test_help_says_what_an_example_shows(name, backend):
    done = run(name, "--help", backend=backend)
    assert done.returncode == 0
    assert "--quick" in done.stdout
    assert f"python examples/{name}" in done.stdout


@pytest.fixture
def parse(monkeypatch):
    """Read a command line; the environment is as it was afterwards."""

    def parsed(*arguments, **options):
        monkeypatch.setattr(sys, "argv", ["example.py", *arguments])
        return _options.parse("What it shows.", **options)

    for name in ("KERAS_BACKEND", "OMP_NUM_THREADS", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    return parsed


def test_an_unknown_backend_in_the_environment_is_refused(parse, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    with pytest.raises(SystemExit, match="2"):
        parse()
    assert "KERAS_BACKEND is 'numpy' (choose from jax, torch" in capsys.readouterr().err
    assert parse("--backend", keras.backend.backend()).backend == keras.backend.backend()


@pytest.mark.parametrize(
    ("name", "extra"), [("tensorflow", "tensorflow"), ("matplotlib", "examples")]
)
def test_what_is_not_installed_is_named_at_once(parse, monkeypatch, capsys, name, extra):
    monkeypatch.setattr(
        _options.importlib.util, "find_spec", lambda wanted: None if wanted == name else wanted
    )
    with pytest.raises(SystemExit, match="2"):
        parse("--backend", "tensorflow", plot="plot.png")
    assert f"{name} is not installed: pip install -e '.[{extra}]'" in capsys.readouterr().err


def test_unknown_backend_is_refused_before_keras_is_imported():
    done = run("guide_nested_cell.py", backend="numpy")
    assert done.returncode == 2
    assert "invalid choice: 'numpy'" in done.stderr
