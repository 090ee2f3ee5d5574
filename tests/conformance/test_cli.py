"""The commands, as typed."""

import json
from pathlib import Path

import keras
import pytest

from cellkit.cli import main

BACKEND = keras.backend.backend()
CELL = f"{Path(__file__).with_name('troublemakers.py')}:Good"


def test_conform_writes_reports_and_says_how_it_ended(tmp_path, capfd):
    files = [str(tmp_path / name) for name in ("r.json", "r.html", "r.xml")]
    options = ["--json", files[0], "--html", files[1], "--junit", files[2], "--durations"]
    code = main(["conform", CELL, "--backend", BACKEND, "--select", "STR,NUM-01", *options])
    out = capfd.readouterr().out
    assert code == 0, out
    assert "Conformant" in out and "Where the time went" in out
    data = json.loads(Path(files[0]).read_text(encoding="utf-8"))
    found = {result["requirement"]: result["outcome"] for result in data["results"]}
    assert found["STR-03"] == "pass"
    assert found["NUM-01"] == "n/a"  # there is no reference to compare with
    assert all(Path(file).stat().st_size > 500 for file in files)


@pytest.mark.parametrize(
    "words",
    [
        ["conform", "no_such_cell"],
        ["conform", CELL, "--backend", "theano"],
        ["conform", CELL, "--select", "NOPE-01"],
        ["conform", CELL, "--profile", "lazy"],
        ["conform", CELL, "--no-such-option"],
        ["conform", CELL, "-n", "0"],
        ["golden", "no/such/folder"],
        ["explain", "NOPE"],
    ],
)
def test_wrong_use(words, capsys):
    assert main(words) == 64
    assert capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_said_before_the_run(tmp_path, capsys):
    options = ["--json", str(tmp_path / "r.json"), "--html", str(tmp_path)]
    assert main(["conform", CELL, "--backend", BACKEND, *options]) == 64
    said = capsys.readouterr().err
    assert "A report cannot be written." in said and f"Received: --html {tmp_path}" in said
    assert list(tmp_path.iterdir()) == []


def test_explain(capsys):
    assert main(["explain", "MSK-03"]) == 0
    assert "MSK-03" in capsys.readouterr().out
    assert main(["explain"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 60
