"""The report as one HTML file that needs nothing else: no script, no font, no picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cellkit_conformance.edition import edition_name, requirements
from cellkit_conformance.outcome import Outcome
from cellkit_conformance.report import Report

SYMBOLS = {
    Outcome.PASS: ("✓", "pass"),
    Outcome.FAIL: ("✗", "bad"),
    Outcome.ERROR: ("!", "bad"),
    Outcome.TIMEOUT: ("⏱", "bad"),
    Outcome.CRASH: ("☠", "bad"),
    Outcome.NOT_APPLICABLE: ("–", "na"),
    Outcome.NOT_RUN: ("?", "open"),
}


def write_html(report: Report, path: Path) -> None:
    """Write the report.

    Args:
        report: The finished run.
        path: The file; its folder is made.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,  # names, messages and tracebacks come from anywhere
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("report.html.j2").render(**_page(report))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _page(report: Report) -> dict[str, Any]:
    """Gather what the template shows."""
    by_key = {
        (result.cell, result.backend, result.requirement): result for result in report.results
    }
    units = {(unit.cell, unit.backend): unit for unit in report.units}
    return {
        "report": report,
        "edition": edition_name(),
        "requirements": requirements(),
        "results": by_key,
        "units": units,
        "symbols": SYMBOLS,
        "Outcome": Outcome,
    }
