"""Reports of shards, joined: the whole is what one run would have written."""

import itertools
import json

import pytest
from example_report import report

from cellkit.cli import main
from cellkit_conformance import edition
from cellkit_conformance.outcome import Outcome, Result
from cellkit_conformance.report.comparison import read_outcomes
from cellkit_conformance.report.merge import merge
from cellkit_conformance.report.report import Report
from cellkit_conformance.run.plan import RunPlan
from cellkit_conformance.run.runner import Backend, Unit

pytestmark = pytest.mark.one_backend

CELLS = ["a", "b", "lab.py:Unmade", "lab.py:Stuck"]
BACKENDS = ["torch", "jax"]
IDS = list(edition.requirements())
KINDS = itertools.cycle([Outcome.PASS, Outcome.PASS, Outcome.FAIL, Outcome.NOT_APPLICABLE])
OUTCOMES = {(c, b, i): next(KINDS) for c in CELLS for b in BACKENDS for i in IDS}


def run(shard=None, **options):
    """Make the report of a run, as the runner would: one result for a cell that is not made."""
    plan = RunPlan(CELLS, BACKENDS, IDS, shard=shard, **options)
    units = []
    for (cell, backend), ids in plan.work().items():
        unit = Unit(cell, backend, ids=ids, traits=["masking"], claims=["masking"], seconds=1.0)
        unit.source = f"/lab/{cell}:7"
        for number, identifier in enumerate(ids):
            outcome = OUTCOMES[cell, backend, identifier]
            result = Result(cell, backend, identifier, outcome, f"says {identifier}")
            if cell.endswith(("Unmade", "Stuck")):
                result.outcome = Outcome.BLOCKED if number else Outcome.ERROR
                result.message = "ValueError: no"
            if cell.endswith("Stuck") and not number:
                result.extra["blocks"] = True
            unit.results.append(result)
        unit.problem = "ValueError: no\nmore" if cell.endswith("Unmade") else ""
        unit.notes = [f"assumed of {cell}"]
        units.append(unit)
    facts = {name: Backend(name, True, {name: "1", "keras": "3"}, ["cpu:0"]) for name in BACKENDS}
    return Report(plan, units, facts, ["tensorflow"], float(len(units)))


@pytest.fixture(scope="module", params=[2, 3, 25])
def files(request, tmp_path_factory):
    """One file for each shard: of whole cells, and of groups of requirements."""
    folder = tmp_path_factory.mktemp("shards")
    found = []
    for number in range(1, request.param + 1):
        found.append(folder / f"part-{number}.json")
        run((number, request.param)).write_json(found[-1])
    return found


def test_shards_add_up_to_the_run_that_was_not_divided(files):
    whole, merged = run(), merge(files[::-1])
    assert merged.counts() == whole.counts() and merged.exit_code == whole.exit_code == 1
    assert merged.verdict == whole.verdict
    one, other = json.loads(json.dumps(whole.to_json())), merged.to_json()
    for key in ("units", "results", "backends", "requirements", "missing_backends", "counts"):
        if key == "results":  # a blocked check of a shard has no command, as in the whole
            assert [r["outcome"] for r in other[key]] == [r["outcome"] for r in one[key]]
            assert [r["requirement"] for r in other[key]] == [r["requirement"] for r in one[key]]
        elif key == "units":
            assert [u["cell"] for u in other[key]] == [u["cell"] for u in one[key]]
            assert [u["claims"] for u in other[key]] == [u["claims"] for u in one[key]]
        else:
            assert other[key] == one[key], key
    assert other["cells"] == CELLS and not other["gaps"]


def test_a_cell_that_cannot_be_made_is_told_once(files):
    found = [r for r in merge(files).results if r.cell.endswith(("Unmade", "Stuck"))]
    errors = [r for r in found if r.outcome is Outcome.ERROR]
    assert len(errors) == 2 * len(BACKENDS)
    assert {r.outcome for r in found} == {Outcome.ERROR, Outcome.BLOCKED}


def test_a_missing_shard_is_said_and_is_no_success(tmp_path):
    files = []
    for number in (1, 3):
        files.append(tmp_path / f"{number}.json")
        part = run((number, 3))
        for unit in part.units:
            unit.problem = ""
            for result in unit.results:
                result.outcome = Outcome.PASS
        part.write_json(files[-1])
    merged = merge(files)
    assert merged.exit_code == 3
    assert "shard 2 of 3 is missing" in merged.verdict


