"""The code that readers copy: every Python block of README and site runs as it stands."""

import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest

import cellkit
from cellkit.registry import cell_weights
from cellkit_conformance.cli.project import write_project

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "docs/equations.md",
    "docs/index.md",
    "docs/semantics.md",
    "docs/writing-a-cell.md",
]
BLOCK = re.compile(
    r"^(?P<indent> *)```python\n(?P<code>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL
)


def blocks(page: str) -> list[tuple[int, str]]:
    """Return the Python blocks of a page, each with the line that it starts at."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        found.append((line, textwrap.dedent(match["code"])))
    return found


def run_page(page: str) -> dict:
    """Run the blocks of a page one after the other, as a reader would, in one namespace."""
    names: dict = {"__name__": "copied_from_the_page"}
    for line, code in blocks(page):
        # Empty lines in front make the line numbers of a traceback those of the page.
        exec(compile("\n" * line + code, page, "exec"), names)
    return names


def numpy_loop(reference, weights, x, states, config):
    """Apply one step's reference to a sequence."""
    outputs = []
    for t in range(x.shape[1]):
        y, states = reference(weights, x[:, t], states, config)
        outputs.append(y)
    return np.stack(outputs, axis=1)


def randomise(layer, rng):
    """Give every weight different values, the biases too."""
    layer.set_weights([rng.normal(scale=0.5, size=w.shape) for w in layer.get_weights()])


def check_reference(cell, reference, rng):
    """Compare a cell in a layer with the reference that its page gives."""
    layer = cellkit.RNN(cell, return_sequences=True)
    x = rng.normal(size=(3, 6, 4)).astype("float32")
    layer(x)
    randomise(layer, rng)
    symbols = cell.spec.symbols.to_symbols(cell_weights(cell), cell.get_config())
    states = [np.zeros((3, 5)) for _ in cell.get_initial_state(batch_size=3)]
    expected = numpy_loop(reference, symbols, x.astype("float64"), states, cell.get_config())
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(x)), expected, atol=2e-5)


@pytest.mark.slow
@pytest.mark.each_backend
def test_readme_runs_as_it_stands(own_registry):
    rng = np.random.default_rng(1)
    names = run_page("README.md")
    assert np.isfinite(names["history"].history["loss"]).all()
    # The first model of the page: the nested cell's two outputs, trained.
    vector, matrix = names["outputs"]
    assert tuple(vector.shape) == (None, 10)
    assert tuple(matrix.shape) == (None, 20, 30)
    # The second: two named sensors.
    recording = {name: rng.normal(size=(2, 7, 3)) for name in names["sensors"]}
    assert names["model"].predict(recording, verbose=0).shape == (2, 4)
    assert isinstance(names["layer"].cell, names["CoupledLSTMCell"])
    assert isinstance(names["cell"], names["CoupledLSTMCell"])
    check_reference(names["CoupledLSTMCell"](5), names["reference"], rng)


FIRST = re.compile(r"```sh\n(pip install .*?\nEND\n)```", re.DOTALL)


def test_the_site_begins_as_the_readme_does():
    first, again = (
        FIRST.findall((ROOT / page).read_text(encoding="utf-8"))
        for page in ("README.md", "docs/index.md")
    )
    assert len(first) == 1 and first == again


@pytest.mark.slow
@pytest.mark.part(3)
@pytest.mark.parametrize("backend", ["torch", "tensorflow", "jax"])
@pytest.mark.one_backend
def test_the_first_five_minutes(tmp_path, backend):
    """The first piece of the page, run by a shell as it is printed, but for the backend's word."""
    (script,) = FIRST.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    extra = re.match(r"pip install -e '\.\[torch\]'", script)
    assert extra, "the first line installs the distribution of this folder, or its published form"
    script = script.replace("torch", backend)
    # The packages of this environment are what pip would install; nothing is downloaded here.
    (tmp_path / "pip").write_text('#!/bin/sh\necho "$@" > "$(dirname "$0")/installed"\n')
    (tmp_path / "pip").chmod(0o755)
    (tmp_path / "python").symlink_to(sys.executable)
    inherited = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    done = subprocess.run(
        ["sh", "-e", "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            **inherited,
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
    )
    assert done.returncode == 0, done.stderr
    (options,) = (tmp_path / "installed").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert re.search(r"\[(.*)\]", options)[1] in project["optional-dependencies"]
    printed = re.fullmatch(rf"{backend}: (\d+)% of new sequences right\n", done.stdout)
    assert printed and int(printed[1]) >= 85


def test_page_on_writing_a_cell_runs_as_it_stands():
    rng = np.random.default_rng(2)
    names = run_page("docs/writing-a-cell.md")
    assert tuple(names["outputs"].shape) == (8, 20, 16)
    check_reference(names["MGUCell"](5), names["reference"], rng)
    for case in names["UpdateCell"].spec.cases.values():
        cell = names["UpdateCell"](**{**case, "units": 5})
        check_reference(cell, cell.spec.reference, rng)
    x = rng.normal(size=(2, 9, 3)).astype("float32")
    mean = cellkit.RNN(names["MeanCell"](3))(x)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(mean), x.mean(axis=1), atol=1e-5)


