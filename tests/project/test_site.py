"""The site as it is built: its links, its pages of cells, and what a browser makes of it.

`make docs` builds the site and runs this file on it; by name, the file builds one itself.
"""

import html.parser
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import CHROMIUM, Browser
from filelock import FileLock

from cellkit import _distribution, facts
from cellkit.registry import FAMILIES, TAGS, registry

pytest.importorskip("mkdocs", reason="the site is built by the extra `docs`")
pytestmark = [pytest.mark.one_backend, pytest.mark.slow, pytest.mark.full]

ROOT = Path(__file__).parents[2]
OWN = sorted(
    name
    for name, found in registry.declarations().items()
    if _distribution.is_own(found[0].distribution)
)


class Page(html.parser.HTMLParser):
    """The links of a page, and the places in it that can be linked to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.resources, self.anchors, self.tags = [], [], set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.add(tag)
        if found.get("id"):
            self.anchors.add(found["id"])
        if tag == "a":
            if found.get("name"):
                self.anchors.add(found["name"])
            if found.get("href"):
                self.links.append(found["href"])
        elif tag in ("script", "img") and found.get("src"):
            self.resources.append(found["src"])
        elif tag == "link" and found.get("href") and "canonical" not in (found.get("rel") or ""):
            self.resources.append(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory, worker_id):
    """The folder that SITE names, or one built strictly and once by workers that share a folder."""
    if built := os.environ.get("SITE"):
        return ROOT / built
    alone = worker_id == "master"
    shared = tmp_path_factory.getbasetemp() if alone else tmp_path_factory.getbasetemp().parent
    folder = shared / "site"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            build(shared / "unfinished")
            (shared / "unfinished").rename(folder)
    return folder


def build(folder):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def pages(site):
    return {
        path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
    }


def shown(site, page):
    """Return what a page shows between its navigation and its end."""
    text = (site / page).read_text(encoding="utf-8")
    return re.search(r"<article.*?</article>", text, re.DOTALL)[0]


def test_no_link_leads_nowhere(site, pages):
    broken = []
    for name, page in pages.items():
        if name == "404.html":  # its addresses are those of a server's root
            continue
        for link in [*page.links, *page.resources]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            path = (site / name).parent / unquote(parts.path) if parts.path else site / name
            if path.is_dir():
                path = path / "index.html"
            target = os.path.relpath(path, site).replace(os.sep, "/")
            if not path.exists():
                broken.append(f"{name}: {link}")
            elif parts.fragment and target in pages:
                if unquote(parts.fragment) not in pages[target].anchors:
                    broken.append(f"{name}: {link}")
    assert not broken


def test_everything_comes_from_the_site_itself(site, pages):
    for name, page in pages.items():
        outside = [link for link in page.resources if urlsplit(link).scheme not in ("", "data")]
        assert not outside, name
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:", path.read_text(encoding="utf-8")), path.name


def test_examples_are_code_and_no_quotations(pages):
    assert not [name for name, page in pages.items() if "blockquote" in page.tags]


def test_signatures_are_shown(site):
    text = re.sub(r"<[^>]+>", "", shown(site, "reference.html"))
    for said in ("RNN(", "return_sequences=False", "define(", "CellSpec(", "Guide("):
        assert said in text, said


@pytest.mark.parametrize("name", OWN)
def test_every_cell_has_a_page(site, pages, name):
    text, told = shown(site, f"cells/{name}.html"), facts.read(name)
    plain = re.sub(r"<[^>]+>", "", text)
    assert html.unescape(plain).count(told["use_when"]) == 1
    for heading in ("Equations", "Use", "Arguments", "Shapes", "Parameters", "Confirmed by"):
        assert f">{heading}<" in text, heading
    assert ("cell-picture" in text) == (told["outline"] is not None)
    assert "<math" in text or told["outline"] is None
    assert f"{{{name}," in plain and "author" in plain
    for tag in told["tags"]:
        assert f"which-cell.html#{tag.replace(' ', '-')}" in text
    for trait in told["traits"]:
        assert trait in plain
    for argument in told["arguments"]:
        assert argument in plain


def test_the_guide_asks_for_every_tag_and_finds_what_has_it(site):
    source = (ROOT / "docs" / "which-cell.md").read_text(encoding="utf-8")
    asked = re.findall(r"<!-- cells tagged (.+?) -->", source)
    assert sorted(asked) == sorted(TAGS)
    text = shown(site, "which-cell.html")
    sections = re.split(r'<h2 id="', text)[1:]
    found = {s.partition('"')[0]: set(re.findall(r'href="cells/(\w+)\.html"', s)) for s in sections}
    tagged = {
        tag.replace(" ", "-"): {name for name in OWN if tag in facts.read(name)["tags"]}
        for tag in TAGS
    }
    assert found == tagged


def test_the_table_lists_cells_by_family(site):
    text = shown(site, "cells.html")
    heads = re.findall(r'<h2 id="([\w-]+)"', text)
    families = [f.replace(" ", "-") for f in FAMILIES]
    used = {facts.read(name)["family"].replace(" ", "-") for name in OWN}
    assert [head for head in heads if head in families] == [f for f in families if f in used]
    assert set(OWN) <= set(re.findall(r'href="cells/(\w+)\.html"', text))


def test_numbers_of_the_home_page_are_filled_in(site):
    text = shown(site, "index.html")
    assert "<!-- number" not in text and "<!-- matrix" not in text and "cell-picture" in text
    assert f"<b>{len(OWN)}</b>" in text


def test_the_search_knows_what_a_cell_is_for(site):
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    there = [e["location"] for e in index["docs"] if "irregular time" in e["text"]]
    assert any(location.startswith("cells/gru_d.html") for location in there)


# --- in a browser -----------------------------------------------------------------------------

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
SEEN = (
    *("index", "which-cell", "cells", "tour", "semantics", "equations", "speed", "benchmarks"),
    *("conformance", "keras-defects", "keras-map", "reference", "examples", "migrating"),
    *("cells/lstm", "cells/gru_d", "cells/conv_lstm", "changelog", "contributing", "licence"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


@in_browser
@pytest.mark.parametrize("page", SEEN)
def test_a_page_fits_and_raises_nothing(site, browser, page):
    for width, dark in ((1400, False), (420, True)):
        browser.open(f"file://{site}/{page}.html", width=width, dark=dark)
        scheme = "slate" if dark else "default"
        browser.wait_for(f"document.body.dataset.mdColorScheme === '{scheme}'")
        assert browser.complaints() == []
        wide = browser.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, "the page is wider than its window"
        if width == 1400:
            # A table may scroll by itself on a telephone; on a screen it has room, and some to
            # spare, since letters are wider on systems with other fonts.
            browser.evaluate("document.body.style.letterSpacing = '.07em'")
            assert (
                browser.evaluate(
                    "[...document.querySelectorAll('.md-typeset__scrollwrap')]"
                    ".filter(t => t.scrollWidth > t.clientWidth + 1).length"
                )
                == 0
            ), "a table is wider than the page"
        broken = browser.evaluate(
            "[...document.querySelectorAll('article td code')]"
            ".filter(c => !/\\s/.test(c.textContent) && c.getClientRects().length > 1)"
            ".map(c => c.textContent)"
        )
        assert broken == [], "identifiers are broken over lines"


@in_browser
def test_nothing_is_white_in_the_dark(site, browser):
    for page in ("index", "cells/lstm", "benchmarks", "examples", "keras-map"):
        browser.open(f"file://{site}/{page}.html", dark=True)
        browser.wait_for("document.body.dataset.mdColorScheme === 'slate'")
        white = browser.evaluate(
            "[...document.querySelectorAll('article *')].filter(e => "
            "/^rgb\\(25[0-5], 25[0-5], 25[0-5]\\)$/.test(getComputedStyle(e).backgroundColor))"
            ".map(e => e.outerHTML.slice(0, 80))"
        )
        assert white == []


@in_browser
def test_the_search_works_from_the_file_system(site, browser):
    browser.open(f"file://{site}/index.html?q=irregular+time")
    found = browser.wait_for(
        "[...document.querySelectorAll('.md-search-result__link')].map(a => a.href).join(' ')"
    )
    assert "cells/gru_d.html" in found
    assert browser.complaints() == []