def test_reports_of_one_backend_each_make_a_matrix(tmp_path):
    files = []
    for backend in BACKENDS:
        part = run()
        units = [unit for unit in part.units if unit.backend == backend]
        plan = RunPlan(CELLS, [backend], IDS)
        files.append(tmp_path / f"{backend}.json")
        Report(plan, units, {backend: part.backends[backend]}, [], 3.0).write_json(files[-1])
    merged = merge(files)
    assert merged.counts() == run().counts()
    assert list(merged.plan.backends) == BACKENDS
    assert merged.seconds == 3.0 and not merged.gaps


def test_versions_and_platforms_that_differ_are_all_named(tmp_path):
    for name, version in (("a", "3.1"), ("b", "3.2")):
        data = report(Outcome.PASS, cell=name).to_json()
        data["backends"]["torch"]["versions"] = {"keras": version}
        data["platform"] = f"Linux {name}"
        (tmp_path / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
    merged = merge([tmp_path / "a.json", tmp_path / "b.json"])
    assert merged.backends["torch"].versions == {"keras": "3.1; 3.2"}
    assert merged.platform == "Linux a; Linux b"


def written(folder, name, change=None, **options):
    data = run(**options).to_json()
    if change:
        change(data)
    (folder / name).write_text(json.dumps(data), encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.update(seed=8), "differ in their seed"),
        (lambda data: data.update(profile="thorough"), "differ in their profile"),
        (lambda data: data.update(layer="keras"), "differ in their layer"),
        (lambda data: data.update(edition="1999.1"), "differ in their edition"),
        (lambda data: None, "Two reports hold the same check"),
        (lambda data: data.update(spec="my_spec.py"), "differ in their spec"),
        (lambda data: data.pop("units"), "no report that can be merged"),
        (lambda data: data.pop("results"), "no report that can be merged"),
        (
            lambda data: data["results"][0].update(requirement="X-1"),
            "an unknown requirement 'X-1'",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, change, said, capsys):
    files = [written(tmp_path, "a.json"), written(tmp_path, "b.json", change)]
    with pytest.raises(ValueError, match="Received:.*\n.*Expected:.*\n.*How to fix:") as info:
        merge(files)
    assert said in str(info.value)
    out = tmp_path / "out.json"
    assert main(["merge", *map(str, files), "--json", str(out)]) == 64
    assert said in capsys.readouterr().err and not out.exists()


def test_the_command_writes_everything(tmp_path, capsys):
    files = [written(tmp_path, f"{n}.json", shard=(n, 2)) for n in (1, 2)]
    before = tmp_path / "before.json"
    better = run()
    next(r for r in better.results if r.outcome is Outcome.FAIL).outcome = Outcome.PASS
    better.write_json(before)
    names = {"json": "r.json", "html": "r.html", "junit": "r.xml", "baseline": "b.json"}
    options = [w for key, name in names.items() for w in (f"--{key}", str(tmp_path / name))]
    words = ["merge", *map(str, files), *options, "--diff", str(before), "--annotations"]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert "NOT conformant" in out and "1 worse" in out and "::error " in out
    assert read_outcomes(tmp_path / "b.json") == read_outcomes(tmp_path / "r.json")
    assert len(read_outcomes(tmp_path / "b.json")) == len(OUTCOMES)
    assert "Conformance" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_an_expectation_may_come_with_the_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "one.json"
    report(Outcome.PASS, Outcome.FAIL).write_json(file)
    words = ["merge", str(file), "--json", str(tmp_path / "r.json"), "-q"]
    assert main(words) == 1
    text = '[[expected]]\ncell = "lstm"\nrequirement = "%s"\nreason = "Known."\n'
    (tmp_path / "cellkit-expected.toml").write_text(text % IDS[1], encoding="utf-8")
    assert main(words) == 0
    assert main(["merge", str(tmp_path / "r.json"), "--json", str(tmp_path / "s.json")]) == 0
    (tmp_path / "cellkit-expected.toml").write_text("[[expected]]\n", encoding="utf-8")
    assert main(words) == 2
