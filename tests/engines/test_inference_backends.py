"""Backends of Keras without gradients: what runs there is right, and the rest says so."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import cellkit

pytestmark = pytest.mark.one_backend

HELPERS = Path(__file__).parents[1] / "helpers"


def python(backend, *arguments):
    environment = {**os.environ, "KERAS_BACKEND": backend}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def cells(backend, *names):
    return json.loads(python(backend, str(HELPERS / "run_cells.py"), *names).splitlines()[-1])


@pytest.mark.slow
def test_every_cell_runs_on_numpy():
    found = cells("numpy")
    assert list(found) == list(cellkit.list_cells())
    wrong = {name: said for name, said in found.items() if isinstance(said, str) or said > 1}
    assert not wrong


@pytest.mark.slow
def test_numpy_has_layers_models_streams_and_files(tmp_path):
    path = tmp_path / "model.keras"
    code = f"""
import keras, numpy as np, cellkit
x = np.random.default_rng(3).normal(size=(2, 5, 3)).astype("float32")
layer = cellkit.RNN(cellkit.create("min_gru", units=4), return_sequences=True)
model = keras.Sequential([keras.Input((None, 3)), layer, keras.layers.Dense(2)])
want = model(x)
np.testing.assert_allclose(model.predict(x, verbose=0), want, rtol=1e-5, atol=1e-6)
again = model.layers[0]
assert again.engine_report().engine == "loop"
states = layer.get_initial_state(batch_size=2)
steps = []
for t in range(5):
    y, states = layer.step(x[:, t], states)
    steps.append(y)
np.testing.assert_allclose(np.stack(steps, 1), layer(x), rtol=1e-5, atol=1e-6)
scan = cellkit.RNN(layer.cell, return_sequences=True, engine="scan", go_backwards=True)
loop = cellkit.RNN(layer.cell, return_sequences=True, engine="loop", go_backwards=True)
np.testing.assert_allclose(scan(x), loop(x), rtol=1e-4, atol=1e-5)
assert scan.engine_report().engine == "scan"
assert layer(x[:, :0]).shape == (2, 0, 4)
model.save({str(path)!r})
"""
    code += f"print(keras.saving.load_model({str(path)!r}).predict(x, verbose=0).tolist())\n"
    printed = python("numpy", "-W", "ignore::DeprecationWarning", "-c", code)
    there = json.loads(printed.splitlines()[-1])
    x = np.random.default_rng(3).normal(size=(2, 5, 3)).astype("float32")
    here = keras.saving.load_model(path).predict(x, verbose=0).tolist()
    assert [[pytest.approx(step, abs=1e-5) for step in row] for row in here] == there


@pytest.mark.slow
def test_conformance_leaves_out_what_needs_gradients_on_numpy(tmp_path):
    report = tmp_path / "report.json"
    arguments = ["-m", "cellkit", "conform", "gru", "--backend", "numpy", "--json", str(report)]
    python("torch", *arguments, "--select", "NUM,GRD,STA-07,CMP-01", "-n", "1", "-q")
    results = json.loads(report.read_text(encoding="utf-8"))["results"]
    outcomes = {r["requirement"]: (r["outcome"], r["message"]) for r in results}
    assert outcomes["NUM-01"][0] == "pass" and outcomes["STA-07"][0] == "pass"
    assert outcomes["GRD-01"] == ("n/a", "numpy has no gradients, and trains nothing")


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs openvino")
def test_cells_run_on_openvino():
    found = cells("openvino", "lstm", "min_gru", "lru")
    assert found["lstm"] <= 1 and found["min_gru"] <= 1
    assert "OpenVINO has no complex numbers" in found["lru"]


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs openvino")
def test_openvino_says_that_a_length_must_be_known():
    code = """
import numpy as np, cellkit
try:
    cellkit.RNN(cellkit.create("gru", units=2))(np.ones((2, 0, 3), "float32"))
except ValueError as error:
    print(error)
"""
    said = python("openvino", "-c", code)
    assert all(part in said for part in ("Received:", "Expected:", "How to fix:", "ONNX"))