@pytest.mark.one_backend
def test_a_complete_file_has_thirty_lines(tmp_path):
    _, shown = blocks("docs/writing-a-cell.md")[0]
    write_project("my_cell", "cellkit-my-cell", tmp_path)
    for text in (shown, (tmp_path / "my_cell.py").read_text(encoding="utf-8")):
        assert len(text.splitlines()) <= 30
        assert all(part in text for part in ('"""', "h' =", "Paper: ", "def combine"))


def test_page_on_equations_runs_as_it_stands(capsys):
    names = run_page("docs/equations.md")
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == [
        "There is no function `foo`.",
        "  Received: line 2",
        "    h' = z * foo(h)",
        "             ^^^",
    ]
    page = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    assert "\n".join(said[:4]) in page
    assert names["LSTMPCell"].spec.deviations and names["cell"].built
    rng = np.random.default_rng(3)
    check_reference(names["GRUCell"](5), names["GRUCell"].spec.reference, rng)


def test_first_page_of_the_site_runs_as_it_stands():
    names = run_page("docs/index.md")
    assert names["model"].output_shape == (None, 1)


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_make_targets_that_are_named_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b", "\n".join(code_of(page))))
    assert named <= targets


def code_of(page: str) -> list[str]:
    """Return what a page sets as code: fenced blocks and words in backticks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    fenced = re.findall(r"```\w*\n.*?```", text, re.DOTALL)
    return fenced + re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def test_versions_in_the_readme_are_those_of_the_constraints():
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (claim,) = re.findall(r"Tested with (.*?), on Linux", readme, re.DOTALL)
    names = {"Keras": "keras", "TensorFlow": "tensorflow", "PyTorch": "torch", "JAX": "jax"}
    versions = dict(re.findall(r"(\w+) (\d[\d.]*\d)", claim))
    assert versions == {shown: pins[name] for shown, name in names.items()}


def test_page_on_migrating_runs_as_it_stands_and_gives_the_same_numbers():
    names = run_page("docs/migrating.md")
    assert names["difference"] < 1e-6
    same, here = (keras.ops.convert_to_numpy(names[name]) for name in ("same", "here"))
    np.testing.assert_allclose(here, same, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(names["after"], names["before"], rtol=1e-5, atol=1e-6)
    assert np.abs(names["before"]).max() > 0.01


def test_page_on_migrating_from_pytorch():
    pytest.importorskip("torch")
    names = run_page("docs/migrating-torch.md")
    for here in ("here", "again"):
        np.testing.assert_allclose(names[here], names["there"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(names["gru_here"], names["gru_there"], rtol=1e-5, atol=1e-6)
    assert min(np.abs(names[n]).max() for n in ("there", "gru_there")) > 0.01


def frozen(name):
    """Return the arrays of a frozen file, its weights apart."""
    with np.load(ROOT / "tests" / "golden" / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return arrays, {k[2:]: v for k, v in arrays.items() if k.startswith("w.")}


def test_page_on_migrating_from_addons_takes_what_addons_had():
    names = run_page("docs/migrating-addons.md")
    assert np.isfinite(names["outputs"]).all() and names["outputs"].shape == (2, 7, 4)
    arrays, w = frozen("peephole_lstm")
    joined = [np.concatenate([w[f"{letter}_{g}"] for g in "ifgo"], axis=-1) for letter in "WUb"]
    names["from_addons"](names["layer"].cell, [*joined, w["p_i"], w["p_f"], w["p_o"]])
    got = names["layer"](arrays["x"], initial_state=[arrays["state0.h"], arrays["state0.c"]])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(got), arrays["y"], rtol=1e-4, atol=1e-5)


def test_page_on_addons_names_cells_that_stand_against_it():
    page = (ROOT / "docs" / "migrating-addons.md").read_text(encoding="utf-8")
    table = (ROOT / "docs" / "cells.md").read_text(encoding="utf-8")
    named = re.findall(r'cellkit\.create\("(\w+)"(.*?)\)`', page)
    assert len(named) == 5
    confirmed = 0
    for name, rest in named:
        cell = eval(f'cellkit.create("{name}"{rest.replace("=units", "=4")})', {"cellkit": cellkit})
        assert cell.units == 4
        (row,) = [line for line in table.splitlines() if line.startswith(f"| [`{name}`]")][:1]
        confirmed += "tensorflow-addons 0.23.0" in row
    assert confirmed == 4 and "Four of them" in page


def test_page_on_migrating_from_ncps_and_keras_lmu_takes_what_they_had():
    names = run_page("docs/migrating-ncps-lmu.md")
    assert_ltc_is_that_of_ncps(names)
    assert_lmu_is_the_memory_unit(names)
    assert names["outputs"].shape == names["same_gaps"].shape == (2, 7, 4)
    assert names["remembered"].shape == (2, 500, 16)
    arrays, w = frozen("cfc")
    heads = {"ff1": "1", "ff2": "2", "time_a": "a", "time_b": "b"}
    theirs = {"backbone.0.weight": w["W_bb"].T, "backbone.0.bias": w["b_bb"]}
    for name, letter in heads.items():
        theirs[f"{name}.weight"], theirs[f"{name}.bias"] = w[f"A_{letter}"].T, w[f"b_{letter}"]
    layer = cellkit.RNN("cfc", units=4, backbone_units=7, return_sequences=True)
    layer.build((arrays["x"].shape, arrays["dt"].shape))
    names["from_ncps"](layer.cell, theirs)
    got = layer((arrays["x"], arrays["dt"]), initial_state=arrays["state0.h"])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(got), arrays["y"], rtol=1e-4, atol=1e-5)


def assert_ltc_is_that_of_ncps(names):
    arrays, theirs = frozen("ltc")
    for name in ("gleak", "cm", "w", "sensory_w"):
        theirs[name] = np.log(np.expm1(theirs[name]))  # as the layer of ncps holds them
    layer = cellkit.RNN("ltc", units=4, output_units=3, return_sequences=True)
    layer.build((arrays["x"].shape, arrays["dt"].shape))
    inputs, start = (arrays["x"], arrays["dt"]), arrays["state0.v"]
    names["ltc_from_ncps"](layer.cell, theirs)
    got = keras.ops.convert_to_numpy(layer(inputs, initial_state=start))
    np.testing.assert_allclose(got, arrays["y"], rtol=1e-4, atol=1e-5)
    masked = theirs | {"sparsity_mask": np.zeros((4, 4)), "sensory_sparsity_mask": np.ones((5, 4))}
    names["ltc_from_ncps"](layer.cell, masked)
    alone = keras.ops.convert_to_numpy(layer(inputs, initial_state=start))
    unwired = theirs | {"w": np.full((4, 4), -30.0)}
    names["ltc_from_ncps"](layer.cell, unwired)
    expected = keras.ops.convert_to_numpy(layer(inputs, initial_state=start))
    np.testing.assert_allclose(alone, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(alone - got).max() > 1e-3


def assert_lmu_is_the_memory_unit(names):
    arrays, w = frozen("lmu")
    layer = cellkit.RNN("lmu", units=4, order=4, theta=8.0, return_sequences=True)
    layer.build(arrays["x"].shape)
    joined = {"kernel": ("e_x", "e_h"), "recurrent_kernel": ("e_m",)}
    joined |= {"hidden_kernel": ("W_m", "W_x"), "hidden_recurrent_kernel": ("W_h",)}
    theirs = {name: np.concatenate([w[k] for k in keys]) for name, keys in joined.items()}
    names["from_keras_lmu"](layer.cell, **theirs)
    got = layer(arrays["x"], initial_state=[arrays["state0.h"], arrays["state0.m"]])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(got), arrays["y"], rtol=1e-4, atol=1e-5)


def test_page_on_masks_in_the_next_keras():
    names = run_page("docs/migrating-masks.md")
    assert names["difference"] < 1e-6 < np.abs(names["padded"]).max()
    last = keras.ops.convert_to_numpy(names["last"])
    assert last.shape == (2, 4) and np.isfinite(last).all()


def test_two_layers_of_torch_are_a_list_of_cells():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.LSTM(3, 4, num_layers=2, batch_first=True)
    w = {name: value.detach().cpu().numpy() for name, value in theirs.named_parameters()}
    ours = cellkit.RNN(["lstm", "lstm"], units=4, return_sequences=True)
    x = np.random.default_rng(3).normal(size=(2, 5, 3)).astype("float32")
    ours.build(x.shape)
    weights = []
    for k in ("l0", "l1"):
        weights += [w[f"weight_ih_{k}"].T, w[f"weight_hh_{k}"].T]
        weights.append(w[f"bias_ih_{k}"] + w[f"bias_hh_{k}"])
    ours.set_weights(weights)
    there = theirs(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(keras.ops.convert_to_numpy(ours(x)), there, rtol=1e-5, atol=1e-6)
