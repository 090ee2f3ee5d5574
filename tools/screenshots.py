"""Take pictures of the pages of a built site, to be looked at: wide, narrow, and in the dark.

    mkdocs build && python tools/screenshots.py site /tmp/pictures
    python tools/screenshots.py site /tmp/pictures index cells/lstm    # some of the pages

Each page gives three files. It takes a Chromium, and a few seconds a page.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from browser import CHROMIUM, Browser  # noqa: E402

FORMS = {"wide": (1400, False), "narrow": (420, False), "dark": (1400, True)}


def main() -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("site", type=Path, help="the folder of the built site")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("pages", nargs="*", help="such as cells/lstm; by default all")
    options = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("There is no Chromium here: install one, such as the package `chromium`.")
    site = options.site.resolve()
    every = [path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")]
    every.remove("404")  # Its addresses are those of a server.
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(profile)
        for page in options.pages or sorted(every):
            for form, (width, dark) in FORMS.items():
                browser.open(f"file://{site}/{page}.html", width=width, dark=dark)
                browser.screenshot(options.folder / f"{page.replace('/', '-')}-{form}.png")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
