"""`replay`, which the programs of many failures call."""

import subprocess
import sys
from pathlib import Path

import keras
import pytest

from cellkit_conformance import edition, replay
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.run.plan import RunPlan
from cellkit_conformance.run.runner import Runner
from cellkit_conformance.selftest.mutants.meddler import Meddler
from cellkit_conformance.selftest.mutants.numerics import WrongSign
from cellkit_conformance.subject.canaries import PlainCanary

BACKEND = keras.backend.backend()
OTHER = "jax" if BACKEND == "torch" else "torch"
FILE = Path(__file__).with_name("troublemakers.py")


def test_what_does_not_hold_raises_and_what_holds_passes():
    with pytest.raises(AssertionError, match=r"output.* expected .* \(error "):
        replay("NUM-02", WrongSign)
    replay("NUM-02", PlainCanary)


def test_the_example_alone_is_tried_for_the_property_that_it_is_of(monkeypatch):
    from cellkit_conformance.subject.subject import Subject

    tried, inputs = [], Subject.inputs
    monkeypatch.setattr(Subject, "inputs", lambda s, e: tried.append(e) or inputs(s, e))
    example = {"batch": 2, "time": 3, "seed": 5, "mask": ["101", "011"], "kind": "any"}
    replay("MSK-02", PlainCanary, case="default", example=example)
    assert {(e.batch, e.time, e.seed, e.mask_array().tolist()[0][1]) for e in tried} == {
        (2, 3, 5, False)
    }
    tried.clear()
    replay("MSK-02", PlainCanary, example=example, turn=99)
    assert not tried


def test_an_example_comes_back_from_its_description():
    example = Example(
        2, 3, "plain", 4, 1, True, ((True, False, True), (False,) * 3), "any", {"unroll": True}
    )
    assert Example.from_description(example.describe()) == example
    assert Example.from_description(Example(1, 5, split=(2, 3)).describe()).split == (2, 3)


def test_effects_of_an_import_are_seen_where_a_function_imports():
    epsilon = keras.config.epsilon()

    def load():
        sys.modules.pop(Meddler.__module__, None)
        from cellkit_conformance.selftest.mutants.meddler import Meddler as again

        return again

    try:
        with pytest.raises(AssertionError, match="importing the cell changes"):
            replay("PUR-06", load)
    finally:
        keras.config.set_epsilon(epsilon)
    replay("PUR-06", lambda: PlainCanary)


def test_what_does_not_apply_says_so(capsys):
    replay("MSK-17", PlainCanary)
    assert "MSK-17 does not apply" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"requirement": "MSK"}, "'MSK' is a group of requirements."),
        ({"requirement": "MSK-99"}, "No requirement or group is called 'MSK-99'."),
        ({"profile": "lazy"}, "There is no profile 'lazy'."),
        ({"case": "none"}, "The spec has no case 'none'."),
        ({"cell": "no_such_cell"}, "no_such_cell"),
    ],
)
def test_wrong_use_says_what_to_do(given, said):
    given = {"requirement": "STR-01", "cell": PlainCanary, **given}
    with pytest.raises(ValueError, match="How to fix") as error:
        replay(given.pop("requirement"), given.pop("cell"), **given)
    assert said in str(error.value) and "Received: " in str(error.value)


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.full
def test_a_program_of_two_backends_runs_both(tmp_path):
    cell = f"{FILE}:OfOneBackend"
    plan = RunPlan([cell], [OTHER, BACKEND], edition.select(["SER-04"]))
    by_backend = {unit.backend: unit.results[0] for unit in Runner(plan).run()}
    assert by_backend[OTHER].outcome == "pass"
    result = by_backend[BACKEND]
    assert result.outcome == "fail" and f"{OTHER} stores" in result.message
    assert f"also_on=['{OTHER}']" in result.script
    script = tmp_path / "ser_04.py"
    script.write_text(result.script, encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"{OTHER} stores" in done.stderr, done.stderr
