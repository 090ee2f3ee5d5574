"""Conformance as test items of somebody else's project."""

from pathlib import Path

import keras
import pytest

from cellkit_conformance import conformance_tests, pytest_integration

BACKEND = keras.backend.backend()
FILE = Path(__file__).with_name("troublemakers.py")

test_a_good_cell = conformance_tests(f"{FILE}:Good", select=["STR", "PUR"])


def test_items_follow_the_selection():
    made = conformance_tests("lstm", select=["MSK-01,MSK-02"], skip=["MSK-02"])
    (mark,) = made.pytestmark
    assert mark.args == ("requirement", ["MSK-01"])


def test_a_broken_cell_fails_with_the_reason():
    shouts = conformance_tests(f"{FILE}:Shouts")
    with pytest.raises(pytest.fail.Exception, match="must hold: One step returns"):
        shouts("STR-03")


def test_what_does_not_apply_is_skipped():
    good = conformance_tests(f"{FILE}:Good")
    with pytest.raises(pytest.skip.Exception, match="the spec has no reference"):
        good("NUM-01")


def test_a_cell_that_is_not_there_is_a_failure_that_says_so():
    made = conformance_tests(f"{FILE}:Nowhere")
    for requirement in ("STR-01", "STR-03"):
        with pytest.raises(pytest.fail.Exception, match="has no 'Nowhere'"):
            made(requirement)


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch makes no two devices of one processor")
def test_what_needs_two_devices_runs_in_a_process_of_its_own():
    one_device = "cellkit_conformance.selftest.mutants.engines:OneDevice"
    conformance_tests(f"{FILE}:Good", profile="standard")("DEV-04")
    broken = conformance_tests(f"{FILE}:Good", profile="standard", layer=one_device)
    with pytest.raises(pytest.fail.Exception, match="a result is on .*the input on"):
        broken("DEV-04")


class Stranger:
    """Stands for a process that knows nothing of the cell."""

    def __init__(self, *args):
        self.asked = args

    def ask(self, request, timeout):
        return {"event": "error", "reason": "No module named 'lab'"}

    def close(self):
        self.asked = ()


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch makes no two devices of one processor")
def test_where_the_other_process_does_not_know_the_cell_the_skip_says_so(monkeypatch):
    monkeypatch.setattr(pytest_integration, "Process", Stranger)
    with pytest.raises(pytest.skip.Exception, match="not run: .*named 'lab'.*`cellkit conform`"):
        conformance_tests(f"{FILE}:Good", profile="standard")("DEV-01")


def test_bad_arguments():
    with pytest.raises(ValueError, match="profile"):
        conformance_tests("lstm", profile="lazy")
    with pytest.raises(ValueError, match="NOPE"):
        conformance_tests("lstm", select=["NOPE"])


ENTRY = '[[expected]]\ncell = "CELL"\nrequirement = "STR-03"\nreason = "It shouts."\n'


def test_expected_failures_are_xfails_and_strict(tmp_path):
    for name, raised in (("Shouts", pytest.xfail.Exception), ("Good", pytest.fail.Exception)):
        file = tmp_path / "known.toml"
        file.write_text(ENTRY.replace("CELL", f"{FILE}:{name}"), encoding="utf-8")
        made = conformance_tests(f"{FILE}:{name}", expected=file)
        with pytest.raises(raised, match="It shouts" if name == "Shouts" else "delete the entry"):
            made("STR-03")
