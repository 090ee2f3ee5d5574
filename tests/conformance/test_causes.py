"""One cause is told once: where it lies in the author's code, and what follows from it."""

import io
import re
import subprocess
import sys
import textwrap
import time

import keras
import pytest
from rich.console import Console

from cellkit_conformance import edition
from cellkit_conformance.edition.profiles import PROFILES
from cellkit_conformance.judge import Judge
from cellkit_conformance.outcome import Outcome, Result, describe_error
from cellkit_conformance.report.causes import alike
from cellkit_conformance.report.report import EXIT_FAILED, Report
from cellkit_conformance.report.terminal import show_report
from cellkit_conformance.run.mistyped import check_target
from cellkit_conformance.run.plan import RunPlan
from cellkit_conformance.run.runner import Runner
from cellkit_conformance.subject.targets import resolve
from cellkit_conformance.subject.tolerance import beyond

BACKEND = keras.backend.backend()

CELLS = '''
import keras
from keras import ops


class Good(keras.layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="w")
        self.u = self.add_weight(shape=(self.units, self.units), name="u")

    def call(self, inputs, states):
        h = ops.tanh(ops.matmul(inputs, self.w) + ops.matmul(states[0], self.u))
        return h, [h]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Init(Good):
    def __init__(self, units, **kwargs):
        raise RuntimeError("no licence")


class Build(Good):
    def build(self, shape):
        self.w = self.add_wieght(shape=(3, 4))


class Stateless(Good):
    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        del self.state_size


class Step(Good):
    def call(self, inputs, states):
        return undefined_name(inputs), states


class Alone(Good):
    def call(self, inputs, states):
        return states[0]


class Config(Good):
    def get_config(self):
        raise NotImplementedError


class Masked(Good):
    """Fails for three rows alone, so in some checks and in one place."""

    def call(self, inputs, states):
        if inputs.shape[0] == 3:
            raise RuntimeError("no three rows")
        return super().call(inputs, states)
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    file = tmp_path_factory.mktemp("cells") / "causes_cells.py"
    file.write_text(CELLS, encoding="utf-8")
    names = ["Init", "Build", "Stateless", "Step", "Alone", "Config", "Masked"]
    plan = RunPlan(
        [f"{file}:{name}" for name in names],
        [BACKEND],
        edition.select(["STR", "SEQ", "MSK-01", "SER-01", "SER-02", "SER-07", "RNG-08", "GRD-05"]),
    )
    runner = Runner(plan)
    units = runner.run()
    report = Report(plan, units, runner.backends, (), 1.0)
    console = Console(file=io.StringIO(), width=200)
    show_report(console, report)
    return {u.cell.rpartition(":")[2]: u for u in units}, report, console.file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said", "line", "hint"),
    [
        (
            "Build",
            "AttributeError",
            "self.add_wieght",
            "`build` was given",
        ),
        ("Stateless", "", "", "Set `state_size` in `__init__`"),
        ("Step", "NameError", "undefined_name(inputs)", "misspelt"),
        ("Alone", "", "", "returns `(output, new_states)`"),
    ],
)
def test_what_keeps_every_check_from_running_is_told_once(run, name, said, line, hint):
    results = run[0][name].results
    (bad,) = [result for result in results if result.outcome.is_bad]
    assert said in bad.message and hint in bad.extra["hint"]
    if line:
        assert "causes_cells.py, line " in bad.extra["place"] and line in bad.extra["place"]
    rest = {result.outcome for result in results if result.requirement.startswith("SEQ")}
    assert rest <= {Outcome.BLOCKED, Outcome.NOT_APPLICABLE} and Outcome.BLOCKED in rest


def test_a_cell_that_cannot_be_made_is_told_once(run):
    bad = [result for result in run[0]["Init"].results if result.outcome.is_bad]
    assert [result.message for result in bad] == ["RuntimeError: no licence"]


def test_results_of_one_cause_are_one_entry_with_the_place_in_the_cell(run):
    units, report, text = run
    broken = [r for r in units["Masked"].results if r.outcome is Outcome.ERROR]
    assert len(broken) >= 2 and len({r.extra["cause"] for r in broken}) == 1
    entries = re.findall(r"^\S+ \S*:Masked on .*no three rows$", text, re.MULTILINE)
    assert len(entries) == 1
    assert f"{len(broken) - 1} more follow" in text
    assert 'raise RuntimeError("no three rows")' in text
    assert report.exit_code == EXIT_FAILED


def test_no_message_is_empty(run):
    units, _, _ = run
    for result in units["Config"].results:
        if result.requirement == "STR-14":  # whose cause is another: the class is not registered
            assert "register" in result.message
        elif result.outcome.is_bad:
            assert result.message == "NotImplementedError, without a text"
    assert describe_error(NotImplementedError("\n  say more\n")) == "NotImplementedError: say more"


def test_the_symbols_are_listed_where_a_reference_asks_for_another(tmp_path, monkeypatch):
    source = CELLS + textwrap.dedent(
        """
        import cellkit

        class Referred(Good):
            spec = cellkit.CellSpec(
                cases={"small": {"units": 2}, "large": {"units": 3}},
                inputs=("features",),
                reference=lambda s, x, h, c: (x @ s["Wx"], h),
                symbols=cellkit.registry.rename({"w": "W", "u": "U"}),
                paper=cellkit.Paper("A", 2020, "T", "https://example.org"),
            )
        """
    )
    file = tmp_path / "referred_cells.py"
    file.write_text(source, encoding="utf-8")
    import cellkit

    judge = Judge(
        resolve(f"{file}:Referred"), BACKEND, PROFILES["quick"], 0, cellkit.RNN, blame=False
    )
    message = judge.run("NUM-01").message
    assert "KeyError: 'Wx'" in message and "the symbols are 'W', 'U'" in message


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nofile.py:Cell", "There is no file nofile.py"),
        ("lab_cels.py:MyCell", "did you mean 'lab_cells.py'?"),
        ("lab_cels:MyCell", "did you mean 'lab_cells'?"),
        ("lab_cells:MyCel", "did you mean 'MyCell'?"),
        ("lab_cells.py:MyCel", "did you mean 'MyCell'?"),
        ("lab.nothing:MyCell", "lab has no 'nothing'"),
        ("cellkit.cels:Cell", "did you mean 'cells'?"),
        ("lab_cells:", "does not name a class"),
        (":MyCell", "does not name a class"),
    ],
)
def test_a_mistyped_target_is_wrong_use(target, said, tmp_path, monkeypatch):
    _lab(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="Received:.*\n.*Expected:.*\n.*How to fix:") as info:
        check_target(target)
    assert said in str(info.value)


@pytest.mark.parametrize(
    "target",
    [
        "lab_cells:MyCell",
        "lab_cells:Alias",
        "lab_cells:MyCell.Inner",
        "lab_cells.py:MyCell",
        "lab.stars:Anything",
        "lab.made:Cell",
        "lab:MyCell",
        "lab_broken:Cell",
        "cellkit.cells:Cell",
        "math:sin",
    ],
)
def test_what_may_be_there_is_left_to_the_import(target, tmp_path, monkeypatch):
    _lab(tmp_path)
    monkeypatch.chdir(tmp_path)
    check_target(target)


def test_a_mistyped_target_starts_no_backend(tmp_path):
    _lab(tmp_path)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "cellkit", "conform", "lab_cells:MyCel"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 64 and "did you mean 'MyCell'?" in done.stderr
    assert not (tmp_path / "reports").exists()
    assert (
        time.perf_counter() - start < 30
    )  # a worker would be refused its module, and write a report


def _lab(folder):
    (folder / "lab_cells.py").write_text(
        "class MyCell:\n    class Inner:\n        pass\n\nAlias = MyCell\n", encoding="utf-8"
    )
    (folder / "lab_broken.py").write_text("class (:\n", encoding="utf-8")
    (folder / "lab").mkdir()
    (folder / "lab" / "__init__.py").write_text("from lab_cells import MyCell\n", encoding="utf-8")
    (folder / "lab" / "stars.py").write_text("from lab_cells import *\n", encoding="utf-8")
    (folder / "lab" / "made.py").write_text("globals()['Cell'] = object\n", encoding="utf-8")


def test_a_failed_number_says_how_far_it_is_beyond_its_limit():
    assert beyond(744243.9) == "744,244 x the limit"
    assert beyond(1.25) == "1.2 x the limit"
    assert beyond(float("inf")) == "infinitely far beyond the limit"


def bad(requirement, backend="torch", cell="lab:X"):
    return Result(cell, backend, requirement, Outcome.FAIL, f"{requirement} says something else")


def test_what_repeats_another_failure_is_counted_under_it():
    told = alike([bad("MSK-03"), bad("NUM-02"), bad("NUM-01"), bad("STR-13"), bad("MSK-03", "jax")])
    assert [[r.requirement for r in group] for group in told] == [
        ["NUM-01", "MSK-03", "NUM-02"],
        ["STR-13"],
        ["MSK-03"],
    ]


def test_another_cell_or_backend_is_no_cause():
    told = alike([bad("MSK-03"), bad("NUM-01", "jax"), bad("NUM-01", cell="lab:Y")])
    assert [len(group) for group in told] == [1, 1, 1]
