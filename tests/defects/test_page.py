"""docs/keras-defects.md and the tests of this folder tell the same story."""

import fnmatch
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "keras-defects.md").read_text(encoding="utf-8")
TESTS = {
    name
    for file in HERE.glob("test_*.py")
    if file.name != "test_page.py"
    for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
}
PATTERNS = re.findall(r"`(test_[\w*]+)`", PAGE)
IDS = re.findall(r"^\| ([A-ELP]\d+) \|", PAGE, re.MULTILINE)


def test_every_defect_is_on_the_page_once():
    expected = [
        f"{table}{i + 1}"
        for table, count in {"A": 8, "B": 9, "C": 12, "D": 14, "E": 4, "P": 10, "L": 7}.items()
        for i in range(count)
    ]
    assert expected == IDS


def test_every_test_on_the_page_exists():
    for pattern in PATTERNS:
        assert fnmatch.filter(TESTS, pattern), f"the page names {pattern}, which no test matches"


def test_every_test_of_a_defect_is_on_the_page():
    for test in TESTS:
        if re.match(r"test_[a-elp]\d+_", test):
            assert any(fnmatch.fnmatch(test, p) for p in PATTERNS), f"{test} is not on the page"


def test_rows_name_their_own_tests():
    for row in re.findall(r"^\| [A-ELP]\d+ \|.*$", PAGE, re.MULTILINE):
        defect = row.split("|")[1].strip().lower()
        assert f"`test_{defect}_*`" in row
