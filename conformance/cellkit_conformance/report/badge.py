"""The badge: one line of SVG that says whether a cell is conformant, and on how many checks."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

from cellkit_conformance.files import write_text
from cellkit_conformance.outcome import Outcome
from cellkit_conformance.report.report import EXIT_CONFORMANT, EXIT_FAILED, Report

COLOURS = {EXIT_CONFORMANT: "#1a7f4b", EXIT_FAILED: "#c0362c"}
"""By exit code; anything between is amber."""

LABEL = "cellkit conformance"

SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{title}">
<title>{title}</title>
<clipPath id="r"><rect width="{width}" height="20" rx="4"/></clipPath>
<g clip-path="url(#r)"><rect width="{left}" height="20" fill="#3a4248"/>
<rect x="{left}" width="{right}" height="20" fill="{colour}"/></g>
<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="{left_middle}" y="14">{label}</text><text x="{right_middle}" y="14">{text}</text></g>
</svg>
"""


def badge_text(report: Report) -> str:
    """Say in a few words how a run ended.

    Args:
        report: The finished run.
    """
    counts = report.counts()
    if report.exit_code == EXIT_CONFORMANT:
        return f"{counts[Outcome.PASS]} checks pass"
    if report.bad:
        return f"{len(report.bad)} broken"
    return {2: "stale expectation", 5: "backend defects"}.get(report.exit_code, "incomplete")


def write_badge(report: Report, path: Path) -> None:
    """Write the badge.

    Args:
        report: The finished run.
        path: The SVG file; its folder is made.
    """
    text = badge_text(report)
    left, right = 8 + round(6.4 * len(LABEL)), 14 + round(6.6 * len(text))
    write_text(
        path,
        SVG.format(
            width=left + right,
            left=left,
            right=right,
            left_middle=left / 2,
            right_middle=left + right / 2,
            colour=COLOURS.get(report.exit_code, "#946200"),
            label=escape(LABEL),
            text=escape(text),
            title=escape(f"{LABEL}: {text}"),
        ),
    )
