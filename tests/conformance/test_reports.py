"""Selecting requirements, the reports, and the exit codes."""

import io
import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from example_report import NASTY, report
from rich.console import Console

from cellkit_conformance import edition
from cellkit_conformance.edition import Requirement
from cellkit_conformance.outcome import Outcome, Result, clean, one_line, shorten, text_of
from cellkit_conformance.report.html import write_html
from cellkit_conformance.report.junit import write_junit
from cellkit_conformance.report.report import Report
from cellkit_conformance.report.terminal import show_report
from cellkit_conformance.run.plan import RunPlan
from cellkit_conformance.run.runner import Backend, Unit

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ((Outcome.PASS, Outcome.PASS), 0),
        ((Outcome.PASS, Outcome.NOT_APPLICABLE), 0),
        ((Outcome.PASS, Outcome.FAIL), 1),
        ((Outcome.PASS, Outcome.ERROR), 1),
        ((Outcome.PASS, Outcome.TIMEOUT), 1),
        ((Outcome.CRASH, Outcome.NOT_RUN), 1),
        ((Outcome.PASS, Outcome.NOT_RUN), 3),
        ((Outcome.NOT_APPLICABLE,), 3),
        ((), 3),
    ],
)
def test_exit_codes(outcomes, code):
    assert report(*outcomes).exit_code == code


@pytest.mark.parametrize(
    ("claims", "traits", "code"),
    [
        (["zoneout"], ["zoneout"], 1),
        (["masking"], ["masking"], 0),
        ([], ["masking", "zoneout"], 0),
    ],
)
def test_a_broken_should_counts_where_the_spec_claims_its_trait(claims, traits, code):
    found = report(Outcome.PASS)
    (unit,) = found.units
    unit.claims, unit.traits = claims, traits
    unit.results += [Result("lstm", "torch", "RNG-09", Outcome.FAIL, "does not act")]
    assert found.exit_code == code
    assert found.verdict.startswith("NOT conformant" if code else "Conformant: 1 should")


def test_a_broken_should_is_shown_and_forgiven():
    should = next(id for id, r in edition.requirements().items() if r.level == "should")
    found = report(Outcome.PASS)
    found.units[0].results.append(Result("lstm", "torch", should, Outcome.FAIL))
    assert found.exit_code == 0
    assert "1 should-requirement broken" in found.verdict


class Tags(HTMLParser):
    """Collects the elements of a page, and the text of the one that holds the data."""

    def __init__(self, page):
        super().__init__()
        self.found, self.data, self.inside = [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append(tag)
        self.inside = dict(attributes).get("id") == "data"

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, text):
        self.data += text if self.inside else ""


