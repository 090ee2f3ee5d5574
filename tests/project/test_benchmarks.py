"""`cellkit bench`: that it runs, compares like with like and counts right; never how fast."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from cellkit.cli import main
from cellkit_bench import report, run
from cellkit_bench.plan import BenchPlan, Work, default_plan, quick_plan
from cellkit_bench.timing import alternate, ratio, summarize
from cellkit_bench.worker import peak_memory

pytestmark = pytest.mark.one_backend


def test_peak_memory_counts_what_was_there_for_a_moment():
    with peak_memory("jax") as peak:
        len(np.ones(2**24))  # 128 MiB
    assert 0.9 * 2**27 < peak["bytes"] < 1.5 * 2**27
    assert peak["counter"]


def test_summary_has_median_quartiles_minimum_and_count():
    summary = summarize([5.0, 1.0, 2.0, 4.0, 3.0])
    assert summary.to_json() == {
        "median": 3.0,
        "lower": 2.0,
        "upper": 4.0,
        "minimum": 1.0,
        "count": 5,
    }
    assert summarize([7.0]).upper == 7.0
    with pytest.raises(ValueError, match="nothing to summarize"):
        summarize([])


def test_ratio_is_taken_round_by_round():
    # The third round was busy for both: the ratio of the medians would not show that all agree.
    assert ratio([1.0, 2.0, 30.0], [2.0, 4.0, 60.0]) == summarize([0.5, 0.5, 0.5])
    with pytest.raises(ValueError):
        ratio([1.0], [1.0, 2.0])


def test_contestants_run_in_turns_and_each_begins_a_round():
    ticks = itertools.count()
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = alternate(calls, seconds=9.0, rounds=3, clock=lambda: float(next(ticks)))
    assert all(len(rounds) == 3 and rounds[0] for rounds in times.values())
    # The first three calls are the estimates; a call takes a tick, a third of each round's three.
    assert order == [*"abc", *"abc", *"bca", *"cab"]


@pytest.mark.parametrize(("seconds", "turns"), [(1.0, 3), (5.0, 5), (90.0, 7)])
def test_slow_contestants_have_fewer_turns(seconds, turns):
    ticks = itertools.count()
    calls = {"slow": lambda: None}  # a call takes one tick
    times = alternate(calls, seconds, rounds=7, clock=lambda: float(next(ticks)))
    assert len(times["slow"]) == turns


def test_plan_survives_the_way_to_the_worker():
    plan = default_plan(("lstm", "gru"), ("loop",))
    assert BenchPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert plan.count() == len(plan.main) + len(plan.curves) + 1
    assert not quick_plan(("lstm",)).curves


def test_floor_is_what_the_products_take_at_the_measured_rate():
    work = vars(Work("lstm"))

    def entry(contestant, operations, seconds):
        return {
            "backend": "jax",
            "work": work,
            "mode": "training",
            "contestant": contestant,
            "operations": operations,
            "seconds": summarize([seconds]).to_json(),
            "rounds": [seconds],
        }

    times = [
        entry("matrix product", 100, 2.0),
        entry("matrix product", 100, 4.0),
        entry("cellkit.RNN", 200, 8.0),
        entry("by hand", 200, 16.0),
    ]
    results = {"times": times}
    rate = report.rates(results)
    assert rate == {"jax": 50.0}
    assert report.floor(times[2], rate) == 4.0
    ((_, name, summary),) = report.compare(results)
    assert (name, summary.median) == ("by hand", 0.5)


@pytest.mark.slow
@pytest.mark.full
def test_worker_measures_and_plots(tmp_path):
    work = Work("lstm", batch=2, length=3, width=4)
    plan = BenchPlan(
        main=(work, Work("conv_lstm", batch=2, length=3, width=4)),
        curves=(Work("lstm", batch=2, length=5, width=4),),
        streaming=(Work("lstm", batch=1, length=1, width=4),),
        seconds=0.01,
        rounds=2,
    )
    events = []
    results = run.measure(plan, ["torch"], events.append)
    (failure,) = results["failed"]  # and the others were measured
    assert failure["work"]["cell"] == "conv_lstm" and "can't be measured" in failure["reason"]
    found = {(t["contestant"], t["mode"]) for t in results["times"] if t["work"] == vars(work)}
    names = {"cellkit.RNN", "keras.layers.RNN", "keras.layers.LSTM", "by hand", "torch.nn.LSTM"}
    wanted = itertools.product({*names, "matrix product"}, ("inference", "training"))
    assert found == set(wanted)
    by_name = {(t["contestant"], t["mode"]): t for t in results["times"]}
    # Two rows of three steps; 4 x 16 from the inputs, 4 x 16 from the state.
    rows, each = 2 * 2 * 3, 4 * 16
    first = [t for t in results["times"] if t["contestant"] == "by hand"][:2]
    assert [t["operations"] for t in first] == [rows * 2 * each, rows * 5 * each]
    assert by_name["cellkit layer.step", "stream"]["seconds"]["count"] >= 2
    assert sum(event["event"] == "done" for event in events) == plan.count()

    pytest.importorskip("matplotlib")
    from cellkit_bench.plots import draw

    pictures = draw(results, tmp_path)
    assert {p.name for p in pictures} == {"cells-torch.png", "curves-torch.png"}
    assert all(p.stat().st_size > 5000 for p in pictures)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["bench", "no_such_cell"], "No cell is called 'no_such_cell'"),
        (["bench", "--backend", "theano"], "There is no backend 'theano'"),
    ],
)
def test_wrong_use(words, text, capsys):
    assert main(words) == 64
    assert text in capsys.readouterr().err


def test_results_cannot_replace_a_file(tmp_path, monkeypatch, capsys):
    from cellkit_bench import cli

    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    monkeypatch.setattr(cli, "_measure", lambda plan, backends: pytest.fail("too late"))
    assert main(["bench", "lstm", "--backend", "torch", "--out", str(file)]) == 64
    assert "which is a file" in capsys.readouterr().err


def test_parent_imports_no_backend():
    code = (
        "import sys, cellkit_bench.cli, cellkit_bench.run, "
        "cellkit_bench.report; "
        "print([m for m in ('keras', 'torch', 'jax', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
