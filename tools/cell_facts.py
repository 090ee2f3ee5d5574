"""Write cellkit/facts.json, the facts that `cellkit show` prints without importing a cell.

    python tools/cell_facts.py            # writes the file
    python tools/cell_facts.py --check    # exit code 1 if the file is not what it would write

KERAS_BACKEND chooses the backend (default: torch); the facts are the same on each.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]
os.environ.setdefault("KERAS_BACKEND", "torch")

import cellkit  # noqa: E402
from cellkit import facts  # noqa: E402
from cellkit._distribution import is_own  # noqa: E402
from cellkit.registry import registry  # noqa: E402


def text() -> str:
    """Return the file of today."""
    mine = registry.declarations().items()
    names = [name for name, found in mine if any(is_own(d.distribution) for d in found)]
    return facts.to_file([cellkit.get(name) for name in names])


def main() -> int:
    """Write the file, or compare it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, don't write")
    options = parser.parse_args()
    shown = facts.FILE.relative_to(ROOT)
    if not options.check:
        facts.FILE.write_text(text(), encoding="utf-8")
        print(f"Wrote {shown}.")
        return 0
    there = facts.FILE.read_text(encoding="utf-8") if facts.FILE.is_file() else ""
    if there != text():
        print(f"{shown} is out of date. Run `python tools/cell_facts.py`.")
        return 1
    print(f"{shown} says what the cells say.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
