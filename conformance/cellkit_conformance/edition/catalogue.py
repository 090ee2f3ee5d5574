"""The editions: lists of requirements as data, and how to select from the chosen one.

`requirements.toml` is the first edition. A later one is a file `changes-NAME.toml` that says what
is other than in the edition before: requirements that are new, fields that differ, ids that are
gone. Every edition can be run; a process runs one, the newest unless `use` names another.
"""

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
from cellkit.registry.names import did_you_mean

DATA = Path(__file__).with_name("requirements.toml")

CHANGES = {"2027.2": Path(__file__).with_name("changes-2027.2.toml")}
"""What the editions after the first change, in their order."""

_chosen: list[str] = []
"""The edition that `use` has named last, if any."""

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
        after: Requirements whose failure may be all that is behind a failure of this one.
        decided_by: "code" where the code of a cell decides and a backend has little part in it,
            "layer" where the layer does around any cell, else "backend".
    """

    id: str
    level: str
    traits: tuple[str, ...]
    sentence: str
    hint: str
    cost: int
    profile: str = "quick"
    script: str = "standalone"
    after: tuple[str, ...] = ()
    decided_by: str = "backend"

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


def editions() -> list[str]:
    """List the editions that can be run, the oldest first."""
    return [_first()["edition"], *CHANGES]


def use(name: str) -> None:
    """Choose the edition of this process.

    Args:
        name: One of `editions`.

    Raises:
        ValueError: There is no such edition.
    """
    if name not in editions():
        raise problem(
            f"There is no edition {name!r}.",
            received=f"edition {name!r}",
            expected=f"one of {', '.join(editions())}",
            fix=f"leave it out for {editions()[-1]}",
        )
    _chosen[:] = [name]


def edition_name() -> str:
    """Give the name of the edition of this process: the newest unless `use` has named another."""
    return _chosen[0] if _chosen else editions()[-1]


def requirements() -> dict[str, Requirement]:
    """Give every requirement of the edition by id: group by group, in the order of the files."""
    return _requirements(edition_name())


@functools.cache
def _requirements(name: str) -> dict[str, Requirement]:
    entries = {entry["id"]: entry for entry in _first()["requirement"]}
    follows: dict[str, list[str]] = {}
    decided_by: dict[str, str] = {}
    for later, path in CHANGES.items():
        if editions().index(later) > editions().index(name):
            break
        changes = _read(path)
        for gone in changes.get("removed", ()):
            del entries[gone]
        for entry in changes.get("requirement", ()):
            entries[entry["id"]] = {**entries.get(entry["id"], {}), **entry}
        follows.update(changes.get("follows", {}))
        for who in ("code", "layer"):
            decided_by.update(dict.fromkeys(changes.get(f"of_{who}", ()), who))
    after: dict[str, list[str]] = {}
    met: set[str] = set()
    for root, names in follows.items():
        met.add(root)
        for id in entries:
            # A root follows from those above it alone, so that no two follow from each other.
            if id not in met and (id in names or id.split("-")[0] in names):
                after.setdefault(id, []).append(root)
    order = list(dict.fromkeys(id.split("-")[0] for id in entries))
    made = [
        Requirement(
            id=entry["id"],
            level=entry["level"],
            traits=tuple(entry.get("traits", ())),
            sentence=entry["sentence"],
            hint=entry["hint"],
            cost=entry["cost"],
            profile=entry.get("profile", "quick"),
            script=entry.get("script", "standalone"),
            after=tuple(after.get(entry["id"], ())),
            decided_by=decided_by.get(entry["id"], "backend"),
        )
        for entry in entries.values()
    ]
    return {r.id: r for r in sorted(made, key=lambda r: order.index(r.group))}


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
                fix=f"{did_you_mean(name, [*requirements(), *groups()])}run `cellkit explain` for "
                "the list of ids",
            )
        found |= matches
    return found


@functools.cache
def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _first() -> dict[str, Any]:
    return _read(DATA)
