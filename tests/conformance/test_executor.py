"""Workers that others start: on a Dask cluster, or wherever an executor likes."""

import json
from pathlib import Path

import keras
import pytest

from cellkit.cli import main
from cellkit_conformance import edition
from cellkit_conformance.outcome import Outcome
from cellkit_conformance.run.executor import LocalPool, make_executor
from cellkit_conformance.run.plan import RunPlan
from cellkit_conformance.run.runner import Runner

pytestmark = pytest.mark.one_backend

BACKEND = keras.backend.backend()
FILE = Path(__file__).with_name("troublemakers.py")
IDS = edition.select(["STR-01", "STR-03", "STR-07"])


@pytest.mark.parametrize("name", ["slurm", "host:8786", ""])
def test_an_unknown_executor_is_wrong_use(name):
    with pytest.raises(ValueError, match="There is no executor.*\n.*Received:.*\n.*Expected:"):
        make_executor(name, 2)


def test_without_dask_the_line_that_installs_it_is_named(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"keras-cellkit\[distributed\]"):
        make_executor("dask", 2)


class Counting(LocalPool):
    """Starts workers here, and remembers which."""

    def __init__(self):
        self.started = []

    def slots(self, wanted):
        return 1

    def start(self, place, options):
        self.started.append((place, sorted(options)))
        return super().start(place, options)


def test_the_runner_takes_its_workers_from_the_executor():
    executor = Counting()
    plan = RunPlan([f"{FILE}:Good"], [BACKEND], IDS, workers=4)
    (unit,) = Runner(plan, executor=executor).run()
    assert [r.outcome for r in unit.results] == ["pass"] * 3
    assert executor.started == [
        (BACKEND, ["edition", "exchange", "layer", "profile", "seed", "spec"])
    ]


@pytest.fixture(scope="module")
def cluster():
    """A Dask cluster of two processes on this machine, as `--executor dask -n 2` makes it."""
    pytest.importorskip("distributed")
    executor = make_executor("dask", 2)
    yield executor
    executor.close()


@pytest.mark.filterwarnings("ignore")  # Dask's own, of sockets and of its event loop
def test_a_cluster_finds_what_this_machine_finds(cluster):
    assert cluster.slots(7) == 2
    cells = [f"{FILE}:{name}" for name in ("Good", "Crashes")]
    plan = RunPlan(cells, [BACKEND], IDS, workers=2)
    found = {unit.cell.rpartition(":")[2]: unit for unit in Runner(plan, executor=cluster).run()}
    assert {r.outcome for r in found["Good"].results} == {Outcome.PASS}
    assert [r.outcome for r in found["Crashes"].results] == ["pass", "crash", "pass"]
    assert "exit code 17" in found["Crashes"].results[1].message
    assert not any(cluster._used.values())


@pytest.mark.filterwarnings("ignore")
def test_what_backends_leave_for_each_other_travels(cluster, tmp_path):
    (tmp_path / "mine").mkdir()
    worker = cluster.start(BACKEND, {"profile": "quick", "seed": 0, "layer": "cellkit"})
    other = cluster.start(BACKEND, {"profile": "quick", "seed": 0, "layer": "cellkit"})
    try:
        assert worker._address != other._address
        cluster.keep({"cell/topic.elsewhere.npz": b"what another backend found"})
        for one in (worker, other):
            one.ask({"op": "find", "target": f"{FILE}:Good"}, 60.0)
            assert "cell/topic.elsewhere.npz" in one._sent
        answer = worker.ask({"op": "check", "target": f"{FILE}:Good", "id": "GRD-02"}, 120.0)
        assert answer["event"] == "result"
        assert any(name.endswith(f".{BACKEND}.npz") for name in cluster._files)
    finally:
        worker.close()
        other.close()
    assert not worker.is_alive


@pytest.mark.filterwarnings("ignore")
def test_the_command_runs_on_a_scheduler_by_its_address(cluster, tmp_path):
    address = cluster._own.scheduler_address
    words = ["conform", f"{FILE}:Good", "--backend", BACKEND, "--select", "STR-01,STR-03", "-q"]
    words += ["--executor", address, "--json", str(tmp_path / "r.json")]
    assert main(words) == 0
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["counts"]["pass"] == 2


def test_a_scheduler_that_does_not_answer_is_said(monkeypatch):
    dask = pytest.importorskip("cellkit_conformance.run.dask", exc_type=ImportError)
    monkeypatch.setattr(dask, "WAIT", 1.0)
    with pytest.raises(ValueError, match="No Dask scheduler answers"):
        make_executor("tcp://127.0.0.1:1", 1)
