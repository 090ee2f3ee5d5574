"""The frozen outputs of other implementations, and the command that compares with them."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from rich.console import Console

from cellkit_conformance.golden.command import run_golden
from cellkit_conformance.golden.compare import compare_entry
from cellkit_conformance.golden.manifest import limits, read_manifest

pytestmark = pytest.mark.one_backend

FOLDER = Path(__file__).parents[1] / "golden"
MANIFEST = read_manifest(FOLDER)
BACKEND = keras.backend.backend()


@pytest.fixture(scope="module")
def table():
    console = Console(record=True, width=160)
    code = run_golden(FOLDER, [BACKEND], console)
    return code, console.export_text()


def test_registered_cells_compute_what_other_implementations_do(table):
    code, text = table
    assert code == 0, text
    assert f"{len(MANIFEST['cells'])} file(s) compared" in text, text


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


def test_a_cell_that_is_not_registered_is_listed_and_not_counted(tmp_path):
    entry = {**MANIFEST["cells"][0], "cell": "no_such_cell"}
    (tmp_path / "manifest.json").write_text(json.dumps({"cells": [entry]}), encoding="utf-8")
    shutil.copy(FOLDER / entry["file"], tmp_path)
    console = Console(record=True, width=160)
    assert run_golden(tmp_path, [BACKEND], console, list_all=True) == 3
    assert "Not registered, so not compared: no_such_cell" in console.export_text()


def test_a_folder_without_a_manifest_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no folder of golden files"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="no folder of golden files"):
        read_manifest(tmp_path)
