"""The commands, as typed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from cellkit.cli import main
from cellkit_conformance import edition

pytestmark = pytest.mark.one_backend

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


COMMANDS = [
    "conform",
    "replay",
    "merge",
    "baseline",
    "diff",
    "golden",
    "explain",
    "selftest",
    "new",
    "bench",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_explained_is_quiet_and_gives_data(command, capsys):
    assert main([command, "-h"]) == 0
    said = capsys.readouterr().out
    assert "--json" in said and "-q" in said and "-h" in said


BROKEN = f"{Path(__file__).with_name('troublemakers.py')}:Wide"


def test_the_first_failure_that_counts_may_end_a_run(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["conform", BROKEN, CELL, "--backend", BACKEND, "--select", "STR", "-n", "1"]
    assert main([*words, "-x", "-q", "--annotations"]) == 1
    out, err = capfd.readouterr()
    assert "Conformance" not in out and "Report:" not in out and not err
    assert "NOT conformant: 1 broken" in out and "::error title=STR-05" in out
    data = json.loads(Path("reports/conformance.json").read_text(encoding="utf-8"))
    outcomes = [result["outcome"] for result in data["results"]]
    assert outcomes.count("fail") == 1 and {*outcomes[outcomes.index("fail") + 1 :]} <= {
        "not run",
        "n/a",
    }
    assert f"stopped after STR-05 of {BROKEN}" in data["results"][-1]["message"]
    known = f'[[expected]]\ncell = "{BROKEN}"\nrequirement = "STR-05"\nreason = "Known."\n'
    Path("cellkit-expected.toml").write_text(known, encoding="utf-8")
    assert main(["conform", BROKEN, *words[3:], "-x", "-q"]) == 0  # nothing ends the run now
    data = json.loads(Path("reports/conformance.json").read_text(encoding="utf-8"))
    assert not data["counts"].get("not run")


def test_differences_and_baselines_are_data_too(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("reports").mkdir()
    for outcome in ("pass", "fail"):
        outcomes = {"cell": {"torch": {"STR-01": "pass", "STR-03": outcome}}}
        Path("reports/conformance.json").write_text(json.dumps({"schema": 1, "outcomes": outcomes}))
        if outcome == "pass":
            assert main(["baseline", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data == {"file": "cellkit-baseline.json", "outcomes": 2}
    assert main(["diff", "--json"]) == 1  # the names are what the commands write
    data = json.loads(capsys.readouterr().out)
    assert data["exit_code"] == 1 and data["counts"] == {"worse": 1}
    assert data["changes"] == [
        {
            **{"cell": "cell", "backend": "torch", "requirement": "STR-03"},
            **{"kind": "worse", "before": "pass", "after": "fail"},
        }
    ]
    assert main(["diff", "-q"]) == 1
    assert "1 worse" in capsys.readouterr().out


def test_explain(capsys):
    assert main(["explain", "MSK-03"]) == 0
    assert "MSK-03" in capsys.readouterr().out
    assert main(["explain"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 60


# --- whatever becomes of the disk and of the reader ------------------------------------------


def run_cli(*words, **options):
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "cellkit", *map(str, words)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, **options)


def no_more_than(size):
    """Let a process write files of so many bytes, as on a disk that is full then."""
    resource = pytest.importorskip("resource")
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.slow
def test_a_full_disk_costs_no_earlier_report(tmp_path):
    words = ["conform", CELL, "--backend", BACKEND, "--select", "STR-01"]
    files = {name: tmp_path / f"r.{name}" for name in ("json", "html", "junit", "badge")}
    for name, file in files.items():
        file.write_text(f"an earlier {name}", encoding="utf-8")
        words += [f"--{name}", file]
    done = run_cli(*words, preexec_fn=no_more_than(900), stdout=subprocess.PIPE)
    assert done.returncode == 64 and "Traceback" not in done.stderr, done.stderr
    assert "A report cannot be written." in done.stderr
    assert f"--json {files['json']}: OSError: File too large" in done.stderr
    assert "Conformant" in done.stdout  # the run was not in vain
    kept = {name for name, file in files.items() if file.read_text().startswith("an earlier")}
    assert kept == {"json", "html", "junit"}  # the small one is new
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in files.values()}


def test_a_full_disk_costs_no_earlier_baseline(tmp_path):
    outcomes = {"cell": {"torch": dict.fromkeys(edition.requirements(), "pass")}}
    report, kept = tmp_path / "r.json", tmp_path / "kept.json"
    report.write_text(json.dumps({"schema": 1, "outcomes": outcomes}), encoding="utf-8")
    kept.write_text("earlier", encoding="utf-8")
    done = run_cli("baseline", report, "--to", kept, preexec_fn=no_more_than(900))
    assert done.returncode == 64 and "Traceback" not in done.stderr, done.stderr
    assert f"Received: {kept}: OSError" in done.stderr
    assert kept.read_text(encoding="utf-8") == "earlier"
    assert {file.name for file in tmp_path.iterdir()} == {"r.json", "kept.json"}


@pytest.mark.slow
@pytest.mark.full
def test_a_report_is_written_through_links_and_into_what_is_no_file(tmp_path):
    (tmp_path / "folder").mkdir()
    real, link = tmp_path / "folder" / "real.json", tmp_path / "link.json"
    real.write_text("{}", encoding="utf-8")
    real.chmod(0o640)
    link.symlink_to(real)
    words = ["conform", CELL, "--backend", BACKEND, "--select", "STR-01"]
    assert run_cli(*words, "--json", link, stdout=subprocess.DEVNULL).returncode == 0
    assert link.is_symlink() and real.stat().st_mode & 0o777 == 0o640
    assert json.loads(real.read_text(encoding="utf-8"))["exit_code"] == 0
    done = run_cli(*words, "--json", "/dev/full", stdout=subprocess.DEVNULL)
    assert done.returncode == 64 and "No space left" in done.stderr


@pytest.fixture
def closed_pipe():
    """The writing end of a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.slow
@pytest.mark.full
def test_a_reader_that_leaves_keeps_the_exit_code(tmp_path, closed_pipe):
    broken = f"{Path(__file__).with_name('troublemakers.py')}:RaisesInInit"
    for cell, code in ((CELL, 0), (broken, 1)):
        words = ["conform", cell, "--backend", BACKEND, "--select", "STR-01", "-n", "1"]
        file = tmp_path / f"{code}.json"
        done = run_cli(*words, "--json", file, stdout=closed_pipe)
        assert done.returncode == code, done.stderr
        assert "BrokenPipe" not in done.stderr
        assert json.loads(file.read_text(encoding="utf-8"))["exit_code"] == code
    words = ["diff", tmp_path / "0.json", tmp_path / "1.json"]
    assert run_cli(*words, stdout=closed_pipe).returncode == 1
    for words in (["explain"], ["list"], ["--help"], ["conform", "--help"]):
        done = run_cli(*words, stdout=closed_pipe)
        assert done.returncode == 0 and "BrokenPipe" not in done.stderr, words
