"""The frozen outputs of other implementations, and the command that compares with them."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from rich.console import Console

import cellkit
from cellkit.registry import cell_weights
from cellkit_conformance.golden.arguments import arguments_of
from cellkit_conformance.golden.command import compare_folder, show_comparison
from cellkit_conformance.golden.compare import compare_entry
from cellkit_conformance.golden.manifest import limits, read_manifest

pytestmark = pytest.mark.one_backend

FOLDER = Path(__file__).parents[1] / "golden"
MANIFEST = read_manifest(FOLDER)
BACKEND = keras.backend.backend()


def shown(found, **options):
    console = Console(record=True, width=160)
    show_comparison(found, console, **options)
    return console.export_text()


@pytest.fixture(scope="module")
def table():
    found = compare_folder(FOLDER, [BACKEND])
    return found.exit_code, shown(found), found


@pytest.mark.slow
def test_registered_cells_compute_what_other_implementations_do(table):
    code, text, _ = table
    assert code == 0, text
    assert f"{len(MANIFEST['cells'])} file(s) compared" in text, text


def test_a_comparison_is_data_too_and_can_be_short(table):
    _, text, found = table
    data = json.loads(json.dumps(found.to_json()))
    assert data["exit_code"] == 0 and data["unregistered"] == []
    assert len(data["matches"]) == len(MANIFEST["cells"])
    assert all(match["ok"] and match["backend"] == BACKEND for match in data["matches"])
    assert shown(found, quiet=True).splitlines() == [text.splitlines()[-1]]


@pytest.mark.parametrize("entry", MANIFEST["cells"], ids=lambda entry: entry["cell"])
def test_a_file_says_what_the_manifest_says(entry):
    with np.load(FOLDER / entry["file"], allow_pickle=False) as arrays:
        assert {key: list(arrays[key].shape) for key in arrays.files} == entry["shapes"]
        for key in arrays.files:
            if key.startswith("w."):
                # Hostile numbers: no two alike, but for the zeros of sparse matrices.
                values = arrays[key][arrays[key] != 0]
                assert values.size and np.unique(values).size == values.size, key


def test_a_wrong_file_is_a_miss(tmp_path):
    entry = next(e for e in MANIFEST["cells"] if e["cell"] == "simple_rnn")
    entry = {**entry, "dtype": "float32"}  # float64 needs x64 on JAX, which this process lacks
    with np.load(FOLDER / entry["file"]) as file:
        arrays = {key: file[key] for key in file.files}
    np.savez(tmp_path / entry["file"], **arrays)
    assert compare_entry(tmp_path, entry, limits({})).ok
    arrays["y"] = arrays["y"] + 1e-3
    np.savez(tmp_path / entry["file"], **arrays)
    match = compare_entry(tmp_path, entry, limits({}))
    assert not match.ok and match.error["y"] > 1e-4 and match.error["stateT.h"] < 1e-5
    del arrays["w.U"]
    np.savez(tmp_path / entry["file"], **arrays)
    assert "U" in compare_entry(tmp_path, entry, limits({})).problem


@pytest.mark.parametrize(
    ("name", "arguments", "features"),
    [
        (
            "lstmp",
            {"units": 7, "projection_units": 3, "peepholes": True, "use_bias": False},
            2,
        ),
        ("nested_lstm", {"units": 2, "depth": 3, "use_bias": True}, 5),
        ("lru", {"units": 3, "state_units": 5}, 2),
        ("mgu", {"units": 4, "variant": "flax"}, 4),
        ("conv_gru", {"filters": 3, "kernel_size": [2, 3], "reset_after": True}, 2),
    ],
)
def test_sizes_and_choices_are_those_of_the_arrays(name, arguments, features):
    registered = cellkit.get(name)
    cell = registered.cls(**arguments)
    shape = (6, 5) if name == "conv_gru" else ()
    cell.build((None, *shape, features))
    weights = registered.spec.symbols.to_symbols(cell_weights(cell), cell.get_config())
    if not arguments.get("use_bias", True):
        weights = {key: w for key, w in weights.items() if not key.startswith("b_")}
    arrays = {f"w.{key}": value for key, value in weights.items()}
    arrays["x"] = np.zeros((1, 4, *shape, features))
    width = arguments.get("projection_units", arguments.get("units", 3))
    arrays["y"] = np.zeros((1, 4, *shape, width))
    said = {"kernel_size": "2x3"} if name == "conv_gru" else {"library_option": 3}
    entry = {"states": list(registered.spec.states or ["h"]), "hyper": said}
    if name == "conv_gru":
        entry["arguments"] = {"kernel_size": [2, 3]}
    found = arguments_of(registered, {}, entry, arrays)
    assert arguments.items() <= {**cell.get_config(), **found}.items()


def test_hyperparameters_are_taken_by_name_and_value():
    registered = cellkit.get("slstm")
    with np.load(FOLDER / "slstm.npz") as file:
        arrays = dict(file)
    hyper = {"forget_gate": "exp, as in the code", "num_heads": 1, "activation": "no such one"}
    found = arguments_of(registered, {}, {"states": ["y", "c", "n", "m"], "hyper": hyper}, arrays)
    assert found["forget_gate"] == "exp" and found["num_heads"] == 1 and "activation" not in found
    found = arguments_of(
        cellkit.get("zoneout_lstm"),
        {"zoneout_c": 0.0},
        {"states": ["h", "c"], "hyper": {"zoneout_prob": 0.25}, "arguments": {"units": 3}},
        {"x": np.zeros((1, 2, 2)), "y": np.zeros((1, 2, 3)), "w.W_i": np.zeros((2, 3))},
    )
    assert found["zoneout_h"] == 0.25 and found["zoneout_c"] == 0.0 and found["units"] == 3


def test_a_cell_that_is_not_registered_is_listed_and_not_counted(tmp_path):
    entry = {**MANIFEST["cells"][0], "cell": "no_such_cell"}
    (tmp_path / "manifest.json").write_text(json.dumps({"cells": [entry]}), encoding="utf-8")
    shutil.copy(FOLDER / entry["file"], tmp_path)
    found = compare_folder(tmp_path, [BACKEND])
    assert found.exit_code == 3
    assert "Not registered, so not compared: no_such_cell" in shown(found, list_all=True)


def test_a_folder_without_a_manifest_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="not a folder of golden files"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="not a folder of golden files"):
        read_manifest(tmp_path)
