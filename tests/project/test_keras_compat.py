"""The run of Keras' own tests notices each way in which it could go wrong unseen."""

import tomllib

import pytest
from keras_compat.run import BACKENDS, HERE, MODES, Expectations, judge, load_expectations

pytestmark = pytest.mark.one_backend

TABLE = tomllib.loads((HERE / "expected.toml").read_text(encoding="utf-8"))
FILE = "layers/rnn/a_test.py"


def passed(loop=1):
    return {"outcome": "passed", "loop": loop}


def outcome(records, **kwargs):
    kwargs = {"bar": {f"{FILE}::test_a"}, "must_reach_loop": {f"{FILE}::test_a"}, **kwargs}
    return judge(records, Expectations(**kwargs))


def test_all_as_expected():
    assert outcome({f"{FILE}::ATest::test_a": passed(), f"{FILE}::ATest::test_b": passed(0)}) == []


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ({}, "no test ran"),
        ({f"{FILE}::ATest::test_a": {"outcome": "failed"}}, "test_a failed"),
        ({f"{FILE}::ATest::test_a": {"outcome": "skipped", "text": "why"}}, "skipped: why"),
        ({f"{FILE}::ATest::test_b": passed()}, "test_a is listed in expected.toml, but did not"),
        ({f"{FILE}::ATest::test_a": passed(0)}, "test_a passed without reaching the loop"),
        (
            {f"{FILE}::ATest::test_a": passed(), f"{FILE}::BTest::test_a": {"outcome": "failed"}},
            "test_a failed",
        ),
        ({f"{FILE}::ATest::test_a": passed(), FILE: {"outcome": "failed"}}, f"{FILE} failed"),
    ],
)
def test_a_difference_is_one_line(records, expected):
    (line,) = outcome(records)
    assert expected in line


def test_listed_exceptions():
    name = f"{FILE}::test_a"
    skipped = {f"{FILE}::ATest::test_a": {"outcome": "skipped", "text": "why"}}
    assert outcome(skipped, may_skip={name: "needs a GPU"}) == []
    assert outcome({f"{FILE}::ATest::test_a": passed()}, may_skip={name: "needs a GPU"}) == []
    failed = {f"{FILE}::ATest::test_a": {"outcome": "failed"}}
    assert outcome(failed, must_fail={name: "cannot be"}, must_reach_loop=set()) == []
    (line,) = outcome({f"{FILE}::ATest::test_a": passed()}, must_fail={name: "cannot be"})
    assert "is listed as failing: cannot be" in line


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_list_itself(backend):
    layer = load_expectations(TABLE, backend, "bases")
    assert len(layer.must_reach_loop) == 22
    assert layer.must_reach_loop < layer.bar
    assert not load_expectations(TABLE, backend, "off").must_reach_loop
    assert len(load_expectations(TABLE, backend, "name").must_reach_loop) == 17
    assert all(entry["reason"] for entry in TABLE["exception"])
    assert all(set(entry.get("modes", MODES)) <= set(MODES) for entry in TABLE["exception"])
