"""Portions of the tests: what a backend leaves to others, and what nobody leaves out."""

from pathlib import Path

import portions
import pytest

CASES = [f"tests/engines/test_a.py::test_b[{i}]" for i in range(200)]


@pytest.fixture
def on(monkeypatch):
    """Deal tests as another backend does."""

    def choose(backend, tests):
        monkeypatch.setattr(portions, "BACKEND", backend)
        return portions.dealt((Path(name.partition("::")[0]), name) for name in tests)

    return choose


def test_backends_take_parts_that_differ(on):
    tensorflow, jax = on("tensorflow", CASES), on("jax", CASES)
    assert not tensorflow & jax
    for taken in (tensorflow, jax):
        assert len(CASES) // 6 < len(taken) < len(CASES) // 3


def test_a_file_of_a_backends_own_leaves_no_test_out(on):
    own = [f"tests/engines/test_a_jax.py::test_b{i}" for i in range(40)]
    assert on("jax", own) == set(own)
    cases = [f"{own[0]}[{i}]" for i in range(40)]
    assert 10 < len(on("jax", cases)) < 30


def test_what_differs_between_backends_is_asked_of_each(on):
    tests = [name.replace("engines", "defects") for name in CASES]
    assert on("tensorflow", tests) == on("jax", tests) == set(tests)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 100])
def test_some_cases_of_a_test_are_one_at_least(count):
    some = portions.some(CASES[:count], 3)
    assert 1 <= len(some) <= count
    assert set(some) <= set(CASES[:count])
