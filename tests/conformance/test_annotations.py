"""Failures as remarks on the files of a pull request, and as a JUnit file."""

import inspect
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from example_report import report

from cellkit_conformance import edition
from cellkit_conformance.judge.causes import place_of
from cellkit_conformance.outcome import Outcome, Result
from cellkit_conformance.report.annotations import remarks
from cellkit_conformance.report.junit import write_junit

pytestmark = pytest.mark.one_backend

SENTENCES = {id: r.sentence for id, r in edition.requirements().items()}
# Three that follow from no other.
FIRST, SECOND, THIRD = [id for id, r in edition.requirements().items() if not r.after][2:5]
SHOULD = next(id for id, r in edition.requirements().items() if r.level == "should" and not r.after)


class Raising:
    def call(self):
        raise RuntimeError("no: 100 %, sorry")


def broken(*more):
    """Make a report with one cause in three requirements, and further results."""
    found = report(Outcome.PASS, cell="my:Cell")
    (unit,) = found.units
    unit.source = f"{Path(__file__)}:12"
    try:
        Raising().call()
    except RuntimeError as error:
        place = place_of(error, Raising)
    for identifier in (FIRST, SECOND, THIRD):
        result = Result("my:Cell", "torch", identifier, Outcome.ERROR, "no: 100 %, sorry\r\nmore")
        result.extra = {"cause": f"RuntimeError at {place}", "place": place, "hint": "mend it"}
        result.script = f"# shows {identifier}\nassert False"
        result.seconds = 1.5
        unit.results.append(result)
    unit.results += more
    return found


def test_a_cause_is_one_remark_at_its_place_in_the_cell(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    (line,) = remarks(broken())
    head, _, text = line.partition("::")[2].partition("::")
    raised = inspect.getsourcelines(Raising.call)[1] + 1
    assert head.startswith(f"error file=tests/conformance/test_annotations.py,line={raised},title=")
    assert f"title={FIRST} my%3ACell on torch" in head
    assert text.startswith("no: 100 %25, sorry%0Amore%0Amust hold: ") and "\n" not in line
    assert "look for: mend it" in text and f"2 more follow from this: {SECOND}, {THIRD}" in text


def test_what_does_not_count_is_a_warning_at_the_class(monkeypatch, tmp_path):
    monkeypatch.chdir(Path(__file__).parent)
    _, line = remarks(broken(Result("my:Cell", "torch", SHOULD, Outcome.FAIL, "is off")))
    assert line.startswith("::warning file=test_annotations.py,line=12,title=")
    monkeypatch.chdir(tmp_path)  # no file of this folder: nothing that could be remarked on
    _, line = remarks(broken(Result("my:Cell", "torch", SHOULD, Outcome.FAIL, "is off")))
    assert re.match("::warning title=[^,]+::is off%0A", line)


def test_a_cell_that_cannot_be_made_and_a_stale_expectation_are_errors(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = report(Outcome.ERROR, Outcome.STALE, cell="cells/lab.py:Cell")
    found.units[0].problem = "Nothing says how to make it."
    made, stale = remarks(found)
    assert made.startswith("::error file=cells/lab.py,line=1,title=cells/lab.py%3ACell cannot be")
    assert stale.startswith("::error title=")
    assert list(remarks(report(Outcome.PASS))) == []


def test_junit_tells_a_cause_once_with_sentence_program_and_times(tmp_path):
    found = broken()
    found.units[0].seconds = 7.25
    found.backends["torch"].versions = {"torch": "2", "keras": "3"}
    write_junit(found, tmp_path / "r.xml")
    root = ET.parse(tmp_path / "r.xml").getroot()
    assert root.get("tests") == "4" and root.get("errors") == "3" and root.get("time") == "4.500"
    (suite,) = root
    assert suite.get("time") == "7.250" and suite.get("timestamp") == found.created
    facts = {p.get("name"): p.get("value") for p in suite.find("properties")}
    assert facts["keras"] == "3" and facts["profile"] == "quick" and facts["platform"]
    fine, first, *others = suite.iter("testcase")
    for case in (fine, first, *others):
        said = {p.get("name"): p.get("value") for p in case.find("properties")}
        assert said["sentence"] == SENTENCES[case.get("name")]
        assert case.get("file") == str(Path(__file__)) and case.get("line") == "12"
    assert first.get("time") == "1.500"
    assert SENTENCES[FIRST] in first.find("error").text
    assert f"shows {FIRST}" in first.find("system-out").text
    for case in others:
        assert case.find("error").get("message").startswith(f"follows from {FIRST} on torch: ")
        assert case.find("system-out") is None
