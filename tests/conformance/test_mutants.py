"""Every check can fail, and passes on cells that are right."""

import io

import keras
import pytest
from portions import START, full, portion
from rich.console import Console

import cellkit
from cellkit_conformance import checks
from cellkit_conformance.edition import groups, requirements
from cellkit_conformance.edition.profiles import PROFILES
from cellkit_conformance.judge import Judge
from cellkit_conformance.outcome import Outcome
from cellkit_conformance.selftest.command import Matrix, show, unreached_edges
from cellkit_conformance.selftest.mutants import MUTANTS
from cellkit_conformance.subject.canaries import CANARIES
from cellkit_conformance.subject.targets import describe

BACKEND = keras.backend.backend()


# Take ten seconds each, for files of many formats.
DEAR = {"AnotherInFiles", "OtherOrderInFiles"}


# `cellkit selftest` tries all of them on each backend.
@pytest.mark.slow
@pytest.mark.parametrize(
    "mutant", [pytest.param(m, id=m.name, marks=full(m.name in DEAR)) for m in MUTANTS]
)
def test_every_mutant_is_noticed(mutant):
    survived = mutant.survivors(BACKEND)
    assert not survived, [f"{r.requirement} {r.outcome}: {r.message}" for r in survived]


def test_every_requirement_kills_a_mutant():
    killed = {identifier for mutant in MUTANTS for identifier in mutant.kills}
    assert set(requirements()) - killed == set()


def test_every_group_has_two_mutants():
    by_group = {
        group: {m.name for m in MUTANTS if any(i.startswith(f"{group}-") for i in m.kills)}
        for group in groups()
    }
    alone = {group for group, names in by_group.items() if len(names) < 2}
    # Placement is one promise: a result is right on a device, and stays there.
    assert alone <= {"DEV"}


def test_every_strategy_reaches_its_edges():
    assert not unreached_edges()


def test_a_survivor_and_a_toothless_check_fail_the_selftest():
    console = Console(file=io.StringIO())
    row = {identifier: "killed" for identifier in requirements()}
    assert not show(console, Matrix("torch", {"All": row}))
    assert show(console, Matrix("torch", {"All": {**row, "NUM-01": "passed"}}))
    assert show(console, Matrix("torch", {"All": {i: s for i, s in row.items() if i != "NUM-02"}}))
    assert show(console, Matrix("torch", {"All": row}, problem="the process ended"))
    said = console.file.getvalue()
    assert "survives All NUM-01: passed" in said and "toothless NUM-02" in said


def test_every_requirement_has_a_check_and_every_check_a_requirement():
    assert set(checks.load()) == set(requirements())


def asked(canary):
    """Return what a canary is asked: everything on PyTorch.

    Elsewhere each canary is asked for a quarter of what `make conform` asks of no cell, and for a
    sixth of what it asks of all cells, where a check that accuses a canary accuses more.
    """
    if BACKEND == "torch":
        return list(requirements())
    longer = [i for i, requirement in requirements().items() if requirement.profile != "quick"]
    first = 2 * CANARIES.index(canary) + START[BACKEND]
    return longer[first % 4 :: 4] + portion([i for i in requirements() if i not in longer], 6)


@pytest.mark.slow
@pytest.mark.each_backend
@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.__name__)
def test_canaries_keep_every_promise(canary):
    target = describe(canary.__name__, canary, canary.spec)
    judge = Judge(target, BACKEND, PROFILES["quick"], 3, cellkit.RNN, shrink=False, blame=False)
    results = [judge.run(identifier) for identifier in asked(canary)]
    broken = [f"{r.requirement} {r.outcome}: {r.message}" for r in results if r.outcome.is_bad]
    assert not broken
    passed = sum(result.outcome is Outcome.PASS for result in results)
    assert passed >= 95 * len(results) // len(requirements())
