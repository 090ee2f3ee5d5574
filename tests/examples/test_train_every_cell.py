"""Every cell is fed what its spec asks for, and the script tells a cell that does not learn."""

import os
import subprocess
import sys
from pathlib import Path

import _feed
import numpy as np
import pytest
from cheap import cheaply
from three_parts import raised

import cellkit

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "train_every_cell.py"
GRU_D = {"values": ("f",), "observed": ("f",), "dt": ("f",)}

# Registers two cells that must not pass, and runs the script on them.
BAD_CELLS = """
import runpy
import sys

import keras

import cellkit


class Silent(keras.layers.Layer):
    factor = 0.0
    spec = cellkit.CellSpec(
        reference=None,
        inputs=("features",),
        cases={"default": {"units": 1}, "wide": {"units": 2}},
        paper=cellkit.Paper("A. Author", 2020, "On silence", "doi:10.0/0"),
        symbols=cellkit.registry.rename({"kernel": "W"}),
    )

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")

    def call(self, inputs, states):
        output = self.factor * (states[0] + inputs @ self.kernel)
        return output, [output]


class Loud(Silent):
    factor = 1e20


cellkit.register("bad_silent", Silent)
cellkit.register("bad_loud", Loud)
sys.argv[0] = sys.argv.pop(1)
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(backend, *arguments):
    """Run a script in a process of its own, as a reader would."""
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"} | cheaply()
    environment["PYTHONPATH"] = os.pathsep.join(
        [*map(str, (ROOT, ROOT / "plugins")), environment.get("PYTHONPATH", "")]
    )
    environment |= {"COLUMNS": "120", "KERAS_BACKEND": backend}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.one_backend
def test_cells_with_and_without_time_learn_and_are_drawn(backend, tmp_path):
    plot = tmp_path / "made" / "plot.png"
    done = run(backend, SCRIPT, "--quick", "--backend", backend, "--cells", "gru*", "--plot", plot)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, data in (("gru", "digits"), ("gru_d", "vowels")):
        (line,) = (line for line in done.stdout.splitlines() if line.split()[:1] == [name])
        assert data in line
        assert "learns" in line
    assert f"{backend} backend" in done.stdout
    assert "holds 2 of 2 cells learn" in done.stdout
    assert plot.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert plot.stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.full
def test_cells_that_guess_or_diverge_fail_the_run(backend, tmp_path):
    script = tmp_path / "bad_cells.py"
    script.write_text(BAD_CELLS)
    plot = tmp_path / "plot.png"
    done = run(backend, script, SCRIPT, "--quick", "--cells", "bad_*", "--plot", plot)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILS 0 of 2 cells learn" in done.stdout
    assert "bad_loud (diverges)" in done.stdout
    assert "bad_silent (no better than guessing)" in done.stdout


@pytest.mark.one_backend
def test_a_pattern_without_cells_is_no_success(backend):
    done = run(backend, SCRIPT, "--quick", "--cells", "no_such_*")
    assert done.returncode == 2
    assert "no_such_*" in done.stderr


@pytest.mark.one_backend
@pytest.mark.parametrize("name", cellkit.list_cells())
def test_every_registered_cell_is_fed_its_structure(name):
    inputs = cellkit.get(name).spec.inputs
    task = _feed.feed(name, inputs, "test")
    assert len(task.labels) == (597 if task.data == "digits" else 370)
    assert (task.mask is None) == (task.data == "digits")
    for path, shape in _feed.leaves(inputs):
        found = task.inputs
        for key in path:
            found = found[key]
        assert found.dtype == np.float32
        assert found.ndim == len(shape) + 2
        assert found.shape[:2] == ((597, 8) if task.data == "digits" else (370, task.mask.shape[1]))


def test_vectors_are_the_rows_of_a_digit():
    images = _feed._data.load("digits", "train")[0]
    assert np.array_equal(_feed.feed("lstm", ("features",), "train").inputs, images)


def test_modalities_share_a_digit_between_them():
    images = _feed._data.load("digits", "test")[0]
    found = _feed.feed("nested", {"b": ("i",), "a": ("j", "k")}, "test").inputs
    assert np.array_equal(found["b"], images[:, :, :4])
    assert np.array_equal(found["a"].reshape(597, 8, 4), images[:, :, 4:])


def test_images_are_three_rows_with_the_step_s_own_in_the_middle():
    images = _feed._data.load("digits", "test")[0]
    found = _feed.feed("conv_lstm", ("rows", "columns", "channels"), "test").inputs
    assert found.shape == (597, 8, 3, 8, 1)
    assert np.array_equal(found[:, :, 1, :, 0], images)
    assert np.array_equal(found[:, 1:, 0, :, 0], images[:, :-1])
    assert not found[:, 0, 0].any()


def test_sizes_that_a_spec_fixes_are_kept():
    found = _feed.feed("mine", {"a": (5,), "b": ("x", 3, 2)}, "test").inputs
    assert found["a"].shape == (597, 8, 5)
    assert found["b"].shape == (597, 8, 3, 3, 2)


def test_times_go_on_and_gaps_are_their_differences():
    shapes = (("features",), (1,))
    timed = _feed.feed("phased_lstm", shapes, "train")
    gaps = _feed.feed("cfc", shapes, "train")
    time, gap = timed.inputs[1] / np.float32(_feed.FRAME), gaps.inputs[1]
    assert np.array_equal(timed.inputs[0], gaps.inputs[0])
    assert np.allclose(np.diff(time, axis=1), gap[:, 1:], atol=1e-4)
    inside = timed.mask[:, 1:]
    assert gap[:, 1:][inside].min() == 1
    assert gap[:, 1:][inside].max() > 3  # frames are missing, so that there is something to tell
    assert not gap[:, 1:][~inside].any()


def test_gru_d_is_told_how_long_each_value_has_been_missing():
    task = _feed.feed("gru_d", GRU_D, "train")
    values, observed, waited = (task.inputs[key] for key in GRU_D)
    assert np.array_equal(np.isnan(values), observed == 0)
    assert 0.6 < observed.mean() < 0.8
    gap = _feed.feed("cfc", (("features",), (1,)), "train").inputs[1]
    for row, value in ((0, 0), (3, 7), (11, 5)):
        last, now = 0.0, 0.0
        for t in range(int(task.mask[row].sum())):
            now += float(gap[row, t, 0]) if t else 0.0
            assert waited[row, t, value] == pytest.approx(now - last)
            last = now if observed[row, t, value] else last


def test_whole_utterances_are_standardised_and_masked():
    task = _feed.feed("lstm", ("features",), "train", "japanese_vowels")
    inside = task.inputs[task.mask]
    assert np.allclose(inside.mean(axis=0), 0, atol=1e-3)
    assert np.allclose(inside.std(axis=0), 1, atol=1e-3)
    lengths = _feed._data.load("japanese_vowels", "train")[0]["lengths"]
    assert np.array_equal(task.mask.sum(axis=1), lengths)


def test_inputs_without_data_for_them():
    what, received, expected, fix = raised(
        _feed.feed, "conv_rnn", ("rows", "columns", "channels"), "train", "japanese_vowels"
    )
    assert "japanese_vowels" in what
    assert "'conv_rnn'" in what
    assert "rows" in received
