"""Pages with tables say what the registry and the results say, and the checks notice others."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.one_backend, pytest.mark.full]  # `make docs` runs them

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "cell_table.py"
PAGE = (ROOT / "docs" / "cells.md").read_text(encoding="utf-8")


@pytest.fixture
def tool(monkeypatch):
    """The script as a module; what it changes for its own process is taken back."""
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("cell_table", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_page_is_what_the_registry_and_the_frozen_outputs_say():
    done = subprocess.run(
        [sys.executable, TOOL, "--check"], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "says what the registry says" in done.stdout


def test_page_of_benchmarks_says_what_the_committed_results_say():
    tool = ROOT / "tools" / "bench_tables.py"
    done = subprocess.run(
        [sys.executable, tool, "--check"], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_page_on_deployment_says_what_the_exports_gave():
    tool = ROOT / "tools" / "deployment_page.py"
    done = subprocess.run(
        [sys.executable, tool, "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_errors_may_differ_in_their_digits_and_nothing_else(tool):
    assert "ncps 1.0.1, " in PAGE
    assert tool.difference(PAGE, PAGE) == []
    other = tool.ERROR.sub("7e-16", PAGE)
    assert other != PAGE
    assert tool.difference(PAGE, other) == []
    for old, new in (
        ("ncps 1.0.1", "ncps 1.0.2"),
        ("`h` (units); `c` (units)", "`h` (units)"),
        ("| every cell |", "| every cell but [`lru`](cells/lru.md) |"),
    ):
        changed = PAGE.replace(old, new, 1)
        assert changed != PAGE
        assert len(tool.difference(PAGE, changed)) == 5  # two headers, the place, old and new


def test_page_names_every_cell_of_the_project(tool):
    names = [cell.name for cell in tool.own_cells()]
    assert len(names) >= 27
    for name in names:
        assert PAGE.count(f"\n| [`{name}`](cells/{name}.md)") == 1


def test_sizes_of_states_are_named(tool):
    # 21 filters on images of 6x5: an axis that is shorter by the kernel says so.
    widths, sizes = {"filters": 21}, {"rows": 6, "columns": 5, "channels": 2}
    assert [tool._named(s, k, widths, sizes) for k, s in enumerate((4, 3, 21))] == [
        "rows - 2",
        "columns - 2",
        "filters",
    ]
    assert tool._named(28, 0, {"units": 28}, {"features": 101}) == "units"
    assert tool._named(1, 0, {"units": 28}, {"features": 101}) == "1"
