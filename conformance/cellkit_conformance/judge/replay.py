"""One check of one cell again, as the programs call it that a report gives for a failure."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from cellkit.errors import problem
from cellkit_conformance.checks.context import Failed
from cellkit_conformance.edition import requirements, select, use
from cellkit_conformance.edition.profiles import PROFILES
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.judge.judge import Judge
from cellkit_conformance.outcome import Failure, NotApplicable
from cellkit_conformance.run.process import Process
from cellkit_conformance.run.worker import find_layer
from cellkit_conformance.subject.targets import (
    Target,
    describe,
    describe_found,
    find,
    load,
    observe,
)


def replay(
    requirement: str,
    cell: str | type | Callable[[], type],
    *,
    case: str | None = None,
    example: Mapping[str, Any] | None = None,
    turn: int = 1,
    seed: int = 0,
    profile: str = "quick",
    layer: Any = "cellkit",
    also_on: Sequence[str] = (),
    spec: str | None = None,
    edition: str | None = None,
) -> None:
    """Run the check of one requirement on one cell, on the backend of this process.

    Args:
        requirement: The id, such as "MSK-03".
        cell: The class, or a function that imports and returns it (what importing does is then a
            part of the check), or a name as on the command line.
        case: The constructor case to begin with; the spec's first unless given.
        example: The one example to try, as a report gives it; all of the profile unless given.
        turn: Number of the check's property that the example is of, where it has several.
        seed: Of everything that is drawn.
        profile: The thoroughness: "quick", "standard" or "thorough".
        layer: The layer under test: a class, "cellkit", "keras" or `module:Class`.
        also_on: Backends (`torch`, `jax@gpu:0`) whose results this one is compared with. Each
            runs the same check before, in a process of its own.
        spec: A Python file whose `spec` takes the place of the cell's own.
        edition: The edition of the requirements, the newest unless given.

    Raises:
        AssertionError: The requirement does not hold.
        ValueError: There is no such requirement, cell, case or profile.
        Exception: The one that the cell raises.
    """
    if edition is not None:
        use(edition)
    (identifier,) = _known(requirement, case, profile)
    target = _target(cell, spec)
    if case is not None:
        target = _beginning_with(target, case)
    denied = requirements()[identifier].denied_by(target.traits)
    if denied is not None:
        print(f"{identifier} does not apply: the requirement is about {denied!r}")
        return
    with tempfile.TemporaryDirectory(prefix="cellkit-") as folder:
        for place in also_on:
            options = {"profile": profile, "seed": seed, "layer": _name(layer), "exchange": folder}
            options |= {"spec": spec, "edition": edition}
            _run_elsewhere(place, options, target.name, identifier)
        judge = Judge(
            target,
            keras.backend.backend(),
            PROFILES[profile],
            seed,
            find_layer(layer) if isinstance(layer, str) else layer,
            shrink=False,
            exchange=folder,
            blame=False,
        )
        only = None if example is None else Failed(Example.from_description(example), turn)
        try:
            judge.check(identifier, judge.context(identifier, only))
        except NotApplicable as reason:
            print(f"{identifier} does not apply: {reason}")
        except Failure as failure:
            raise AssertionError(f"{identifier}: {failure}") from None


def _known(requirement: str, case: str | None, profile: str) -> list[str]:
    """Check what is named."""
    if requirement not in requirements():
        select([requirement])  # says what there is, unless it is a group
        raise problem(
            f"{requirement!r} is a group of requirements.",
            received=f"requirement={requirement!r}",
            expected="the id of one requirement, such as 'MSK-03'",
            fix="replay its requirements one by one",
        )
    if profile not in PROFILES:
        raise problem(
            f"There is no profile {profile!r}.",
            received=f"profile={profile!r}",
            expected=" or ".join(PROFILES),
            fix="leave it out for a quick run",
        )
    return [requirement]


def _target(cell: str | type | Callable[[], type], spec: str | None = None) -> Target:
    """Make the target of what was named, with the effects of importing it where it is imported."""
    if isinstance(cell, str):
        return describe_found(find(cell, spec))
    if inspect.isclass(cell):
        own = getattr(cell, "spec", None) if spec is None else load(f"{spec}:spec")[0]
        return describe(_name(cell), cell, own)
    cls, effects = observe(cell)
    target = describe(_name(cls), cls, getattr(cls, "spec", None))
    return dataclasses.replace(target, effects=effects)


def _beginning_with(target: Target, case: str) -> Target:
    if case not in target.cases:
        raise problem(
            f"The spec has no case {case!r}.",
            received=f"case={case!r}",
            expected=f"one of {', '.join(map(repr, target.cases))}",
            fix="name one of them, or leave it out for the first",
        )
    return dataclasses.replace(target, cases={case: target.cases[case], **target.cases})


def _name(named: Any) -> str:
    """Write a class as `module:Class`, which another process can import."""
    return named if isinstance(named, str) else f"{named.__module__}:{named.__qualname__}"


def _run_elsewhere(place: str, options: dict[str, Any], cell: str, identifier: str) -> None:
    """Let another backend run the check, and leave what it found in the folder of the exchange."""
    path = os.pathsep.join(filter(None, sys.path))
    timeout = PROFILES[options["profile"]].timeout
    with contextlib.closing(Process(place, options, {"PYTHONPATH": path})) as process:
        answer = process.ask({"op": "find", "target": cell}, timeout)
        if answer["event"] != "error":
            answer = process.ask({"op": "check", "target": cell, "id": identifier}, timeout)
    if answer["event"] == "error":
        raise RuntimeError(f"{cell} cannot be checked on {place}: {answer['reason']}")
