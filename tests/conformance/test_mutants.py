"""Every check can fail, and passes on cells that are right."""

import keras
import pytest

import cellkit
from cellkit_conformance import checks
from cellkit_conformance.canaries import CANARIES
from cellkit_conformance.edition import requirements
from cellkit_conformance.judge import Judge
from cellkit_conformance.mutants import MUTANTS
from cellkit_conformance.outcome import Outcome
from cellkit_conformance.profiles import PROFILES
from cellkit_conformance.targets import describe

BACKEND = keras.backend.backend()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_noticed(mutant):
    survived = mutant.survivors(BACKEND)
    assert not survived, [f"{r.requirement} {r.outcome}: {r.message}" for r in survived]


def test_every_requirement_kills_a_mutant():
    killed = {identifier for mutant in MUTANTS for identifier in mutant.kills}
    assert set(requirements()) - killed == set()


def test_every_requirement_has_a_check_and_every_check_a_requirement():
    assert set(checks.load()) == set(requirements())


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.__name__)
def test_canaries_keep_every_promise(canary):
    target = describe(canary.__name__, canary, canary.spec)
    judge = Judge(target, BACKEND, PROFILES["quick"], 3, cellkit.RNN, shrink=False)
    results = [judge.run(identifier) for identifier in requirements()]
    broken = [f"{r.requirement} {r.outcome}: {r.message}" for r in results if r.outcome.is_bad]
    assert not broken
    assert sum(result.outcome is Outcome.PASS for result in results) >= 55
