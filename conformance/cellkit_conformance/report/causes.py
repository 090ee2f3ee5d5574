"""Results of one cause, put together: every report tells a cause once, and what follows from it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cellkit_conformance.edition import requirements
from cellkit_conformance.outcome import Outcome, Result
from cellkit_conformance.report.report import Report

_NUMBER = re.compile(r"-?\d+(\.\d*)?(e[-+]?\d+)?|\binf\b|\bnan\b")
"""Backends round differently, and say the same of it."""


@dataclass(frozen=True)
class Cause:
    """Cause of one or more failures.

    Attributes:
        results: All bad results that have it; the first is told in full.
        blocked: Number of checks of the cell that were not run because of it.
    """

    results: list[Result]
    blocked: int = 0

    @property
    def first(self) -> Result:
        """The result that is told in full."""
        return self.results[0]

    @property
    def backends(self) -> list[str]:
        """Backends on which it shows."""
        return list(dict.fromkeys(result.backend for result in self.results))

    @property
    def others(self) -> list[str]:
        """The further requirements that it breaks."""
        return list(dict.fromkeys(result.requirement for result in self.results))[1:]

    @property
    def following(self) -> str:
        """One sentence about what follows from the cause, or ""."""
        more, parts = self.others, []
        if more:
            parts.append(
                f"{len(more)} more follow{'' if len(more) > 1 else 's'} from this: "
                + ", ".join(more)
            )
        if self.blocked:
            parts.append(f"{self.blocked} more follow from this, and are not run")
        return "; ".join(parts)


def key_of(result: Result) -> tuple[str, ...]:
    """Name what results of one cause have in common: the same error, raised in the same place.

    Args:
        result: A bad one.
    """
    said = _NUMBER.sub("0", result.message)
    if result.outcome is Outcome.FAIL and "cause" in result.extra:
        return (result.cell, result.extra["cause"])  # of the spec, whichever check asked for it
    if result.outcome is Outcome.ERROR and "cause" in result.extra:
        # Keras puts words of its own around what a cell raised, in some of its calls.
        return (result.cell, result.extra["cause"], *(() if "place" in result.extra else (said,)))
    return (result.cell, result.requirement, said)


def alike(results: Iterable[Result]) -> list[list[Result]]:
    """Put together what has one cause: in several requirements, or on several backends.

    Args:
        results: The bad ones.
    """
    results = list(results)
    broken = {(r.cell, r.backend, r.requirement): r for r in results}
    found: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        root = _root(result, broken)
        group = found.setdefault(key_of(root), [])
        if root is result and all(_root(r, broken) is not r for r in group):
            group.insert(0, result)  # what the others follow from is told
        else:
            group.append(result)
    return list(found.values())


def _root(result: Result, broken: Mapping[tuple[str, str, str], Result]) -> Result:
    """Find what a result follows from: a requirement that is broken too, and says so."""
    known = requirements().get(result.requirement)
    for name in known.after if known is not None else ():
        earlier = broken.get((result.cell, result.backend, name))
        if earlier is not None:
            return _root(earlier, broken)
    return result


def causes(report: Report) -> list[Cause]:
    """List what is broken, each cause once, those that count first.

    A cell that could not be checked at all is left out: `Report.problems` tells it.

    Args:
        report: The finished run.
    """
    unmade = {(unit.cell, unit.backend) for unit in report.units if unit.problem}
    blocked = Counter((r.cell, r.backend) for r in report.results if r.outcome is Outcome.BLOCKED)
    found = []
    for results in alike(r for r in report.bad if (r.cell, r.backend) not in unmade):
        places = {(r.cell, r.backend) for r in results if r.extra.get("blocks")}
        found.append(Cause(results, sum(blocked[place] for place in places)))
    return found
