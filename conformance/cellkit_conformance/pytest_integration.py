"""Conformance in the tests of one's own project: one test item per requirement.

    from cellkit_conformance import conformance_tests

    test_my_cell = conformance_tests("my_lab.cells:MyCell")

The items run in pytest's own process, on the backend that Keras was imported with, so `-k`, `-x`,
xdist and JUnit files work as for any other test. What needs a second device runs in a process of
its own where this one has a single device: a backend makes two of one processor only before it
starts, and the tests of a project shall find the devices that they always had.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from cellkit.errors import problem
from cellkit.registry.names import did_you_mean
from cellkit_conformance import edition
from cellkit_conformance.edition import requirements
from cellkit_conformance.edition.profiles import PROFILES
from cellkit_conformance.judge import Judge
from cellkit_conformance.outcome import Outcome, Result, one_line
from cellkit_conformance.places import NEEDS_TWO, devices
from cellkit_conformance.report import expected as expectations
from cellkit_conformance.run.process import Process, WorkerGone
from cellkit_conformance.subject.targets import describe_found, find


def conformance_tests(
    cell: str,
    *,
    profile: str = "quick",
    seed: int = 0,
    select: Iterable[str] = (),
    skip: Iterable[str] = (),
    layer: str = "cellkit",
    expected: str | Path | None = None,
    spec: str | Path | None = None,
) -> Callable[[str], None]:
    """Make a test function with one item per requirement.

    Args:
        cell: A registered name, `module:Class` or `file.py:Class`.
        profile: The thoroughness: "quick", "standard" or "thorough".
        seed: Of everything that is drawn.
        select: Ids or groups to run; nothing means all.
        skip: Ids or groups to leave out.
        layer: The layer under test: "cellkit", "keras" or `module:Class`.
        expected: A TOML file of expected failures; `cellkit-expected.toml` or `pyproject.toml` of
            the working directory unless given. What is listed and fails is an xfail, what is
            listed and passes a failure.
        spec: A Python file whose `spec` takes the place of the cell's own.

    Returns:
        A test function, to be bound to a name that starts with `test_`. A requirement that does
        not apply is a skip that says why.

    Raises:
        ValueError: A selector or the profile is unknown, or the file of expectations is wrong.

    Example:
        >>> test_lstm = conformance_tests("lstm", select=["MSK"])
    """
    if profile not in PROFILES:
        raise problem(
            f"There is no profile {profile!r}.",
            received=f"profile={profile!r}",
            expected=" or ".join(PROFILES),
            fix=did_you_mean(profile, PROFILES) or "leave it out for a quick run",
        )
    file = Path(expected) if expected else expectations.find(Path.cwd())
    known = [] if file is None else expectations.read(file)

    @pytest.mark.parametrize("requirement", edition.select(select, skip, profile))
    def test_conformance(requirement: str) -> None:
        judge = _judge(cell, profile, seed, layer, None if spec is None else str(spec))
        if isinstance(judge, str):
            pytest.fail(judge, pytrace=False)
        result = _run(judge, requirement, layer)
        expectations.apply(known, [result])
        if result.outcome is Outcome.EXPECTED:
            pytest.xfail(f"{result.extra['reason']} ({result.message})")
        if result.outcome is Outcome.BACKEND_DEFECT:
            pytest.xfail(f"no defect of the cell: {result.message}")
        if result.outcome is Outcome.STALE:
            pytest.fail(result.message, pytrace=False)
        if result.outcome is Outcome.NOT_APPLICABLE:
            pytest.skip(result.message)
        if result.outcome.is_bad:
            pytest.fail(_text(result), pytrace=False)

    return test_conformance


@functools.cache
def _judge(cell: str, profile: str, seed: int, layer: str, spec: str | None = None) -> Judge | str:
    """Keep one judge per cell, or why there is none: its items share what was compiled."""
    import keras

    from cellkit_conformance.run.worker import find_layer

    backend = keras.backend.backend()
    try:
        target = describe_found(find(cell, spec))
    except ValueError as error:
        return str(error)
    return Judge(target, backend, PROFILES[profile], seed, find_layer(layer))


def _run(judge: Judge, requirement: str, layer: str) -> Result:
    """Run a check here, or with two devices in a process of its own."""
    if requirement not in NEEDS_TWO or len(devices()) > 1 or judge.backend == "torch":
        return judge.run(requirement)
    name, timeout = judge.target.name, judge.profile.timeout
    options = {"profile": judge.profile.name, "seed": judge.seed, "layer": layer}
    options["spec"] = judge.target.spec_file
    path = os.pathsep.join(filter(None, sys.path))  # pytest adds the folders of the tests
    try:
        with contextlib.closing(Process(judge.backend, options, {"PYTHONPATH": path})) as process:
            answer = process.ask({"op": "find", "target": name}, timeout)
            if answer["event"] != "error":
                request = {"op": "check", "target": name, "id": requirement}
                answer = process.ask(request, timeout)
    except WorkerGone as gone:
        return Result(name, judge.backend, requirement, Outcome(gone.kind), gone.reason, gone.tail)
    if answer["event"] != "error":
        return Result.from_json(answer["result"])
    pytest.skip(
        f"not run: it needs two devices and so a process of its own, where {name} cannot be used: "
        f"{one_line(answer['reason'])}. `cellkit conform` runs it on a cell that can be imported."
    )


def _text(result: Result) -> str:
    requirement = requirements()[result.requirement]
    lines = [
        f"{result.requirement} {result.cell} on {result.backend}: {result.message}",
        f"must hold: {requirement.sentence}",
        f"look for:  {requirement.hint}",
    ]
    if result.example:
        lines.append(f"example:   {result.example}")
    if result.detail and result.detail != result.message:
        lines.append(result.detail)
    if result.script:
        lines.append(f"a program that shows it:\n\n{result.script}")
    return "\n".join(lines)
