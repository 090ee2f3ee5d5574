"""Cells that draw, and runs of them that differ."""

from __future__ import annotations

import numpy as np

from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.parameters import parameters_of
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.subject.record import Claim
from cellkit_conformance.subject.subject import Returned, Subject
from cellkit_conformance.trees import leaves, pair_leaves


def claim(one: Returned, other: Returned) -> Claim:
    """Claim that two results differ somewhere."""
    arrays, others = (leaves([r.output, r.states]) for r in (one, other))
    return Claim("differ", arrays, others)


def with_a_seed(ctx: Context, subject: Subject) -> Subject:
    """Return a subject whose cell has a seed, or find the check not applicable."""
    if "seed" not in parameters_of(ctx.target.cls):
        raise NotApplicable("the cell takes no seed")
    seeded = ctx.subject(subject.case, dropout=0.5, seed=11)
    seeded.set_weights(ctx.seed % 1000)
    return seeded


def rates_of(cls: type) -> list[str]:
    """List the constructor arguments that are rates of something random, by their names.

    Args:
        cls: A class of cells.
    """
    words, others = (
        {"dropout", "drop", "zoneout", "noise", "stddev"},
        {"seed", "type", "shape", "mode", "use", "init", "initializer"},
    )
    parts = {name: set(name.split("_")) for name in parameters_of(cls)}
    return [name for name, part in parts.items() if part & words and not part & others]


def with_dropout(ctx: Context) -> list[Subject]:
    """Give the subjects with a dropout rate of a half."""
    subjects = []
    for subject in list(ctx.cases()):
        dropping = ctx.subject(subject.case, dropout=0.5)
        dropping.set_weights(ctx.seed % 1000)
        subjects.append(dropping)
    return subjects


def differ(first: Returned, second: Returned) -> bool:
    """Say whether two results differ anywhere."""
    pairs = pair_leaves([first.output, first.states], [second.output, second.states])
    return any(not np.array_equal(a, b) for a, b in pairs)
