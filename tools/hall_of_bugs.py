"""Write docs/hall-of-bugs.md: the defects of other libraries that the self-test rebuilds.

KERAS_BACKEND=torch python tools/hall_of_bugs.py            write the page
KERAS_BACKEND=torch python tools/hall_of_bugs.py --check    fail where it is not what the code says
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "hall-of-bugs.md"

HEAD = """\
# Hall of bugs

Defects that libraries of recurrent cells have shipped, and that somebody found by hand. Each is
rebuilt here from its description, as a broken cell or layer of the suite's own, and the
requirements beside it notice it: on every backend, in every run of the tests. None of it is the
libraries' code; most of them are mended, and all of them are good libraries.

`cellkit selftest` runs them, with the other broken cells that prove each check; `cellkit explain
ID` says what a requirement means. The code is `cellkit_conformance/selftest/mutants/hall.py`.

| The defect | In the thread | Noticed by |
|---|---|---|
"""


def page() -> str:
    """Write the page from what the mutants say of themselves."""
    from cellkit_conformance.selftest.mutants import MUTANTS

    rows = []
    for mutant in MUTANTS:
        if not mutant.thread:
            continue
        said = (mutant.broken.__doc__ or "").partition("\n")[0].replace("|", "\\|")
        repository, _, number = mutant.thread.partition("#")
        link = f"[{mutant.thread}](https://github.com/{repository}/issues/{number})"
        rows.append(f"| {said} | {link} | {', '.join(mutant.kills)} |\n")
    return HEAD + "".join(rows)


def main() -> int:
    """Write the page, or compare it."""
    text = page()
    found = len(re.findall(r"^\| .*\[", text, re.MULTILINE))
    if "--check" in sys.argv[1:]:
        same = PAGE.read_text(encoding="utf-8") == text
        print(f"{found} defects; the page is {'up to date' if same else 'old: run this tool'}")
        return 0 if same else 1
    PAGE.write_text(text, encoding="utf-8")
    print(f"{found} defects in {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
