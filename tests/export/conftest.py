"""Fixtures of the tests of exports: a process that runs files, and a record of how it went."""

import datetime
import importlib.metadata
import json
import os
from pathlib import Path

import keras
import pytest
from exporting import Runtime

RESULTS = Path(__file__).parent / "results"
LIBRARIES = (
    "keras",
    "tensorflow",
    "tensorflow-cpu",
    "torch",
    "jax",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "tf2onnx",
    "jax2onnx",
    "openvino",
    "ai-edge-litert",
)


@pytest.fixture(scope="session")
def runtime():
    process = Runtime()
    yield process
    process.close()


@pytest.fixture(scope="session")
def record():
    """A function that takes how an export went; it is written down where EXPORT_RECORD is set.

    It takes what is in the file, too, where a test has looked into it.
    """
    path = RESULTS / f"{keras.backend.backend()}.json"
    before = json.loads(path.read_text()) if path.exists() else {"outcomes": {}}
    outcomes, files = before["outcomes"], before.get("files", {})
    versions = {name: _version(name) for name in LIBRARIES if _version(name)}

    def note(*case, outcome, file=None):
        if not os.environ.get("EXPORT_RECORD"):
            return
        # Each in its turn: a run that is stopped keeps what it has found.
        outcomes["/".join(case)] = outcome
        if file:
            files["/".join(case)] = file
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        found = {"date": date, "versions": versions, "outcomes": dict(sorted(outcomes.items()))}
        if files:
            found["files"] = dict(sorted(files.items()))
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    return note


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
