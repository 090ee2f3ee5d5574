"""The report as one HTML file that needs nothing else: styles, script and data are inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from cellkit_conformance.edition import edition_name, requirements
from cellkit_conformance.files import write_text
from cellkit_conformance.outcome import Outcome, Result
from cellkit_conformance.places import CPU, backend_of, device_of
from cellkit_conformance.report.causes import causes
from cellkit_conformance.report.report import EXIT_CONFORMANT, EXIT_FAILED, Report
from cellkit_conformance.run.runner import Unit

TEMPLATES = Path(__file__).with_name("templates")

GOOD, BAD, OPEN, NA = "good", "bad", "open", "na"

SYMBOLS = {
    Outcome.PASS: ("✓", GOOD),
    Outcome.FAIL: ("✗", BAD),
    Outcome.ERROR: ("!", BAD),
    Outcome.TIMEOUT: ("∞", BAD),
    Outcome.CRASH: ("†", BAD),
    Outcome.STALE: ("≠", OPEN),
    Outcome.EXPECTED: ("∼", OPEN),
    Outcome.BACKEND_DEFECT: ("B", OPEN),
    Outcome.BLOCKED: ("⊘", OPEN),
    Outcome.NOT_RUN: ("?", OPEN),
    Outcome.NOT_APPLICABLE: ("–", NA),
}

GROUPS = {
    "STR": "structure: what a cell declares",
    "NUM": "numbers: the paper's equation",
    "SEQ": "sequences: the loop over time",
    "STA": "states: initial, kept, reset",
    "MSK": "masks: a masked step is not a step",
    "RST": "resets: several sequences in a row",
    "GRD": "gradients",
    "RNG": "randomness: dropout, training, inference",
    "SER": "serialisation",
    "DTY": "dtypes and precision",
    "CMP": "compiled and symbolic calls",
    "WRP": "wrappers around the layer",
    "PUR": "purity: nothing is changed in passing",
    "ERR": "errors",
    "DEV": "devices",
    "DST": "distribution",
    "EXP": "exports",
}

SHORT = {"tensorflow": "TF", "torch": "PT", "jax": "JX"}


def _short(name: str) -> str:
    """Abbreviate a place for the narrow heads of columns."""
    backend = backend_of(name)
    letters = SHORT.get(backend, backend[:2].upper())
    return letters if device_of(name) == CPU else f"{letters} {device_of(name)}"


def write_html(report: Report, path: Path) -> None:
    """Write the report.

    Args:
        report: The finished run.
        path: The file; its folder is made.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # most runs need none

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # names, messages and tracebacks come from anywhere
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the edition's order counts
    text = environment.get_template("report.html.j2").render(**_page(report))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def _page(report: Report) -> dict[str, Any]:
    """Gather what the template shows."""
    headline, _, tail = report.verdict.partition(";" if ";" in report.verdict else ":")
    units = {(unit.cell, unit.backend): unit for unit in report.units}
    rows: list[dict[str, Any]] = [
        {
            "cell": cell,
            "units": [
                _unit(report, units.get((cell, backend))) for backend in report.plan.backends
            ],
        }
        for cell in report.plan.cells
    ]
    rows.sort(key=lambda row: -sum(unit["bad"] for unit in row["units"] if unit))
    kinds = [SYMBOLS[result.outcome][1] for result in report.results]
    chips = [("all", "All", len(kinds))]
    names = {BAD: "Broken", OPEN: "Open", GOOD: "Pass", NA: "Do not apply"}
    chips += [(kind, name, kinds.count(kind)) for kind, name in names.items()]
    colour = {EXIT_CONFORMANT: GOOD, EXIT_FAILED: BAD}.get(report.exit_code, OPEN)
    return {
        "report": report,
        "edition": edition_name(),
        "requirements": requirements(),
        "headline": headline.strip().rstrip("."),
        "tail": tail.strip(),
        "kind": colour,
        "rows": rows,
        "chips": chips,
        "problems": [
            {"cell": cell, "text": text, "backends": ", ".join(backends)}
            for cell, text, backends in report.problems
        ],
        "notes": report.notes,
        "facts": _facts(report),
        "causes": [
            {
                "first": cause.first,
                "key": _key(cause.first),
                "backends": ", ".join(cause.backends),
                "place": cause.first.extra.get("place", ""),
                "hint": cause.first.extra.get("hint")
                or requirements()[cause.first.requirement].hint,
                "rest": [(r.requirement, r.backend, _key(r)) for r in cause.results[1:]],
                "blocked": cause.blocked,
            }
            for cause in causes(report)
        ],
        "outcomes": {o: {"symbol": s, "kind": k} for o, (s, k) in SYMBOLS.items()},
        "data": _data(report, [row["cell"] for row in rows]),
        # Our own files, and the only text that is not escaped.
        "css": Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),  # noqa: S704
        "js": Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),  # noqa: S704
    }


