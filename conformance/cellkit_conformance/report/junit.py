"""The JUnit report: a suite per cell and backend, a case per requirement."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from cellkit_conformance.edition import edition_name, requirements
from cellkit_conformance.files import write_text
from cellkit_conformance.outcome import Outcome, Result, clean
from cellkit_conformance.report.causes import causes
from cellkit_conformance.report.report import Report
from cellkit_conformance.run.runner import Unit

Follows = dict[tuple[str, str, str], Result]
"""By cell, backend and requirement, the result that tells the cause of one in full."""


def write_junit(report: Report, path: Path) -> None:
    """Write a JUnit report.

    Every case has its time and, as the property "sentence", what must hold. The first case of a
    cause says all that is known, and has the program that shows it as its output; the others name
    the first.

    Args:
        report: The finished run.
        path: The file; its folder is made.
    """
    follows: Follows = {
        (result.cell, result.backend, result.requirement): cause.first
        for cause in causes(report)
        for result in cause.results[1:]
    }
    root = ET.Element("testsuites", name="cellkit conform", timestamp=report.created)
    counts = _count(root, report.results)
    root.set("time", f"{sum(result.seconds for result in report.results):.3f}")
    if not counts["tests"]:
        ET.SubElement(root, "testsuite", name="cellkit conform", tests="0")
    for unit in report.units:
        _suite(root, report, unit, follows)
    text = ET.tostring(root, encoding="unicode")
    write_text(path, f"<?xml version='1.0' encoding='utf-8'?>\n{text}")


def _suite(root: ET.Element, report: Report, unit: Unit, follows: Follows) -> None:
    suite = ET.SubElement(root, "testsuite", name=clean(f"{unit.cell} on {unit.backend}"))
    suite.set("timestamp", report.created)
    suite.set("time", f"{unit.seconds:.3f}")
    _count(suite, unit.results)
    facts = {
        "edition": edition_name(),
        "profile": report.plan.profile,
        "seed": str(report.plan.seed),
        "layer": report.plan.layer,
        "platform": report.platform,
        "cellkit": report.version,
        **report.backends[unit.backend].versions,
    }
    _properties(suite, facts)
    for result in unit.results:
        _case(suite, result, unit, follows)


def _count(element: ET.Element, results: list[Result]) -> Counter[str]:
    """Write how many results a suite has, by the words of JUnit."""
    counts = Counter(_kind(result) for result in results)
    counts["tests"] = len(results)
    for key, word in (("tests", "tests"), ("failure", "failures"), ("error", "errors")):
        element.set(word, str(counts[key]))
    element.set("skipped", str(counts["skipped"]))
    return counts


def _kind(result: Result) -> str:
    """Say in a word of JUnit how a check ended."""
    if result.outcome in (Outcome.FAIL, Outcome.STALE):
        return "failure"
    if result.outcome.is_bad:
        return "error"
    return "" if result.outcome is Outcome.PASS else "skipped"


def _case(suite: ET.Element, result: Result, unit: Unit, follows: Follows) -> None:
    case = ET.SubElement(suite, "testcase", name=result.requirement)
    case.set("classname", f"{result.backend}.{clean(result.cell)}")
    case.set("time", f"{result.seconds:.3f}")
    file, _, line = unit.source.rpartition(":")
    if file:
        case.set("file", clean(file))
        case.set("line", line)
    requirement = requirements()[result.requirement]
    _properties(case, {"sentence": requirement.sentence, "level": requirement.level})
    kind = _kind(result)
    if not kind:
        return
    message = result.message if kind == "failure" else f"{result.outcome}: {result.message}"
    element = ET.SubElement(case, kind)
    first = follows.get((result.cell, result.backend, result.requirement))
    if first is not None:
        said = f"{first.requirement} on {first.backend}"
        element.set("message", clean(f"follows from {said}: {message}"))
        element.text = clean(f"The same cause as {said}, which has the whole story.")
        return
    element.set("message", clean(message))
    if kind == "skipped":
        return
    lines = [
        result.detail or result.message,
        f"must hold: {requirement.sentence}",
        f"look for:  {result.extra.get('hint') or requirement.hint}",
        f"raised in: {result.extra['place']}" if result.extra.get("place") else "",
        f"example:   {result.example}" if result.example else "",
        f"run again: {result.reproduce}" if result.reproduce else "",
    ]
    element.text = clean("\n".join(filter(None, lines)))
    if result.script:
        ET.SubElement(case, "system-out").text = clean(result.script)


def _properties(element: ET.Element, facts: dict[str, str]) -> None:
    box = ET.SubElement(element, "properties")
    for name, value in facts.items():
        ET.SubElement(box, "property", name=clean(name), value=clean(value))
