"""The edition is complete, frozen and selected as the profiles say; known defects are of it."""

import json

import pytest

from cellkit_conformance import edition
from cellkit_conformance.judge import attribution
from cellkit_conformance.places import MODULES

pytestmark = pytest.mark.one_backend

FROZEN = sorted(edition.DATA.parent.glob("edition-*.json"))


@pytest.fixture(autouse=True)
def newest():
    yield
    edition.use(edition.editions()[-1])


@pytest.mark.parametrize("path", FROZEN, ids=lambda path: path.stem)
def test_no_requirement_of_an_edition_changed_its_meaning(path):
    """An id never changes its meaning: make a new id, and the next edition, instead."""
    frozen = json.loads(path.read_text(encoding="utf-8"))
    edition.use(frozen["edition"])
    assert edition.edition_name() == frozen["edition"]
    now = {
        name: [r.level, list(r.traits), r.sentence] for name, r in edition.requirements().items()
    }
    assert now == frozen["requirements"]
    assert edition.fingerprint() == frozen["sha256"]


def test_a_later_edition_says_what_it_changes():
    first = {name: r.level for name, r in edition.requirements().items()}
    edition.use("2027.1")
    assert edition.requirements()["ERR-01"].level == "must" and first["ERR-01"] == "should"
    assert [r.group for r in edition.requirements().values()].count("ERR") == 3
    with pytest.raises(ValueError, match="no edition '1999.1'"):
        edition.use("1999.1")


def test_what_a_failure_may_follow_from_is_there():
    known = set(edition.requirements())
    for name, requirement in edition.requirements().items():
        assert set(requirement.after) <= known - {name}, name
        met, left = set(), [name]
        while left:
            for earlier in edition.requirements()[left.pop()].after:
                assert earlier != name
                left += [earlier] if earlier not in met else []
                met.add(earlier)


def test_every_requirement_says_what_to_look_for():
    for name, requirement in edition.requirements().items():
        assert requirement.level in {"must", "should", "info"}, name
        assert requirement.sentence.endswith(".") and requirement.hint.endswith((".", "?")), name
        assert requirement.cost in {1, 2, 3} and requirement.profile in edition.PROFILE_ORDER, name


def test_a_profile_leaves_out_what_is_too_costly_unless_it_is_named():
    quick, standard = (edition.select(profile=name) for name in ("quick", "standard"))
    assert set(quick) < set(standard) <= set(edition.requirements())
    assert "STA-07" not in quick and "STA-07" in standard
    assert edition.select(["STA-07"], profile="quick") == ["STA-07"]
    assert "STA-07" not in edition.select(["STA"], profile="quick")
    assert edition.select(["sta-07"], ["STA"], "quick") == []


@pytest.mark.parametrize("known", attribution.known_defects(), ids=lambda known: known.id)
def test_a_known_defect_names_what_exists(known):
    assert set(known.requirements) <= set(edition.requirements())
    assert set(known.backends) <= set(MODULES)
    page, _, anchor = known.link.partition("#")
    headings = (edition.DATA.parents[3] / "docs" / page).read_text(encoding="utf-8").lower()
    slugs = {
        "".join(c for c in line.lstrip("# ") if c.isalnum() or c in " -'").replace(" ", "-")
        for line in headings.splitlines()
        if line.startswith("#")
    }
    assert anchor in {slug.replace("'", "") for slug in slugs}


def test_a_known_defect_is_found_by_backend_layer_and_requirement():
    assert attribution.find("jax", "keras", "STA-07").id == "KD-A1"
    assert attribution.find("torch", "keras", "STA-07") is None
    assert attribution.find("jax", "cellkit.rnn", "STA-07") is None
