"""The edition: the list of requirements as data, and how to select from it."""

from __future__ import annotations

import functools
import hashlib
import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellkit.errors import problem

DATA = Path(__file__).with_name("requirements.toml")

PROFILE_ORDER = ("quick", "standard", "thorough")


@dataclass(frozen=True)
class Requirement:
    """One requirement.

    Attributes:
        id: Such as "MSK-03"; it never changes its meaning.
        level: "must", "should" or "info".
        traits: Traits that a spec must claim; "!x" means that it must not claim x.
        sentence: The promise.
        hint: The usual reason where it does not hold.
        cost: 1 (milliseconds) to 3 (seconds), for scheduling.
        profile: The least thorough profile that runs it: "quick", "standard" or "thorough".
        script: The program of a failure: "standalone", made of the recorded calls alone, or
            "replay", one that runs the check again.
    """

    id: str
    level: str
    traits: tuple[str, ...]
    sentence: str
    hint: str
    cost: int
    profile: str = "quick"
    script: str = "standalone"

    @property
    def group(self) -> str:
        """The part before the dash."""
        return self.id.split("-")[0]

    def denied_by(self, traits: Iterable[str]) -> str | None:
        """Name the trait that gates the requirement off, or return None when it applies.

        Args:
            traits: The claims of the cell's spec.
        """
        claimed = set(traits)
        for trait in self.traits:
            if trait.startswith("!") == (trait.lstrip("!") in claimed):
                return trait
        return None


@functools.cache
def edition_name() -> str:
    """Give the name of the edition."""
    return str(_load()["edition"])


@functools.cache
def requirements() -> dict[str, Requirement]:
    """Give every requirement of the edition by id, in the order of the file."""
    return {
        entry["id"]: Requirement(
            id=entry["id"],
            level=entry["level"],
            traits=tuple(entry.get("traits", ())),
            sentence=entry["sentence"],
            hint=entry["hint"],
            cost=entry["cost"],
            profile=entry.get("profile", "quick"),
            script=entry.get("script", "standalone"),
        )
        for entry in _load()["requirement"]
    }


def fingerprint() -> str:
    """Give the hash of what an edition freezes: ids, levels, traits and sentences, in order."""
    frozen = [[r.id, r.level, list(r.traits), r.sentence] for r in requirements().values()]
    text = json.dumps(frozen, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def groups() -> list[str]:
    """List the groups of the edition in order."""
    return list(dict.fromkeys(requirement.group for requirement in requirements().values()))


def select(
    chosen: Iterable[str] = (), skipped: Iterable[str] = (), profile: str = "thorough"
) -> list[str]:
    """Choose requirements by id or group.

    Args:
        chosen: Ids and groups, each possibly several with commas between: `["MSK,STA-03"]`. Nothing
            means all.
        skipped: Ids and groups to leave out.
        profile: The profile; what is too costly for it is left out, unless its id is chosen.

    Returns:
        Ids in the edition's order.

    Raises:
        ValueError: A selector names nothing in the edition.
    """
    chosen = list(chosen)
    wanted, unwanted = _expand(chosen), _expand(skipped)
    named = {name.upper() for name in _names(chosen)}
    reach = PROFILE_ORDER.index(profile)
    return [
        id
        for id, requirement in requirements().items()
        if (not wanted or id in wanted)
        and id not in unwanted
        and (id in named or PROFILE_ORDER.index(requirement.profile) <= reach)
    ]


def _names(selectors: Iterable[str]) -> list[str]:
    return [part.strip() for text in selectors for part in text.split(",") if part.strip()]


def _expand(selectors: Iterable[str]) -> set[str]:
    names = _names(selectors)
    found: set[str] = set()
    for name in names:
        matches = {id for id in requirements() if name.upper() in (id, id.split("-")[0])}
        if not matches:
            raise problem(
                f"No requirement or group is called {name!r}.",
                received=f"selector {name!r}",
                expected=f"an id such as 'MSK-03', or one of the groups {', '.join(groups())}",
                fix="run `cellkit explain` for the list of ids",
            )
        found |= matches
    return found


@functools.cache
def _load() -> dict[str, Any]:
    return tomllib.loads(DATA.read_text(encoding="utf-8"))