def test_html_escapes_what_comes_from_outside(tmp_path):
    found = report(Outcome.PASS, Outcome.FAIL, cell="my:<b>Cell</b></script><img src=x>")
    found.results[1].script = f"# {NASTY}"
    found.results[1].extra["reason"] = NASTY
    write_html(found, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    tags = Tags(page)
    assert tags.found.count("script") == 2  # the data and the program, both our own
    assert "img" not in tags.found and "alert" not in "".join(tags.found)
    assert "&lt;script&gt;" in page
    data = json.loads(tags.data)
    assert data["results"][1]["message"] == NASTY  # escaped on the way, and complete
    assert data["cells"] == [found.plan.cells[0]]


def test_html_needs_nothing_else_and_keeps_the_order(tmp_path):
    write_html(report(Outcome.PASS, Outcome.FAIL, Outcome.STALE), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "jax is not installed" in page
    assert "http" not in page and "@import" not in page and "src=" not in page
    assert list(json.loads(Tags(page).data)["requirements"]) == list(edition.requirements())[:3]


def test_html_says_when_and_with_what_and_opens_on_what_is_broken(tmp_path):
    found = report(Outcome.PASS, Outcome.FAIL, Outcome.ERROR, Outcome.ERROR)
    found.backends["torch"].versions = {"torch": "2.13", "keras": "3.15.1"}
    for result in found.results[2:]:
        result.message = "RuntimeError: of one cause"
        result.extra = {"cause": "RuntimeError at x", "place": "lab.py, line 3, in call"}
    write_html(found, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    for fact in (found.created[:10], "UTC", found.platform, "cellkit 0", "keras 3.15.1"):
        assert fact in page, fact
    assert json.loads(Tags(page).data)["kind"] == "bad"
    causes = page[page.index("Broken, by cause") : page.index('id="all"')]
    assert causes.count("<li>") == 2 and "1 more follows from this" in causes
    assert causes.count("RuntimeError: of one cause") == 1 and "lab.py, line 3" in causes
    write_html(report(Outcome.PASS), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert json.loads(Tags(page).data)["kind"] == "all" and "by cause" not in page


@pytest.mark.parametrize("outcome", list(Outcome))
def test_html_knows_every_outcome(tmp_path, outcome):
    write_html(report(Outcome.PASS, outcome), tmp_path / "r.html")
    assert f"{outcome}" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_json_and_junit(tmp_path):
    found = report(Outcome.PASS, Outcome.FAIL, Outcome.CRASH, Outcome.NOT_RUN)
    found.write_json(tmp_path / "deep" / "r.json")
    data = json.loads((tmp_path / "deep" / "r.json").read_text(encoding="utf-8"))
    assert data["exit_code"] == 1
    assert data["counts"] == {"pass": 1, "fail": 1, "crash": 1, "not run": 1}
    assert data["missing_backends"] == ["jax"]
    assert len(data["results"]) == 4
    write_junit(found, tmp_path / "r.xml")
    cases = ET.parse(tmp_path / "r.xml").getroot()[0].iter("testcase")
    assert [[child.tag for child in case][1:] for case in cases] == [
        [],
        ["failure"],
        ["error"],
        ["skipped"],
    ]


def test_selecting():
    everything = list(edition.requirements())
    assert edition.select() == everything
    assert edition.select(["MSK-03"]) == ["MSK-03"]
    assert edition.select(["sta-03,STR-01"]) == ["STR-01", "STA-03"]
    masks = [id for id in everything if id.startswith("MSK")]
    assert edition.select(["MSK"]) == masks
    assert edition.select(["MSK"], ["MSK-01", "STA"]) == masks[1:]
    parts = [edition.select([group]) for group in edition.groups()]
    assert sorted(id for part in parts for id in part) == sorted(everything)
    assert edition.select(skipped=edition.groups()) == []


def test_an_unknown_selector_is_an_error():
    with pytest.raises(ValueError, match="Received: selector 'MSK-99'"):
        edition.select(["MSK-99"])
    with pytest.raises(ValueError, match="'MS'"):
        edition.select(["MS"])


def test_traits_gate_both_ways():
    needs = Requirement("X-01", "must", ("dropout",), "", "", 1)
    denies = Requirement("X-02", "must", ("!dropout", "!noise"), "", "", 1)
    assert needs.denied_by({"dropout"}) is None and needs.denied_by(set()) == "dropout"
    assert denies.denied_by({"masking"}) is None
    assert denies.denied_by({"noise"}) == "!noise"


def test_the_edition_is_complete():
    for identifier, requirement in edition.requirements().items():
        assert requirement.id == identifier
        assert requirement.level in {"must", "should", "info"}
        assert requirement.cost in {1, 2, 3}
        assert requirement.sentence.endswith(".") and requirement.hint.strip()


def test_texts_are_shortened():
    assert one_line("a\nb") == "a"
    assert one_line(" \n") == ""
    keras = "Exception encountered when calling Cell.call().\n\n\x1b[1mreal\x1b[0m\n\nArguments"
    assert one_line(f"ValueError: {keras}") == "ValueError: real"
    assert len(one_line("x" * 1000)) == 300
    assert len(shorten("x" * 10_000_000)) < 5000
    assert one_line(text_of(KeyError(f"{keras}"))) == "real"
    assert text_of(KeyError("Wx")) == "'Wx'"


def test_a_cell_that_cannot_be_made_is_told_once_and_in_full(tmp_path):
    text = "The module of my:Cell does not import.\n  Received: [red]Oops[/] :x:"
    cells, ids = ["my:Cell", "lstm"], ["STR-01", "STR-03"]
    backends = {name: Backend(name, True) for name in ("torch", "jax")}
    units = []
    for name in backends:
        broken, fine = Unit("my:Cell", name, problem=text), Unit("lstm", name)
        broken.results = [Result("my:Cell", name, "STR-01", Outcome.ERROR, text, text)]
        broken.results += [Result("my:Cell", name, "STR-03", Outcome.BLOCKED, text, text)]
        fine.results = [Result("lstm", name, i, Outcome.FAIL, f"is {name == 'jax'}") for i in ids]
        fine.results[1].message = "is 0.125" if name == "jax" else "is 1.25e-1"
        units += [broken, fine]
    found = Report(RunPlan(cells, list(backends), ids), units, backends, [], 1.0)
    console = Console(file=io.StringIO(), width=80, emoji=False)
    show_report(console, found)
    said = console.file.getvalue()
    assert said.count(text) == 1 and "my:Cell cannot be checked on torch, jax:" in said
    assert said.count("STR-03 lstm on torch, jax: is 1.25e-1") == 1  # the same on both
    assert said.count("STR-01 lstm on") == 2  # not the same
    write_html(found, tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text(encoding="utf-8").count("cannot be checked") == 3


def test_texts_from_anywhere_are_spelt_out(tmp_path):
    text = "\x1b[31mred\x1b[0m \x1b[2J \x00 \udcff \u202e \ufffe tab\t\r\n"
    assert clean(text) == "red \\x1b[2J \\x00 \\udcff \\u202e \\ufffe tab\t\n"
    found = report(Outcome.PASS, Outcome.FAIL, cell="my:\x01Cell")
    found.results[1].message = found.results[1].detail = text
    write_junit(found, tmp_path / "r.xml")
    case = list(ET.parse(tmp_path / "r.xml").getroot().iter("testcase"))[1]
    assert "\\udcff" in case.find("failure").get("message")

    class Silent(Exception):
        def __str__(self):
            raise RuntimeError

    assert text_of(Silent()) == "(it has no text: its __str__ raises RuntimeError)"
