"""Changes to the steps of real cells: what they are, and that checks notice a sample of them."""

import io
import json

import keras
import numpy as np
import pytest
from keras import ops
from rich.console import Console

import cellkit
from cellkit.cli import main
from cellkit_conformance.selftest.cells import equations, results, source
from cellkit_conformance.selftest.cells.change import Change, changes_of, subclass
from cellkit_conformance.selftest.cells.scores import Scores, show
from cellkit_conformance.selftest.cells.trial import Trials

BACKEND = keras.backend.backend()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "atr"])
def test_a_sample_of_the_changes_to_a_cell_is_noticed(name):
    found = list(Trials(name, "quick", seed=1).run(most=3))
    outcomes = [trial.outcome for trial in found if trial.outcome != "invalid"]
    assert len(outcomes) == 3 and outcomes.count("killed") >= 2
    assert "survived" not in outcomes, [t for t in found if t.outcome == "survived"]


@pytest.fixture(scope="module")
def lstm():
    return Trials("lstm", "quick")


def change(make, reached=None):
    return Change("test", "a -> b", "line 1", make, reached)


@pytest.mark.slow
@pytest.mark.one_backend
def test_what_is_no_change_cannot_be_noticed(lstm):
    def again(base):
        def step(self, projected, states):
            output, new = base.step(self, projected, states)
            return 1.0 * output, new

        return subclass(base, {"step": step})

    trial = lstm.attempt(change(again))
    assert trial.outcome == "equivalent" and "the same numbers and gradients" in trial.reason


@pytest.mark.slow
@pytest.mark.one_backend
def test_what_no_check_notices_survives_and_unreached_code_says_so(lstm, monkeypatch):
    def rounded(base):
        def step(self, projected, states):
            output, new = base.step(self, projected, states)
            return output + 1e-3, new

        return subclass(base, {"step": step})

    monkeypatch.setattr(lstm, "ids", ["STR-01"])
    trial = lstm.attempt(change(rounded))
    assert (trial.outcome, trial.asked) == ("survived", ["STR-01"])
    assert trial.reason == "it gives other numbers or gradients, and nothing notices"
    trial = lstm.attempt(change(lambda base: subclass(base, {}), reached=[]))
    assert (trial.outcome, trial.reason) == ("survived", "no case of the spec runs it")


@pytest.mark.one_backend
def test_what_does_not_run_or_has_another_shape_is_no_change(lstm):
    def raising(base):
        return subclass(base, {"step": lambda self, projected, states: 1 / 0})

    def wide(base):
        def step(self, projected, states):
            output, new = base.step(self, projected, states)
            return ops.concatenate([output, output], axis=-1), new

        return subclass(base, {"step": step})

    assert lstm.attempt(change(raising)).reason == "ZeroDivisionError in a step"
    assert lstm.attempt(change(wide)).reason == "other shapes or dtypes"


@pytest.mark.one_backend
def test_equations_are_changed_and_the_spec_stays():
    cls, spec = cellkit.get("atr")
    found = list(equations.changes(cls))
    kinds = {entry.kind for entry in found}
    assert {"sign", "dropped term", "operator", "activation", "wrong gate"} <= kinds
    made = found[0].make(cls)
    assert made.spec is spec and made.declaration.text != cls.declaration.text
    assert len({entry.what + entry.where for entry in found}) >= len(found) - 2
    lstm_class, _ = cellkit.get("lstm")
    assert not list(equations.changes(lstm_class))


@pytest.mark.one_backend
def test_methods_are_changed_as_python_runs_them():
    cls, _ = cellkit.get("lstm")
    found = list(source.changes(cls))
    assert "combine" in {entry.where.split(".")[1].split(",")[0] for entry in found}
    by_what = {entry.what: entry for entry in found}
    entry = by_what["gates['f'] -> gates['i']"]
    made = entry.make(cls)
    gates = {
        key: np.full((1, 1), value) for key, value in zip("ifgo", (2.0, 3.0, 5.0, 7.0), strict=True)
    }
    cell = made(1, activation="linear")
    output, (_, c) = cell.combine(
        {k: ops.convert_to_tensor(v) for k, v in gates.items()},
        [ops.zeros((1, 1)), ops.ones((1, 1))],
    )
    assert float(c[0, 0]) == 2.0 * 1.0 + 2.0 * 5.0 and float(output[0, 0]) == 7.0 * 12.0
    assert entry.reached == [True]


class Refusing(cellkit.Cell):
    """Adds up, and refuses what is wide."""

    def step(self, projected, states):
        width = projected.shape[-1]
        if width > self.units:
            raise ValueError(f"{width - 1} too many")
        h = states[0] + projected
        return h, [h]


@pytest.mark.one_backend
def test_what_an_error_says_is_no_part_of_a_step():
    found = {entry.what for entry in source.changes(Refusing)}
    assert any(what.startswith("states[0] + projected ->") for what in found)
    assert any(what.startswith("width > self.units ->") for what in found)
    assert not any("width - 1" in what for what in found)


@pytest.mark.one_backend
def test_what_a_step_returns_is_changed_for_every_cell():
    for name in ("lstm", "nested", "clockwork"):
        cls, _ = cellkit.get(name)
        kinds = [entry.kind for entry in results.changes(cls)]
        assert {"detached", "old for new", "rows", "wrong output"} <= set(kinds), name
        assert len(list(changes_of(cls))) >= len(kinds)


def scores(*outcomes):
    found = Scores("torch", "standard", 0, None)
    trial = {"kind": "sign", "what": "a + b -> a - b", "where": "line 1", "reason": "why"}
    found.trials["lstm"] = [
        {**trial, "outcome": o, "by": "NUM-01" if o == "killed" else "", "asked": ["NUM-01"]}
        for o in outcomes
    ]
    found.seconds["lstm"] = 1.0
    return found


@pytest.mark.one_backend
def test_scores_leave_out_what_cannot_be_noticed():
    found = scores(*["killed"] * 99, "survived", "equivalent", "invalid")
    assert found.score() == found.score("lstm") == 0.99 and not found.is_wrong
    assert scores(*["killed"] * 98, "survived").is_wrong
    assert found.of_requirements() == {"NUM-01": (99, 102)}
    data = json.loads(json.dumps(found.to_json()))
    assert data["cells"]["lstm"]["killed"] == 99
    assert [entry["outcome"] for entry in data["not_noticed"]] == ["survived", "equivalent"]
    console = Console(file=io.StringIO(), width=200)
    show(console, found)
    assert "survived lstm sign: a + b -> a - b (line 1): why" in console.file.getvalue()
    assert "score 99.00%" in console.file.getvalue()


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "words",
    [["lstm"], ["--cells", "lsm"], ["--cells", "lstm", "--profile", "lazy"], ["--cells", "a:B"]],
)
def test_wrong_use(words, capsys):
    assert main(["selftest", *words]) == 64
    assert "Received:" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.one_backend
def test_the_command_prints_scores(capsys):
    words = ["--backend", BACKEND, "--profile", "quick", "--most", "2", "--json"]
    assert main(["selftest", "--cells", "lstm", *words]) == 0
    (data,) = json.loads(capsys.readouterr().out)["backends"]
    assert data["cells"]["lstm"]["killed"] == 2 and data["edition"] and data["platform"]
