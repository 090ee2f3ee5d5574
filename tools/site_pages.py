"""Adds to the site what lies elsewhere in the repository, when the documentation is built.

A hook of MkDocs: changelog, contributing and licence become pages, the charts of the benchmark are
drawn from its committed results, and the numbers of the home page are read from what made them.
Nothing is written into docs/, so none of it can be out of date.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "conformance")]
RESULTS = ROOT / "benchmarks" / "results" / "results.json"
KERAS_MAP = ROOT / "tools" / "keras_map.json"
CHARTS = "<!-- charts of the benchmark -->"
DRAWING = re.compile(r"<!-- drawing of (\w+) -->")
NUMBER = re.compile(r"<!-- number of (.+?) -->")
WHOLE = re.compile(
    r"(<pre.*?</pre>|<code.*?</code>|<[^>]*>)"
    r"|\b([A-Z]{3}-\d\d|\d{4}-\d\d-\d\d|\d+ x \d+ x \d+|[\d.]+ (?:s|ms|µs|MiB|MB))\b",
    re.DOTALL,
)
MATRIX = "<!-- matrix of backends -->"
BACKENDS = {"tensorflow": "TensorFlow", "torch": "PyTorch", "jax": "JAX"}
RIVALS = {
    "keras.layers.RNN": ("Keras' RNN", "#d1495b"),
    "keras.layers.": ("Keras' built-in layer", "#edae49"),
    "torch.nn.": ("torch.nn", "#3a86c8"),
    "torchrecurrent.": ("torchrecurrent", "#8d6bb8"),
    "flax.": ("flax", "#2a9d8f"),
    "by hand": ("a loop by hand", "#8a8f98"),
}
SIZE = (32, 100, 128)

# --- pages --------------------------------------------------------------------------------------


def changelog() -> str:
    """Return the changelog."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def contributing() -> str:
    """Return the page for contributors, its links those of the site."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\(docs/(\w[\w-]*\.md(?:#[\w-]+)?)\)", r"](\1)", text)
    return re.sub(r"\[docs/([\w-]+)\.md\]", r"[\1]", text).replace(
        "(CHANGELOG.md)", "(changelog.md)"
    )


def licence() -> str:
    """Return the licence, and how to cite the project."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    cite = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    return (
        "# Licence and citation\n\ncellkit is under the Apache License 2.0. To cite it, use what "
        f"`CITATION.cff` says:\n\n``` {{ .yaml .wrapped }}\n{cite}```\n\n"
        f"## The licence\n\n```text\n{text}```\n"
    )


PAGES = {"changelog.md": changelog, "contributing.md": contributing, "licence.md": licence}

# --- charts -------------------------------------------------------------------------------------


@functools.cache
def _results() -> dict[str, Any]:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def ratios(backend: str, mode: str) -> dict[str, dict[str, float]]:
    """Return what cellkit takes of the time of its rivals, by cell and the beginning of a name."""
    from cellkit_bench import report

    found: dict[str, dict[str, float]] = {}
    for (there, cell, size, how), rival, summary in report.compare(_results()):
        start = next((s for s in RIVALS if rival.startswith(s)), None)
        if there == backend and how == mode and size == SIZE and start:
            found.setdefault(cell, {})[start] = summary.median
    return found


def chart(backend: str, mode: str) -> str:
    """Return a chart as an SVG: a row for each cell, a dot for each rival, a logarithmic axis."""
    import math

    rows = ratios(backend, mode)
    left, width, step, top = 150, 720, 30, 34
    low, high = math.log10(0.05), math.log10(4)

    def x(value: float) -> float:
        place = (math.log10(min(max(value, 0.05), 4)) - low) / (high - low)
        return left + place * (width - left - 20)

    height = top + step * len(rows) + 26
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{BACKENDS[backend]}, {mode}">'
    ]
    for tick in (0.05, 0.1, 0.2, 0.5, 1, 2, 4):
        kind = "one" if tick == 1 else "tick"
        parts.append(
            f'<line class="{kind}" x1="{x(tick):.0f}" x2="{x(tick):.0f}" y1="{top - 8}" '
            f'y2="{height - 24}"/><text class="axis" x="{x(tick):.0f}" y="{height - 8}">{tick:g}'
            "</text>"
        )
    parts.append(f'<text class="side" x="{x(0.22):.0f}" y="14">cellkit is faster</text>')
    parts.append(f'<text class="side" x="{x(2):.0f}" y="14">slower</text>')
    for place, (cell, found) in enumerate(rows.items()):
        y = top + step * place + step / 2
        parts.append(f'<text class="name" x="{left - 12}" y="{y + 5:.0f}">{escape(cell)}</text>')
        parts.append(f'<line class="row" x1="{left}" x2="{width - 20}" y1="{y}" y2="{y}"/>')
        for start, value in found.items():
            name, colour = RIVALS[start]
            parts.append(
                f'<circle cx="{x(value):.1f}" cy="{y}" r="6.5" fill="{colour}">'
                f"<title>{escape(cell)}: {value:.2f} of the time of {escape(name)}</title></circle>"
            )
    return "".join(parts) + "</svg>"


