"""The page that trains every cell when the documentation is built."""

import importlib.util
import json
import types
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the hook belongs to the extra `docs`")

from mkdocs.exceptions import PluginError  # noqa: E402

pytestmark = pytest.mark.one_backend

ROOT = Path(__file__).parents[2]
CELLS = [
    {
        "cell": name,
        "data": data,
        "accuracy": share,
        "needed": 0.17,
        "milliseconds": 9.6,
        "weights": n,
    }
    for name, data, share, n in (
        ("mgu", "digits", 0.5, 2624),
        ("cfc", "japanese_vowels", 0.9, 22272),
        ("gru", "digits", 0.75, 4032),
    )
]


@pytest.fixture
def tour(monkeypatch):
    spec = importlib.util.spec_from_file_location("tour", ROOT / "tools" / "tour.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_table_has_one_row_per_cell_the_best_first_by_data(tour):
    rows = tour.table(CELLS).splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == ["gru", "mgu", "cfc"]
    assert rows[2] == "| `cfc` | japanese vowels | 0.90 | 0.17 | 10 | 22,272 |"


def test_only_the_page_s_marker_is_replaced(tour, monkeypatch):
    found = {"cells": CELLS, "steps": 20, "batch": 32, "backend": "torch"}
    monkeypatch.setattr(tour, "results", lambda: (found, b""))
    page, other = (
        types.SimpleNamespace(file=types.SimpleNamespace(src_uri=uri))
        for uri in ("tour.md", "a.md")
    )
    text = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    made = tour.on_page_markdown(text, page=page)
    assert tour.MARKER not in made
    assert "3 cells, 20 steps of 32 each, on the torch backend" in made
    assert "| `gru` |" in made
    assert "(tour.png)" in made
    assert tour.on_page_markdown(tour.MARKER, page=other) == tour.MARKER
    with pytest.raises(PluginError, match="has lost the line"):
        tour.on_page_markdown("no marker", page=page)


def test_every_cell_s_results_come_from_the_script(tour, monkeypatch):
    def run(command, **options):
        arguments = [str(part) for part in command]
        assert arguments[1].endswith("train_every_cell.py")
        Path(arguments[arguments.index("--json") + 1]).write_text(json.dumps({"cells": CELLS}))
        Path(arguments[arguments.index("--plot") + 1]).write_bytes(b"png")

    monkeypatch.setattr(tour.subprocess, "run", run)
    found, plot = tour.results()
    assert found["cells"] == CELLS
    assert plot == b"png"
    assert tour.results()[0] is found  # trained once, however often a page asks


def test_a_script_that_fails_stops_the_build(tour, monkeypatch):
    def run(command, **options):
        return types.SimpleNamespace(stdout="", stderr="no such cell", returncode=1)

    monkeypatch.setattr(tour.subprocess, "run", run)
    with pytest.raises(PluginError, match="no such cell"):
        tour.results()
