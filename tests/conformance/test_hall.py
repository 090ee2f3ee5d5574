"""The hall of bugs: its page says what the code does."""

import importlib.util
import re
from pathlib import Path

import pytest

from cellkit_conformance.selftest.mutants import MUTANTS

pytestmark = pytest.mark.one_backend

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_mutants_say():
    spec = importlib.util.spec_from_file_location("hall", ROOT / "tools" / "hall_of_bugs.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page(), "run tools/hall_of_bugs.py"


def test_every_entry_names_a_thread_of_its_own_and_says_what_is_wrong():
    found = [mutant for mutant in MUTANTS if mutant.thread]
    assert len(found) >= 12
    assert len({mutant.thread for mutant in found}) == len(found)
    for mutant in found:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", mutant.thread), mutant.name
        assert mutant.broken.__doc__.splitlines()[0].endswith("."), mutant.name
