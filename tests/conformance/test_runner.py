"""The runner: nothing that a cell does ends the run, and the parent imports no backend."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import pytest

from cellkit_conformance import edition
from cellkit_conformance.outcome import Outcome, Result
from cellkit_conformance.report.html import write_html
from cellkit_conformance.report.junit import write_junit
from cellkit_conformance.report.report import Report
from cellkit_conformance.run import plan as plan_module
from cellkit_conformance.run import process
from cellkit_conformance.run import runner as runner_module
from cellkit_conformance.run.plan import RunPlan
from cellkit_conformance.run.runner import Runner, Unit, all_results

pytestmark = [pytest.mark.one_backend, pytest.mark.slow]

BACKEND = keras.backend.backend()
FILE = Path(__file__).with_name("troublemakers.py")


def run(*cells, ids=("STR-01", "STR-03", "STR-07"), timeout=120.0, backends=(BACKEND,), workers=1):
    cells = [f"{FILE}:{cell}" for cell in cells]
    plan = RunPlan(cells, backends, edition.select(ids), timeout=timeout, workers=workers)
    runner = Runner(plan)
    units = runner.run()
    return Report(plan, units, runner.backends, [], 0.0)


@pytest.fixture(scope="module")
def troubled(tmp_path_factory):
    """One run over several cells, so that each starts after what the last one did."""
    folder = tmp_path_factory.mktemp("troubled")
    cells = ("Crashes", "Segfaults", "RaisesInInit", "Shouts", "Lines", "NOT_A_CELL", "Missing")
    report = run(*cells, "NeedsArguments", "Leaves", "Patches", "Good")
    report.write_json(folder / "r.json")
    write_junit(report, folder / "r.xml")
    report.write_scripts(folder / "scripts")
    write_html(report, folder / "r.html")
    assert all(file.stat().st_size < 2_000_000 for file in folder.glob("r.*"))
    return {unit.cell.rsplit(":")[-1]: unit for unit in report.units}


def outcomes(unit):
    return {result.requirement: result.outcome for result in unit.results}


def test_a_crash_is_a_result_and_the_rest_runs(troubled):
    assert outcomes(troubled["Crashes"]) == {
        "STR-01": Outcome.PASS,
        "STR-03": Outcome.CRASH,
        "STR-07": Outcome.PASS,
    }
    assert "exit code 17" in troubled["Crashes"].results[1].message


def test_a_cell_that_cannot_be_made_is_reported_once(troubled):
    first, *others = troubled["RaisesInInit"].results
    assert first.outcome is Outcome.ERROR
    assert first.message == "OSError: no such file: weights.bin"
    assert "its `__init__`" in first.detail and "troublemakers.py" in first.detail
    assert {result.outcome for result in others} == {Outcome.BLOCKED}


def test_megabytes_are_cut(troubled):
    result = troubled["Shouts"].results[1]
    assert result.outcome is Outcome.ERROR
    assert len(json.dumps(result.to_json())) < 50_000
    assert outcomes(troubled["Shouts"])["STR-07"] is Outcome.PASS


def test_a_segfault_is_a_crash(troubled):
    result = troubled["Segfaults"].results[1]
    assert result.outcome is Outcome.CRASH
    assert "SIGSEGV" in result.message
    assert "troublemakers.py" in result.detail  # where it happened, from faulthandler


def test_ten_million_lines_are_cut(troubled):
    result = troubled["Lines"].results[1]
    assert result.outcome is Outcome.ERROR
    assert result.message == "RuntimeError: <script>alert(1)</script>"
    assert len(json.dumps(result.to_json())) < 50_000


def test_what_is_not_there_or_cannot_be_made_says_what_to_do(troubled):
    assert "has no 'Missing'" in troubled["Missing"].problem
    assert "Nothing says how to construct" in troubled["NeedsArguments"].problem
    assert "spec" in troubled["NeedsArguments"].problem


def test_what_is_no_cell_is_reported_once(troubled):
    unit = troubled["NOT_A_CELL"]
    assert "is not a recurrent cell" in unit.problem
    assert list(outcomes(unit).values()) == [Outcome.ERROR, Outcome.BLOCKED, Outcome.BLOCKED]


def test_the_cell_after_all_the_trouble_is_fine(troubled):
    assert set(outcomes(troubled["Good"]).values()) == {Outcome.PASS}
    notes = " ".join(troubled["Good"].notes)
    assert "no spec" in notes and "a NumPy `reference` of one step would add" in notes
    assert "NUM-01" in notes


def test_leaving_is_an_error_and_what_it_says_moves_no_cursor(troubled):
    result = troubled["Leaves"].results[1]
    assert result.outcome is Outcome.ERROR
    assert result.message == "SystemExit: \\x1b[2J \\udcff [bold]\\u202e"
    assert outcomes(troubled["Leaves"])["STR-07"] is Outcome.PASS


def test_a_cell_that_changes_keras_is_named_and_the_next_one_is_not_touched(troubled):
    assert any("keras.ops.tanh" in note for note in troubled["Patches"].notes)
    assert not any("changed" in note for note in troubled["Good"].notes)


def test_what_hangs_before_the_first_check_is_given_up_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(plan_module, "LEAST_TIMEOUT", 3.0)
    (tmp_path / "sleeps.py").write_text("import time\ntime.sleep(1000)\n", encoding="utf-8")
    cells = [f"{FILE}:HangsInInit", f"{tmp_path / 'sleeps.py'}:Cell"]
    runner = Runner(RunPlan(cells, [BACKEND], edition.select(["STR-01", "STR-03"]), timeout=3.0))
    made, imported = runner.run()
    for unit, said in ((made, "making"), (imported, "importing the module of")):
        assert list(outcomes(unit).values()) == [Outcome.TIMEOUT, Outcome.BLOCKED]
        assert unit.problem.startswith(said) and "no answer within 3 s" in unit.problem


def test_a_cell_that_eats_memory_is_ended_before_the_machine_is(monkeypatch):
    monkeypatch.setattr(process, "MEMORY_SHARE", 1.5 * 2**30 / process.machine_memory())
    report = run("Eats", ids=["STR-03", "STR-07"])
    assert [result.outcome for result in report.results] == [Outcome.CRASH, Outcome.PASS]
    assert "GB of memory" in report.results[0].message


def test_a_hang_is_a_timeout_and_what_needs_no_call_runs(monkeypatch):
    tried = []
    monkeypatch.setattr(plan_module, "FIND_TIMEOUT", 10.0)
    start = Runner._start
    monkeypatch.setattr(Runner, "_start", lambda *args: tried.append(args) or start(*args))
    report = run("Hangs", ids=["STR-03", "STR-07", "STR-09", "MSK"], timeout=10.0)
    by_id = {result.requirement: result for result in report.results}
    assert by_id["STR-03"].outcome is Outcome.TIMEOUT
    assert by_id["STR-07"].outcome is Outcome.PASS
    rest = [result for name, result in by_id.items() if name not in ("STR-03", "STR-07")]
    assert {result.outcome for result in rest} <= {Outcome.BLOCKED, Outcome.NOT_APPLICABLE}
    assert "a single step of the cell does not come back" in by_id["STR-09"].message
    assert len(tried) == 2  # the second process was for STR-07
    assert "10 s" in report.results[0].message
    assert "time.sleep" in report.results[0].detail or "call" in report.results[0].detail
    assert report.exit_code == 1


def test_what_hangs_in_long_runs_alone_goes_on_and_a_step_that_hangs_is_looked_for(monkeypatch):
    monkeypatch.setattr(plan_module, "FIND_TIMEOUT", 5.0)
    report = run("HangsInTraining", "Crashes", ids=["RNG-08", "RNG-01", "MSK-01"], timeout=5.0)
    hangs, crashes = report.units
    assert outcomes(hangs) == {
        "RNG-01": Outcome.PASS,
        "RNG-08": Outcome.TIMEOUT,
        "MSK-01": Outcome.PASS,
    }
    assert list(outcomes(crashes).values()) == [Outcome.CRASH, Outcome.BLOCKED, Outcome.BLOCKED]
    assert "a single step of the cell does not come back" in crashes.results[1].message


@pytest.fixture
def slots(monkeypatch):
    """Let a second worker join for two checks, and say of every thread whether it did."""
    monkeypatch.setattr(runner_module, "WORTH_A_WORKER", 2)
    joined, run_unit = {}, Runner._run_unit

    def note(runner, remaining, process, is_joined):
        joined[threading.current_thread()] = is_joined
        return run_unit(runner, remaining, process, is_joined)

    monkeypatch.setattr(Runner, "_run_unit", note)
    return joined


def test_two_workers_share_the_checks_of_one_cell(slots, monkeypatch):
    both_are_there, threads, check = threading.Barrier(2, timeout=300.0), {}, Runner._check

    def wait_at_first(runner, unit, process, identifier):
        me = threading.current_thread()
        if me not in threads.values():
            threads[identifier] = me
            both_are_there.wait()
        threads[identifier] = me
        return check(runner, unit, process, identifier)

    monkeypatch.setattr(Runner, "_check", wait_at_first)
    ids = ["STR-01", "STR-02", "STR-03", "STR-07"]
    report = run("Crashes", ids=ids, workers=2)
    assert [result.requirement for result in report.results] == ids
    assert [result.outcome for result in report.results] == ["pass", "n/a", "crash", "pass"]
    assert len(set(threads.values())) == 2
    assert threads["STR-01"] is not threads["STR-07"]  # one from the front, one from the back


def test_a_cell_that_cannot_be_made_is_reported_once_by_two_workers(slots):
    report = run("RaisesInInit", workers=2)
    assert sorted(slots.values()) == [False, True]
    assert [result.outcome for result in report.results] == ["error", "blocked", "blocked"]


def test_what_several_workers_met_is_told_once():
    trouble = {"cause": "RuntimeError at lab.py, line 3", "place": "lab.py, line 3, in call: x"}
    unit = Unit("lab.py:Cell", BACKEND)
    for identifier, extra in (("STR-03", {}), ("STR-05", trouble), ("STR-09", trouble)):
        unit.results.append(Result(unit.cell, BACKEND, identifier, Outcome.ERROR, extra=extra))
    unit.results[2].extra = {**trouble, "blocks": True, "hint": "look there"}
    runner_module.tell_once(unit)
    assert [result.outcome for result in unit.results] == ["error", "error", "blocked"]
    assert unit.results[1].extra == {**trouble, "blocks": True, "hint": "look there"}
    assert "blocks" not in unit.results[0].extra  # another cause


def test_a_second_worker_that_does_not_start_is_a_note(slots, monkeypatch):
    start = Runner._start

    def only_the_first(runner, name):
        if slots[threading.current_thread()]:
            raise process.WorkerGone("crash", "no memory is left", "")
        return start(runner, name)

    monkeypatch.setattr(Runner, "_start", only_the_first)
    (unit,) = run("Good", workers=2).units
    assert [result.outcome for result in unit.results] == ["pass"] * 3
    assert "step" in " ".join(unit.notes) and "no memory is left" in unit.notes[-1]


def test_what_never_calls_the_cell_runs_where_it_would_crash():
    report = run("Crashes", ids=sorted(runner_module.WITHOUT_STEP))
    assert {result.outcome for result in report.results} <= {Outcome.PASS, Outcome.NOT_APPLICABLE}


def test_a_backend_that_does_not_start_is_said_so():
    report = run("Good", backends=("nonsense",))
    assert {result.outcome for result in report.results} == {Outcome.NOT_RUN}
    assert report.exit_code == 3
    assert "does not start" in report.results[0].message


def test_the_parent_imports_no_backend():
    code = (
        "import sys\n"
        "import cellkit_conformance.report.html, cellkit_conformance.report.terminal\n"
        "import cellkit_conformance.cli, cellkit_conformance.golden.command\n"
        "from cellkit_conformance.run import plan, runner\n"
        f"plan = plan.RunPlan(['{FILE}:Good'], ['{BACKEND}'], ['STR-01', 'STR-07'])\n"
        "units = runner.Runner(plan).run()\n"
        "assert [r.outcome for r in runner.all_results(units)] == ['pass', 'pass'], units\n"
        "print(*{'keras', 'tensorflow', 'torch', 'jax', 'hypothesis'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_results_travel_as_json():
    result = Result("lstm", "torch", "NUM-01", Outcome.FAIL, headroom=float("inf"), error=0.5)
    again = Result.from_json(json.loads(json.dumps(result.to_json())))
    assert again == result


def test_failures_carry_the_command_that_repeats_them():
    plan = RunPlan(["my lab:Cell"], ["jax"], ["MSK-01"], seed=7, layer="keras")
    command = plan.command("my lab:Cell", "jax", "MSK-01")
    assert command == (
        "cellkit conform 'my lab:Cell' --backend jax --select MSK-01 --profile quick --seed 7 "
        "--layer keras"
    )
    assert all_results([]) == []


def is_alive(pid):
    """True if a process runs; one that has ended and that nobody asked about does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(condition, seconds=90.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.part(2)
@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM"])
def test_a_worker_ends_with_its_parent_and_so_does_what_it_started(tmp_path, signal_name):
    told = tmp_path / "pids"
    words = ["conform", f"{FILE}:Spins", "--backend", BACKEND, "--select", "STR-03", "-n", "1"]
    parent = subprocess.Popen(
        [sys.executable, "-m", "cellkit", *words, "--json", str(tmp_path / "r.json")],
        env={**os.environ, "CELLKIT_SPINS": str(told)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: told.exists() and told.read_text(encoding="utf-8").endswith("."))
    worker, child = told.read_text(encoding="utf-8").split()[:2]
    assert is_alive(worker) and is_alive(child)
    parent.send_signal(getattr(signal, signal_name))  # and nobody waits for it yet
    wait_for(lambda: not is_alive(worker) and not is_alive(child), 10.0)
    parent.wait()
