"""Facts of the cells: kept beside the code, true to it, and there without a backend."""

import json
import os
import subprocess
import sys

import pytest

import cellkit
from cellkit import _distribution, facts
from cellkit.registry import registry

OWN = sorted(
    name
    for name, found in registry.declarations().items()
    if _distribution.is_own(found[0].distribution)
)
HEAVY = ("keras", "numpy", "tensorflow", "torch", "jax", "cellkit_classic", "cellkit_gru")


@pytest.fixture(scope="module")
def written():
    """The facts that are kept, by the names of the cells."""
    return json.loads(facts.FILE.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.part(6)  # a cell is built to count its parameters
@pytest.mark.parametrize("name", OWN)
def test_the_file_is_what_the_cells_say(name, written):
    today = json.loads(facts.to_file([cellkit.get(name)]))
    assert written[name] == today[name], "run `python tools/cell_facts.py`"


@pytest.mark.one_backend
def test_the_file_holds_every_cell(written):
    assert set(written) == set(OWN)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", OWN)
def test_what_is_kept_is_what_the_class_says(name):
    (declared,) = registry.declarations()[name]
    there, today = facts.kept(declared), facts.facts_of(cellkit.get(name))
    there, today = ({**told, "parameters": None} for told in (there, today))  # tested with the file
    assert there == today and there["inputs"] == cellkit.get(name).spec.inputs
    assert list(there["arguments"]) == list(today["arguments"])


@pytest.mark.one_backend
@pytest.mark.parametrize("name", OWN)
def test_the_example_runs(name):
    names = {}
    exec(compile(facts.read(name)["example"], name, "exec"), names)
    assert isinstance(names["model"].layers[-1].cell, cellkit.get(name).cls)


@pytest.mark.one_backend
def test_nothing_is_used_that_the_code_has_outlived(monkeypatch):
    (declared,) = registry.declarations()["lstm"]
    assert facts.kept(declared) is not None
    monkeypatch.setattr(facts, "fingerprint", lambda package: "another")
    assert facts.kept(declared) is None
    assert facts.read("lstm") == facts.facts_of(cellkit.get("lstm"))


@pytest.mark.one_backend
def test_a_cell_of_others_under_the_same_name_has_no_kept_facts():
    theirs = registry.Declaration("lstm", "cellkit_classic:LSTMCell", "their-lab", "1.0")
    assert facts.kept(theirs) is None
    moved = registry.Declaration("lstm", "cellkit_classic:Other", _distribution.NAME, "1.0")
    assert facts.kept(moved) is None


@pytest.mark.one_backend
def test_the_fingerprint_changes_with_the_code(tmp_path, monkeypatch):
    package = tmp_path / "some_lab_of_cells"
    package.mkdir()
    (package / "__init__.py").write_text("A = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    prints = []
    for change in ("A = 1\n", "A = 2\n"):
        (package / "__init__.py").write_text(change)
        facts.fingerprint.cache_clear()
        prints.append(facts.fingerprint("some_lab_of_cells"))
    (package / "more.py").write_text("")
    facts.fingerprint.cache_clear()
    prints.append(facts.fingerprint("some_lab_of_cells"))
    assert len(set(prints)) == 3 and "some_lab_of_cells" not in sys.modules


def argument_cell():
    class Base:
        """Base.

        Args:
            rate: Rate in `[0, 1]`. More of it.
        """

        state_size = 1

        def __init__(self, rate=0.5):
            self.rate = rate

    class Derived(Base):
        """Derived.

        Args:
            size: Size of X (Y et al. 2016,
                arXiv). Another sentence.
        """

        def __init__(self, size, **kwargs):
            super().__init__(**kwargs)

        def call(self, inputs, states):
            return inputs, states

    return registry.RegisteredCell("derived", Derived, None, "this process")


@pytest.mark.one_backend
def test_arguments_of_a_class_without_a_spec():
    found = facts.facts_of(argument_cell())
    assert found["arguments"] == {
        "size": "has to be given. Size of X (Y et al. 2016, arXiv).",
        "rate": "0.5. Rate in `[0, 1]`.",
    }
    assert found["spec"].startswith("none") and "example" not in found


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["list", "--verbose"],
        ["list", "--trait", "linear"],
        ["show", "gru_d"],
        ["show", "lstm", "--json"],
        ["explain"],
        ["explain", "MSK-03"],
        ["explain", "MSK", "--json"],
    ],
)
def test_questions_are_answered_without_a_backend_quickly_and_without_noise(words, tmp_path):
    """What takes 0.7 seconds at most is six times what the libraries of a terminal take."""
    clock = "import time; print(time.process_time(), file=sys.stderr)"
    libraries = f"import sys, typer, rich.console, rich.table; {clock}"
    question = (
        "import sys; from cellkit.cli import main; status = main(sys.argv[1:])\n"
        f"assert not set({HEAVY!r}) & set(sys.modules); assert status == 0\n{clock}"
    )
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path)}

    def seconds(code):
        command = [sys.executable, "-c", code, *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        (line,) = done.stderr.splitlines()
        return float(line)

    # The processor's time, as a ratio: machines differ, and other work takes from both.
    ratios = []
    while len(ratios) < 3 and (not ratios or ratios[-1] >= 6):
        ratios.append(seconds(question) / seconds(libraries))
    assert min(ratios) < 6


@pytest.mark.slow
@pytest.mark.one_backend
def test_the_same_with_a_backend_that_does_not_exist(tmp_path):
    for words in (["list"], ["show", "lstm"], ["explain", "MSK-03"]):
        done = subprocess.run(
            [sys.executable, "-m", "cellkit", *words],
            capture_output=True,
            text=True,
            env={**os.environ, "KERAS_BACKEND": "pytorch", "KERAS_HOME": str(tmp_path)},
        )
        assert (done.returncode, done.stderr) == (0, "")