def _prose(text: str) -> Markup:
    """Escape a sentence, and set as code what stands between backquotes."""
    parts = [escape(part) for part in text.split("`")]
    return Markup().join(
        Markup("<code>{}</code>").format(part) if number % 2 else part
        for number, part in enumerate(parts)
    )


def _key(result: Result) -> str:
    """Name a result as the script of the page does."""
    return "\n".join((result.cell, result.backend, result.requirement))


def _facts(report: Report) -> list[str]:
    """Say when, on what and with what the run was."""
    common: dict[str, str] = {}
    for backend in report.backends.values():
        own = backend_of(backend.name)  # its version stands over its column
        common |= {key: said for key, said in backend.versions.items() if key != own}
    when = report.created.replace("T", " ").replace("+00:00", " UTC")
    versions = [f"{name} {version}" for name, version in common.items()]
    return [when, report.platform, f"cellkit {report.version}", *versions]


def _unit(report: Report, unit: Unit | None) -> dict[str, Any] | None:
    """Say in a few words how a cell did on a backend."""
    if unit is None:
        return None
    counts = report.counts(unit)
    kinds = {kind: 0 for kind in (GOOD, BAD, OPEN, NA)}
    for outcome, number in counts.items():
        kinds[SYMBOLS[outcome][1]] += number
    if unit.problem:
        said, kind = "cannot be checked", BAD
    elif kinds[BAD]:
        said, kind = f"{kinds[BAD]} broken", BAD
    elif kinds[OPEN]:
        most = max((o for o in counts if SYMBOLS[o][1] == OPEN), key=counts.__getitem__)
        plural = "s" if counts[most] > 1 and most not in (Outcome.BLOCKED, Outcome.NOT_RUN) else ""
        said, kind = f"{counts[most]} {most}{plural}", OPEN
    else:
        said, kind = f"{kinds[GOOD]} pass", GOOD
    return {
        "backend": unit.backend,
        "said": said,
        "kind": kind,
        "bad": kinds[BAD],
        "seconds": unit.seconds,
        "parts": [(name, number) for name, number in kinds.items() if number],
        "title": ", ".join(f"{number} {outcome}" for outcome, number in counts.items()),
    }


def _data(report: Report, cells: list[str]) -> dict[str, Any]:
    """Gather what the script needs; it is written as JSON in which no tag can end the element."""
    backends = list(report.plan.backends)
    return {
        "cells": cells,
        "backends": backends,
        "short": [_short(n) if len(backends) > 1 else "" for n in backends],
        "start": cells[0] if len(cells) == 1 else "",
        "kind": BAD if report.bad else "all",
        "groups": GROUPS,
        "outcomes": {str(o): {"symbol": s, "kind": k} for o, (s, k) in SYMBOLS.items()},
        "symbols": {BAD: "✗", OPEN: "?", GOOD: "✓", NA: "–"},
        "requirements": {
            id: {"level": r.level, "sentence": r.sentence, "hint": r.hint}
            for id, r in requirements().items()
            if id in report.plan.ids
        },
        "results": [result.to_json() for result in report.results],
    }
