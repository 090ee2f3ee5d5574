"""Write the frozen form of the edition, by which a test notices a change of meaning.

    python tools/freeze_edition.py

Run it for a new edition only: inside one, ids, levels, traits and sentences stay as they are.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "conformance")]

from cellkit_conformance import edition  # noqa: E402


def main() -> None:
    """Write the file."""
    frozen = {
        "edition": edition.edition_name(),
        "sha256": edition.fingerprint(),
        "requirements": {
            name: [r.level, list(r.traits), r.sentence]
            for name, r in edition.requirements().items()
        },
    }
    path = edition.DATA.with_name(f"edition-{edition.edition_name()}.json")
    text = json.dumps(frozen, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
    print(f"Wrote {path.relative_to(ROOT)}: {len(frozen['requirements'])} requirements.")


if __name__ == "__main__":
    main()
