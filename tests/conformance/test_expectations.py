"""Expected failures, baselines, shards, budgets, replays, and the exit codes they lead to."""

import json

import keras
import pytest

from cellkit.cli import main
from cellkit_conformance import edition
from cellkit_conformance.cli.run import replay_plan
from cellkit_conformance.outcome import Outcome, Result
from cellkit_conformance.report import expected
from cellkit_conformance.report.badge import write_badge
from cellkit_conformance.report.comparison import compare, read_outcomes
from cellkit_conformance.report.report import Report
from cellkit_conformance.run.plan import RunPlan, divide
from cellkit_conformance.run.runner import Backend, Runner, Unit

pytestmark = pytest.mark.one_backend

BACKEND = keras.backend.backend()

ENTRY = """
[[expected]]
cell = "lstm"
requirement = "STR-01"
reason = "Known; to be mended."
"""


def report(**outcomes):
    """Make a finished run of one cell: STR_01="fail"."""
    unit = Unit("lstm", "torch")
    for name, outcome in outcomes.items():
        found = Result("lstm", "torch", name.replace("_", "-"), Outcome(outcome), "message")
        unit.results.append(found)
    plan = RunPlan(["lstm"], ["torch"], [r.requirement for r in unit.results])
    return Report(plan, [unit], {"torch": Backend("torch", True)}, [], 1.0)


def entries(tmp_path, text=ENTRY, name="cellkit-expected.toml"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return expected.read(tmp_path / name)


def test_a_failure_that_is_expected_is_forgiven_and_shown(tmp_path):
    found = report(STR_01="fail", STR_03="pass")
    expected.apply(entries(tmp_path), found.results)
    assert found.results[0].outcome is Outcome.EXPECTED
    assert found.results[0].extra == {"found": "fail", "reason": "Known; to be mended."}
    assert found.exit_code == 0
    assert "1 failed as expected" in found.verdict


@pytest.mark.parametrize("outcome", ["pass", "n/a"])
def test_an_expectation_that_does_not_fail_is_stale(tmp_path, outcome):
    found = report(STR_01=outcome, STR_03="pass")
    expected.apply(entries(tmp_path), found.results)
    assert found.results[0].outcome is Outcome.STALE
    assert found.exit_code == 2
    assert "delete the entry" in found.results[0].message


def test_an_unexpected_failure_counts_more_than_a_stale_expectation(tmp_path):
    found = report(STR_01="pass", STR_03="fail")
    expected.apply(entries(tmp_path), found.results)
    assert found.exit_code == 1


def test_what_was_not_run_is_no_stale_expectation(tmp_path):
    found = report(STR_01="not run", STR_03="pass")
    expected.apply(entries(tmp_path), found.results)
    assert found.results[0].outcome is Outcome.NOT_RUN
    assert found.exit_code == 3


def test_backends_of_an_expectation(tmp_path):
    found = report(STR_01="fail")
    expected.apply(entries(tmp_path, ENTRY + 'backends = ["jax"]'), found.results)
    assert found.results[0].outcome is Outcome.FAIL
    expected.apply(entries(tmp_path, ENTRY + 'backends = ["jax", "torch"]'), found.results)
    assert found.results[0].outcome is Outcome.EXPECTED


def test_a_table_in_pyproject(tmp_path):
    text = ENTRY.replace("[[expected]]", "[[tool.cellkit.expected]]")
    assert len(entries(tmp_path, text, "pyproject.toml")) == 1
    assert expected.find(tmp_path) == tmp_path / "pyproject.toml"
    entries(tmp_path)
    assert expected.find(tmp_path) == tmp_path / expected.FILE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ENTRY.replace("STR-01", "STR-1"), "unknown requirement"),
        (ENTRY.replace("Known; to be mended.", " "), "has no reason"),
        (ENTRY.replace('cell = "lstm"', ""), "has no cell"),
        (ENTRY + "why = 'so'", "unknown key"),
        (ENTRY + "backends = ['theano']", "unknown backend"),
        (ENTRY + ENTRY, "expect the same"),
        ("expected = 3", "not a list of tables"),
        ("[[expected", "cannot be read"),
    ],
)
def test_a_file_that_is_wrong_fails_the_run(tmp_path, text, said, capsys):
    with pytest.raises(expected.BadExpectations, match=said):
        entries(tmp_path, text)
    file = str(tmp_path / "cellkit-expected.toml")
    assert main(["conform", "lstm", "--backend", BACKEND, "--expected", file]) == 2
    assert said in capsys.readouterr().err


def test_a_defect_of_the_backend_has_its_own_exit_code():
    assert report(STR_01="backend defect", STR_03="pass").exit_code == 5
    assert report(STR_01="backend defect", STR_03="fail").exit_code == 1
    assert report(STR_01="blocked", STR_03="pass").exit_code == 3


# Shards and budgets -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7, 200])
@pytest.mark.parametrize("cells", [["lstm"], [f"cell_{i}" for i in range(9)]])
def test_shards_are_a_partition(count, cells):
    ids = list(edition.requirements())
    whole = RunPlan(cells, ["torch", "jax"], ids).work()
    parts = [
        RunPlan(cells, ["torch", "jax"], ids, shard=(i + 1, count)).work() for i in range(count)
    ]
    checks = [(key, id) for part in parts for key, found in part.items() for id in found]
    assert sorted(checks) == sorted((key, id) for key, found in whole.items() for id in found)
    for part in parts:
        assert all(found == [id for id in ids if id in found] for found in part.values())


