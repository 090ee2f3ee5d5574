"""The run on a GPU, rehearsed on the processor: what it writes is whole at every moment."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_backend

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
gpu = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu)

TIMES = {
    "event": "times",
    "backend": "torch",
    "dtype": "float32",
    "work": {"cell": "lstm", "batch": 4, "length": 8, "width": 16},
    "mode": "training",
    "by": "cellkit.RNN",
    "engine": "kernel",
    "seconds": {"median": 0.002},
    "peak_bytes": 3 * 2**20,
    "counter": "",
}


@pytest.mark.slow
def test_a_rehearsal_proves_and_measures_cells(tmp_path):
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--minutes", "0.1"]
    command += ["--backend", "torch", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    data = json.loads((tmp_path / "gpu-cpu.json").read_text(encoding="utf-8"))
    times = [event for event in data["events"] if event["event"] == "times"]
    assert {event["mode"] for event in times} == {"inference", "training"}
    assert {"cellkit.RNN", "keras.layers.RNN", "torch.nn.LSTM"} <= {event["by"] for event in times}
    assert all(event["seconds"]["median"] > 0 for event in times)
    assert any(event["event"] == "conformance" for event in data["events"])
    assert "torch.nn.LSTM" in (tmp_path / "gpu-cpu.md").read_text(encoding="utf-8")


def test_what_was_found_so_far_is_in_the_file(tmp_path):
    report = gpu.Report(tmp_path, "gpu")
    report.add({"event": "facts", "backend": "torch", "name": "NVIDIA X/1", "torch": "2"})
    report.add(TIMES)
    path = tmp_path / "gpu-nvidia-x-1.json"
    assert json.loads(path.read_text(encoding="utf-8"))["events"][-1] == TIMES
    page = path.with_suffix(".md").read_text(encoding="utf-8")
    assert "cut off" in page and "cellkit.RNN (kernel) | 2.000 | 3.0 |" in page
    report.add({"event": "end"})
    assert "cut off" not in path.with_suffix(".md").read_text(encoding="utf-8")
    assert not list(tmp_path.glob("*.new"))


def test_without_a_gpu_it_says_what_to_do():
    if gpu_there():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="--device cpu"):
        gpu.facts("torch", "gpu")


def gpu_there():
    import torch

    return torch.cuda.is_available()
