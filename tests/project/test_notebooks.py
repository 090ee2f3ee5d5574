"""The notebooks: they run on every backend, hold no outputs, and need one cell to be installed."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "tools" / "notebooks.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_there_are_four():
    assert {"quickstart", "equations", "nested_inputs", "irregular_time"} <= set(NAMES)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_stripped_and_installs_in_one_cell(tool, name):
    notebook = tool.read(name)
    assert notebook["nbformat"] == 4
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    installs = [k for k, cell in enumerate(code) if "%pip" in tool.source(cell)]
    assert installs == [0]
    assert 'setdefault("KERAS_BACKEND"' in tool.source(code[0])
    assert not any(line.startswith(("%", "!")) for c in code[1:] for line in c["source"])


def test_outputs_are_found_and_taken_out(tool, tmp_path, monkeypatch, capsys):
    notebook = tool.read("quickstart")
    next(c for c in notebook["cells"] if c["cell_type"] == "code")["execution_count"] = 3
    (tmp_path / "quickstart.ipynb").write_text(json.dumps(notebook))
    monkeypatch.setattr(tool, "FOLDER", tmp_path)
    assert tool.strip(check=True) == 1
    assert "Not stripped: quickstart" in capsys.readouterr().out
    assert tool.strip(check=False) == 0 and tool.strip(check=True) == 0


# `make docs` runs the notebooks on one backend.
@pytest.mark.slow
@pytest.mark.full
def test_quickstart_learns(tool, own_registry):
    _, made = tool.run("quickstart")
    assert made["accuracy"] > 0.85 and made["small_accuracy"] > 0.85
    assert made["difference"] < 1e-5


def test_equations_are_compared_with_their_reference(tool, own_registry):
    _, made = tool.run("equations")
    assert made["error"] < 1e-4 and "^" in made["message"]


@pytest.mark.slow
@pytest.mark.full
def test_nested_inputs_are_learned_and_remembered(tool, own_registry):
    _, made = tool.run("nested_inputs")
    assert made["accuracy"] > 0.7 and made["difference"] < 1e-5


@pytest.mark.slow
@pytest.mark.full
def test_time_helps_where_it_is_irregular(tool, own_registry):
    printed, made = tool.run("irregular_time")
    assert made["with_time"] < made["without"] < made["guessing"] and made["finite"]
    assert "gru_d" in printed[1]
