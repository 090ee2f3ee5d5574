"""From outside: the wheel and a scaffolded plugin in a fresh environment, as an author has them."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from cellkit.cli import main
from cellkit_conformance.cli.project import class_name

pytestmark = [pytest.mark.one_backend, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


def run(*words, cwd, code=0):
    """Run a command and return what it printed; the exit code must be the one expected."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An empty folder, and an environment that holds the two wheels and borrows what is heavy."""
    folder = tmp_path_factory.mktemp("outside")
    project = folder / "cellkit-my-cell"
    assert main(["new", "my_cell", "--path", str(project)]) == 0
    venv.create(folder / "env", with_pip=False)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    # Behind the environment's own packages: what is installed in it counts. All is borrowed but
    # cellkit, which is installed here from its wheel.
    borrowed = folder / "borrowed"
    borrowed.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "cellkit" not in entry.name:
            (borrowed / entry.name).symlink_to(entry)
    (site / "borrowed.pth").write_text(f"{borrowed}\n", encoding="utf-8")
    wheels = folder / "wheels"
    for source in (ROOT, project):
        words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", wheels]
        run(*words, cwd=source)
    python = folder / "env" / "bin" / "python"
    # The plugin alone is named: that it brings cellkit, under the name that it is installed by, is
    # part of what is tested. There is no index, only the folder.
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    run(*pip, "--no-index", "--find-links", wheels, "cellkit-my-cell[test]", cwd=folder)
    (folder / "empty").mkdir()
    return folder / "empty", project, folder / "env" / "bin", site


def conform(place, code):
    """Run a few checks and return the outcomes by id."""
    empty, _, programs, _ = place
    select = ["--select", "STR-01,STR-03,NUM-01,NUM-02,MSK-02", "--json", "found.json"]
    run(
        programs / "cellkit",
        "conform",
        "my_cell",
        "--backend",
        "torch",
        *select,
        cwd=empty,
        code=code,
    )
    data = json.loads((empty / "found.json").read_text(encoding="utf-8"))
    return {result["requirement"]: result for result in data["results"]}


def test_the_new_plugin_is_found_and_passes_at_once(place):
    empty, _, programs, site = place
    said = run(programs / "python", "-c", "import cellkit; print(cellkit.__file__)", cwd=empty)
    assert said.strip().startswith(str(site))  # the wheel, not the working tree
    assert "my_cell:MyCell" in run(programs / "cellkit", "list", "my_*", cwd=empty)
    found = conform(place, 0)
    assert {id: result["outcome"] for id, result in found.items()} == dict.fromkeys(
        ["STR-01", "STR-03", "NUM-01", "NUM-02", "MSK-02"], "pass"
    )


def test_the_new_plugin_brings_cellkit_under_its_own_name(place):
    _, _, _, site = place
    assert [path.name for path in site.glob("*cellkit-*.dist-info")] == [
        "keras_cellkit-0.1.0.dist-info"
    ]


def test_its_own_tests_pass(place):
    _, project, programs, _ = place
    said = run(programs / "python", "-m", "pytest", "-q", "-k", "NUM-01 or shapes", cwd=project)
    assert "2 passed" in said


@pytest.mark.full
def test_a_wrong_sign_fails_the_numbers_and_only_them(place):
    empty, _, programs, site = place
    module = site / "my_cell.py"
    text = module.read_text(encoding="utf-8")
    broken = text.replace("states[0] + (1 - z) * n", "states[0] - (1 - z) * n")
    assert broken != text
    module.write_text(broken, encoding="utf-8")
    try:
        found = conform(place, 1)
        outcomes = {id: result["outcome"] for id, result in found.items()}
        assert outcomes["NUM-01"] == outcomes["NUM-02"] == "fail"
        assert outcomes["STR-01"] == outcomes["STR-03"] == "pass"
        script = found["NUM-01"]["extra"]["file"]
        run(programs / "python", script, cwd=empty, code=1)
    finally:
        module.write_text(text, encoding="utf-8")
    run(programs / "python", script, cwd=empty)  # the mended cell passes the same program


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    assert main(["new", "my_cell", "--path", str(tmp_path)]) == 64
    assert "nothing is overwritten" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["MyCell", "my-cell", "class", "lstm", "json", "keras", "1st", ""])
def test_names_that_cannot_be(name, tmp_path, capsys):
    assert main(["new", name, "--path", str(tmp_path / "new")]) == 64
    assert "cannot be the name" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "cls"), [("my_cell", "MyCell"), ("my", "MyCell"), ("lstm2", "Lstm2Cell")]
)
def test_names_of_classes(name, cls):
    assert class_name(name) == cls
