"""The page that shows what every cell learned."""

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
        "steps": 60,
    }
    for name, data, share, n in (
        ("mgu", "digits", 0.5, 2624),
        ("cfc", "japanese_vowels", 0.9, 22272),
        ("gru", "digits", 0.75, 4032),
        ("esn", "digits", 0.1, 999),
    )
]


@pytest.fixture
def tour():
    spec = importlib.util.spec_from_file_location("tour", ROOT / "tools" / "tour.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_table_has_one_row_per_cell_the_best_first_by_data(tour):
    rows = tour.table(CELLS[:3]).splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == ["gru", "mgu", "cfc"]
    assert rows[2].startswith("| [`cfc`](cells/cfc.md) | japanese vowels | ")
    assert rows[2].endswith(" 0.90 | 0.17 | 60 | 10 | 22,272 |")
    assert "--share: 0.900" in rows[2]


def test_tables_are_by_family_and_say_which_cells_still_guess(tour):
    made = tour.by_family(CELLS)
    heads = [line for line in made.splitlines() if line.startswith("## ")]
    assert heads == ["## GRU", "## Continuous", "## Reservoir"]
    assert made.index("`mgu`") < made.index("## Continuous") < made.index("`cfc`")
    (behind,) = [line for line in made.splitlines() if "still guessing" in line]
    assert behind.startswith("`esn`") and "Use it when" in behind


def test_only_the_page_s_marker_is_replaced(tour, monkeypatch):
    found = {"cells": CELLS, "steps": 60, "batch": 32, "backend": "torch"}
    monkeypatch.setattr(tour, "kept", lambda: found)
    monkeypatch.setattr(tour, "own_cells", lambda: ["cfc", "esn", "gru", "lru", "mgu"])
    monkeypatch.setattr(tour, "train", lambda names: pytest.fail("a build trains nothing"))
    page, other = (
        types.SimpleNamespace(file=types.SimpleNamespace(src_uri=uri))
        for uri in ("tour.md", "a.md")
    )
    text = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    made = tour.on_page_markdown(text, page=page)
    assert tour.MARKER not in made
    assert "4 cells, at least 60 steps of 32 each, on the torch backend" in made
    assert "| [`gru`]" in made
    assert "Not trained for this page yet: [`lru`](cells/lru.md)." in made
    assert tour.on_page_markdown(tour.MARKER, page=other) == tour.MARKER
    with pytest.raises(PluginError, match="has lost the line"):
        tour.on_page_markdown("no marker", page=page)


def test_what_is_not_committed_is_trained_and_nothing_else(tour, monkeypatch):
    commands = []

    def run(command, **options):
        arguments = [str(part) for part in command]
        commands.append(arguments)
        made = {"cells": CELLS[2:3], "steps": 60, "batch": 32, "backend": "torch"}
        Path(arguments[arguments.index("--json") + 1]).write_text(json.dumps(made))

    kept = {"cells": [*CELLS[:2], CELLS[3]], "steps": 60, "batch": 32, "backend": "torch"}
    monkeypatch.setattr(tour.subprocess, "run", run)
    monkeypatch.setattr(tour, "kept", lambda: kept)
    monkeypatch.setattr(tour, "own_cells", lambda: ["cfc", "gru", "mgu"])
    found = tour.results()
    assert sorted(row["cell"] for row in found["cells"]) == ["cfc", "gru", "mgu"]
    (arguments,) = commands
    assert arguments[1].endswith("train_every_cell.py")
    assert arguments[arguments.index("--cells") + 1] == "gru"
    assert tour.results() is found  # trained once, however often a page asks


def test_a_script_that_fails_stops_the_build(tour, monkeypatch):
    def run(command, **options):
        return types.SimpleNamespace(stdout="", stderr="no such cell", returncode=1)

    monkeypatch.setattr(tour.subprocess, "run", run)
    with pytest.raises(PluginError, match="no such cell"):
        tour.train(["gru"])


def test_the_committed_results_are_of_cells_that_learn(tour):
    rows = tour.kept()["cells"]
    assert len(rows) > 50
    assert all(row["accuracy"] >= row["needed"] for row in rows)