def charts() -> str:
    """Return the charts of all backends, with a legend."""
    results = _results()
    legend = "".join(
        f'<span><i style="background: {colour}"></i>{escape(name)}</span>'
        for name, colour in RIVALS.values()
    )
    parts = [
        f"A dot says what `cellkit.RNN` takes of the time of another: left of 1 it is faster. "
        f"Batch {SIZE[0]}, {SIZE[1]} steps, width {SIZE[2]}, measured on "
        f"{results['date'][:10]}; point at a dot for its number.\n",
        f'<p class="chart-legend">{legend}</p>\n',
    ]
    for backend, shown in BACKENDS.items():
        for mode, title in (("training", "training step"), ("inference", "inference")):
            if ratios(backend, mode):
                parts.append(f"<figure><figcaption>{shown}, {title}</figcaption>")
                parts.append(chart(backend, mode) + "</figure>\n")
    return "\n".join(parts)


# --- the home page ------------------------------------------------------------------------------


def number(what: str) -> str:
    """Return a number of the home page, from what made it."""
    import cell_pages

    if what == "cells":
        return str(len(cell_pages.cells()))
    if what == "confirmed cells":
        table = cell_pages.TABLE.read_text(encoding="utf-8").partition("## Traits")[0]
        rows = re.findall(r"^\| \[`\w+`\].*$", table, re.MULTILINE)
        return str(sum("reference only" not in row for row in rows))
    if what == "requirements":
        from cellkit_conformance.edition import requirements

        return str(len(requirements()))
    if what == "requirements broken in Keras":
        found = json.loads(KERAS_MAP.read_text(encoding="utf-8"))
        broken = {
            identifier
            for backend in found.values()
            for cell in backend["found"].values()
            for identifier, (outcome, *_) in cell.items()
            if outcome in ("fail", "error")
        }
        return str(len(broken))
    if what.startswith("times faster than Keras in training on "):
        backend = what.rpartition(" ")[2]
        values = [
            row["keras.layers.RNN"]
            for row in ratios(backend, "training").values()
            if "keras.layers.RNN" in row
        ]
        return f"{1 / sorted(values)[len(values) // 2]:.1f}"
    raise PluginError(f"The home page asks for an unknown number: {what!r}")


def matrix() -> str:
    """Return what each backend breaks in Keras' layer, as a table."""
    found = json.loads(KERAS_MAP.read_text(encoding="utf-8"))
    heads, keras_row, cells_row = [], [], []
    for backend, shown in BACKENDS.items():
        outcomes = [entry[0] for entry in found[backend]["found"]["PlainCanary"].values()]
        bad = sum(outcome in ("fail", "error") for outcome in outcomes)
        heads.append(shown)
        total = bad + outcomes.count("pass")
        keras_row.append(f'<span class="broken">✗</span> {bad} of {total} broken')
        cells_row.append(f'<span class="kept">✓</span> none of {total}')
    return (
        f"| A custom cell in | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}\n"
        f"| `keras.layers.RNN` | {' | '.join(keras_row)} |\n"
        f"| `cellkit.RNN` | {' | '.join(cells_row)} |"
    )


def drawing(name: str) -> str:
    """Return the drawing of a cell."""
    import cell_pages

    target, facts = cell_pages.cells()[name]
    found = re.search(
        r'<div class="cell-picture".*?</div>', cell_pages.picture(target, facts), re.S
    )
    if found is None:
        raise PluginError(f"There is no drawing of {name!r}.")
    return found[0]


# --- MkDocs -------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to the site."""
    for path, make in PAGES.items():
        files.append(File.generated(config, path, content=make()))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Keep identifiers, dates, sizes and units in one piece, which a browser would break."""

    def whole(found: re.Match[str]) -> str:
        return found[1] or f'<span class="nobreak">{found[2]}</span>'

    return WHOLE.sub(whole, html)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put charts, drawings and numbers into the pages that ask for them."""
    sys.path.insert(0, str(ROOT / "tools"))
    markdown = NUMBER.sub(lambda found: number(found[1]), markdown)
    markdown = DRAWING.sub(lambda found: drawing(found[1]), markdown)
    if MATRIX in markdown:
        markdown = markdown.replace(MATRIX, matrix())
    return markdown.replace(CHARTS, charts()) if CHARTS in markdown else markdown
