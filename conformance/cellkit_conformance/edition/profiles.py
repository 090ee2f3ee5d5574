"""Profiles, thorough or quick: the only place where numbers of examples and time limits stand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """One degree of thoroughness.

    Attributes:
        name: As on the command line.
        examples: Drawn per property, beyond the edge examples that always run.
        all_cases: True if the checks of the cell itself (STR, NUM, GRD, SER, DTY) run for every
            constructor case. NUM-03, and what only looks at configs, always do.
        divide: True if the cases share the examples: the first one runs all edges, the others a
            part of them, and what is drawn is divided. Otherwise all checks run for every case.
        timeout: Seconds that one check may take before its worker is killed.
    """

    name: str
    examples: int
    all_cases: bool
    timeout: float
    divide: bool = True


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("quick", examples=1, all_cases=False, timeout=60.0),
        Profile("standard", examples=8, all_cases=True, timeout=180.0),
        Profile("thorough", examples=300, all_cases=True, timeout=900.0, divide=False),
    )
}