def test_shards_cost_about_the_same():
    ids = list(edition.requirements())
    work = RunPlan([f"cell_{i}" for i in range(12)], ["torch", "jax"], ids).work()
    counts = [sum(3 if key[1] == "jax" else 1 for key in part) for part in divide(work, 4)]
    assert max(counts) - min(counts) <= 3


def test_a_budget_that_is_spent_leaves_the_rest_unrun():
    plan = RunPlan(["no:Cell"], [BACKEND], ["STR-01", "STR-03"], budget=0.0)
    runner = Runner(plan)
    units = runner.run()
    found = Report(plan, units, runner.backends, [], 0.0)
    assert [r.outcome for r in found.results] == [Outcome.NOT_RUN] * 2
    assert found.results[0].message == "the budget of 0 s was spent"
    assert (found.exit_code, found.ran) == (3, 0)


# Baselines, differences, replays ------------------------------------------------------------------


def write(folder, name, **outcomes):
    report(**outcomes).write_json(folder / name)
    return str(folder / name)


@pytest.mark.parametrize(
    ("before", "after", "code", "said"),
    [
        ({"STR_01": "pass"}, {"STR_01": "pass"}, 0, "Nothing has changed"),
        ({"STR_01": "fail"}, {"STR_01": "pass"}, 0, "1 better"),
        ({"STR_01": "pass"}, {"STR_01": "fail"}, 1, "1 worse"),
        ({"STR_01": "fail"}, {"STR_01": "crash"}, 0, "1 changed"),
        ({"STR_01": "pass"}, {"STR_01": "pass", "STR_03": "pass"}, 0, "1 new"),
        ({"STR_01": "pass"}, {"STR_01": "pass", "STR_03": "fail"}, 1, "1 worse"),
        ({"STR_01": "pass", "STR_03": "pass"}, {"STR_01": "pass"}, 3, "1 gone"),
        ({"STR_01": "pass"}, {"STR_01": "not run"}, 3, "1 gone"),
    ],
)
def test_differences(tmp_path, before, after, code, said, capsys):
    old, new = write(tmp_path, "a.json", **before), write(tmp_path, "b.json", **after)
    baseline = str(tmp_path / "deep" / "baseline.json")
    assert main(["baseline", old, "--to", baseline]) == 0
    assert read_outcomes(tmp_path / "deep" / "baseline.json") == read_outcomes(tmp_path / "a.json")
    capsys.readouterr()
    assert main(["diff", baseline, new]) == code
    assert said in capsys.readouterr().out


NO_REPORTS = ["{}", "[1]", "no json", '{"schema": 1}', '{"schema": 1, "outcomes": 3}']


@pytest.mark.parametrize("text", NO_REPORTS)
def test_what_is_no_report_is_wrong_use(tmp_path, text, capsys):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert main(["diff", str(tmp_path / "a.json"), str(tmp_path / "a.json")]) == 64
    assert main(["replay", str(tmp_path / "missing.json")]) == 64
    assert "neither a report nor a baseline" in capsys.readouterr().err


def test_a_baseline_cannot_be_replayed(tmp_path, capsys):
    old = str(tmp_path / "b.json")
    assert main(["baseline", write(tmp_path, "a.json", STR_01="fail"), "--to", old]) == 0
    assert main(["replay", old]) == 64
    assert "is a baseline" in capsys.readouterr().err


def test_a_replay_runs_the_failures_and_what_they_were_compared_with(monkeypatch):
    monkeypatch.setattr(
        "cellkit_conformance.cli.run.installed_backends", lambda: {"torch": True, "jax": True}
    )
    data = report(STR_01="fail", STR_03="pass", MSK_01="timeout").to_json()
    data["backends"]["jax"] = data["backends"]["torch"]
    data["results"][2]["message"] = "differs from what jax wrote"
    plan = replay_plan(data, set(edition.requirements()))
    assert plan.work() == {
        ("lstm", "torch"): ["STR-01", "MSK-01"],
        ("lstm", "jax"): ["MSK-01"],
    }
    assert replay_plan(data, {"STR-01"}).work() == {("lstm", "torch"): ["STR-01"]}
    assert replay_plan(data, {"STR-03"}).work() == {}
    assert replay_plan(data, {"STR-01"}, backend="jax").work() == {}


def test_changes_say_what_they_were():
    key = ("lstm", "torch", "STR-01")
    (change,) = compare({key: Outcome.PASS}, {key: Outcome.STALE})
    assert change.kind == "worse"


def test_the_badge(tmp_path):
    write_badge(report(STR_01="pass"), tmp_path / "b.svg")
    assert "1 checks pass" in (tmp_path / "b.svg").read_text(encoding="utf-8")
    write_badge(report(STR_01="fail"), tmp_path / "b.svg")
    assert "1 broken" in (tmp_path / "b.svg").read_text(encoding="utf-8")


def test_scripts_are_written_and_old_ones_deleted(tmp_path):
    found = report(STR_01="fail", STR_03="error")
    head = '"""STR-01 for lstm on torch (cellkit conformance, edition x)"""\n'
    found.results[0].script = head
    found.results[1].script = "# No script could be written: for a reason\n"
    (tmp_path / "old.py").write_text(head, encoding="utf-8")
    (tmp_path / "own.py").write_text("my = 'own'\n", encoding="utf-8")
    (path,) = found.write_scripts(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lstm-torch-STR-01.py", "own.py"]
    assert found.to_json()["results"][0]["extra"]["file"] == str(path)
    assert json.loads(json.dumps(found.to_json()))["results"][0]["script"] == head
