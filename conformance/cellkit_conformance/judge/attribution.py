"""Whose defect it is: what fails on a cell that is known to be right is not the cell's.

When a check finds something, it runs on a canary too, in the same process and with the same layer.
Where it fails there as well, the result becomes "backend defect": of the backend, of Keras, of the
layer under test, or of this suite. `known_defects.toml` names the ones that are known.
"""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path

from cellkit_conformance.outcome import Outcome, Result, one_line
from cellkit_conformance.places import backend_of

DATA = Path(__file__).with_name("known_defects.toml")


@dataclass(frozen=True)
class Known:
    """A defect that is known.

    Attributes:
        id: Such as "KD-A1", after the row of docs/keras-defects.md, or "KD-J1" of a backend alone.
        layer: The layer that has it: "keras", or "" for every layer.
        backends: Backends on which it shows.
        requirements: The requirements that it breaks.
        sentence: The defect.
        link: Page to read more, from docs/.
    """

    id: str
    layer: str
    backends: tuple[str, ...]
    requirements: tuple[str, ...]
    sentence: str
    link: str


@functools.cache
def known_defects() -> tuple[Known, ...]:
    """List the known defects, in the order of the file."""
    return tuple(
        Known(
            id=entry["id"],
            layer=entry.get("layer", ""),
            backends=tuple(entry["backends"]),
            requirements=tuple(entry["requirements"]),
            sentence=entry["sentence"],
            link=entry["link"],
        )
        for entry in tomllib.loads(DATA.read_text(encoding="utf-8"))["defect"]
    )


def find(backend: str, layer: str, requirement: str) -> Known | None:
    """Find the known defect behind a failure of a canary.

    Args:
        backend: The backend.
        layer: "keras" for Keras' own layer, anything else for another.
        requirement: The id.
    """
    for known in known_defects():
        if known.layer in ("", layer) and backend in known.backends:
            if requirement in known.requirements:
                return known
    return None


def attribute(result: Result, verdict: Result, layer: str) -> None:
    """Turn a failure into a backend's defect where a canary fails in the same check.

    Args:
        result: A result that is bad; changed in place.
        verdict: The result of the canary.
        layer: The module of the layer under test, or "keras" for Keras' own.
    """
    if not verdict.outcome.is_bad:
        return
    known = find(backend_of(result.backend), layer, result.requirement)
    said = f"{known.id}: {known.sentence}" if known else "not known yet"
    result.outcome = Outcome.BACKEND_DEFECT
    result.detail = (
        f"{verdict.cell} fails in this check too, so the cell is not to blame ({said})\n"
        f"the canary: {verdict.message}\nthe cell: {result.message}\n{result.detail}"
    )
    result.message = one_line(
        f"{known.id if known else 'backend defect'}: a canary fails too: {result.message}"
    )
    result.extra = {
        **result.extra,
        "canary": verdict.cell,
        "known": known.id if known else "",
        "link": known.link if known else "",
    }
