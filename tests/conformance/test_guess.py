"""Cells without a spec: how they are made is guessed, and what cannot be guessed is asked for."""

import re
import sys
from pathlib import Path

import keras
import pytest
from keras import ops

import cellkit
from cellkit_conformance.edition.profiles import PROFILES
from cellkit_conformance.judge import Judge
from cellkit_conformance.outcome import Outcome
from cellkit_conformance.subject.targets import describe, resolve

pytestmark = pytest.mark.one_backend

FILE = Path(__file__).with_name("troublemakers.py")


@pytest.fixture(autouse=True)
def own_path(monkeypatch):
    """Keep the folders of the targets from the tests that follow."""
    monkeypatch.setattr(sys, "path", list(sys.path))


def outcomes(target, *ids):
    judge = Judge(target, keras.backend.backend(), PROFILES["quick"], 0, cellkit.RNN)
    return [judge.run(identifier).outcome for identifier in ids]


def test_arguments_and_inputs_are_guessed_and_said():
    target = resolve(f"{FILE}:TwoInputs")
    small, large = target.cases.values()
    assert small == {"rows": 4, "columns": 3, "leak_rate": 0.5}
    assert large == {"rows": 5, "columns": 4, "leak_rate": 0.5}
    assert target.inputs == [("features",), ("rows", "columns")]
    notes = " ".join(target.notes)
    assert "rows=4, columns=3, leak_rate=0.5" in notes and "guessed are the inputs" in notes
    assert outcomes(target, "STR-03", "SEQ-01") == [Outcome.PASS] * 2


class Gap(keras.layers.Layer):
    """Takes a dict."""

    state_size = 3

    def build(self, shapes):
        self.kernel = self.add_weight(shape=(shapes["x"][-1] + shapes["gap"][-1], 3))

    def call(self, inputs, states):
        return states[0], states


class Divides(keras.layers.Layer):
    """Refuses most pairs of arguments."""

    def __init__(self, units, heads):
        super().__init__()
        if units % heads:
            raise ValueError("units must be divisible by heads")
        self.state_size = units

    def call(self, inputs, states):
        return states[0], states


class OnlyByPosition(Divides):
    """Has arguments that no config can give."""

    def __init__(self, units, /):
        super().__init__(units, 1)


class Picky(keras.layers.Layer):
    """Takes three tensors, which nobody guesses."""

    state_size = 3

    def build(self, shapes):
        _, _, (_, features) = shapes
        self.kernel = self.add_weight(shape=(features, 3))

    def call(self, inputs, states):
        return states[0], states


def test_keys_of_a_dict_are_asked_for():
    target = describe("lab:Gap", Gap, None)
    assert target.inputs == {"x": ("x_features",), "gap": ("gap_features",)}


def test_sizes_that_divide_are_tried():
    assert dict(describe("lab:Divides", Divides, None).cases) == {
        "units=4, heads=4": {"units": 4, "heads": 4}
    }


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (OnlyByPosition, ("cannot be given by name", "before a `/`", "take the `/` out")),
        (Picky, ("takes as the input of one step", "cellkit.CellSpec(")),
    ],
)
def test_what_cannot_be_guessed_is_asked_for_in_three_parts(cls, words):
    with pytest.raises(ValueError) as caught:
        describe(f"lab:{cls.__name__}", cls, None)
    for word in (*words, "Received: ", "Expected: ", "How to fix: "):
        assert word in str(caught.value)


def test_what_to_add_is_a_spec_that_can_be_pasted():
    with pytest.raises(ValueError) as caught:
        resolve(f"{FILE}:NeedsArguments")
    _, _, code = str(caught.value).partition("    spec = ")
    numbers = iter(range(4, 8))
    filled = re.sub(r"\.\.\.(?=[,}])", lambda _: str(next(numbers)), code)
    assert isinstance(eval(filled, {"cellkit": cellkit}), cellkit.CellSpec)


@pytest.mark.filterwarnings("ignore:`build:UserWarning")  # in which Keras says the same
def test_weights_that_come_late_are_one_failure_and_not_all():
    found = outcomes(resolve(f"{FILE}:LateWeights"), "STR-06", "SEQ-01", "STA-05", "GRD-03")
    assert found == [Outcome.FAIL, Outcome.PASS, Outcome.PASS, Outcome.PASS]


def test_a_plain_object_is_a_cell_whose_spec_is_not_taken_for_one():
    target = resolve(f"{FILE}:NoLayer")
    assert "no cellkit.CellSpec but str" in target.notes[0]
    assert outcomes(target, "STR-01", "STR-03") == [Outcome.PASS] * 2


def test_a_file_finds_what_lies_beside_it(tmp_path):
    (tmp_path / "beside_it.py").write_text("SIZE = 3\n", encoding="utf-8")
    text = "from beside_it import SIZE\nfrom troublemakers import Good\n\n\nclass Own(Good):\n"
    (tmp_path / "its_file.py").write_text(f'{text}    """Own."""\n', encoding="utf-8")
    resolve(f"{FILE}:Good")
    assert resolve(f"{tmp_path / 'its_file.py'}:Own").cls.__module__ == "its_file"
    (tmp_path / "json.py").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="another module is called 'json' already"):
        resolve(f"{tmp_path / 'json.py'}:Own")
    with pytest.raises(ValueError, match="there is no file"):
        resolve(f"{tmp_path / 'nowhere.py'}:Own")


def with_reference(reference):
    cls = resolve(f"{FILE}:Good").cls
    spec = cellkit.CellSpec(
        reference=reference,
        inputs=("features",),
        cases={"small": {"units": 2}, "large": {"units": 3}},
        paper=cellkit.Paper("Nobody", 2026, "None", "doi:10"),
        symbols=cellkit.registry.rename({"kernel": "W", "recurrent": "U"}),
    )
    return describe("lab:Good", cls, spec)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (lambda w, x, s, c: w["V"], "the reference in the spec raises KeyError: 'V'"),
        (lambda w, x, s, c: None, "the reference in the spec returns NoneType, and not"),
    ],
)
def test_a_broken_reference_is_not_taken_for_a_broken_cell(reference, said):
    judge = Judge(
        with_reference(reference), keras.backend.backend(), PROFILES["quick"], 0, cellkit.RNN
    )
    result = judge.run("NUM-02")
    assert result.outcome is Outcome.FAIL and result.message.startswith(said)


class Slash(keras.layers.Layer):
    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="gate/w")

    def call(self, inputs, states):
        h = ops.tanh(ops.matmul(inputs, self.w) + states[0])
        return h, [h]


def test_what_is_raised_for_every_vector_is_not_taken_for_a_question_of_inputs():
    target = describe("Slash", Slash, None)
    judge = Judge(target, keras.backend.backend(), PROFILES["quick"], 0, cellkit.RNN)
    trouble = judge.trouble()
    assert trouble.stage == "build" and "gate/w" in trouble.reason
    assert "test_guess.py" in trouble.place and "slash" in trouble.hint


class Shares(keras.layers.Layer):
    """Has a layer for a default argument, which all instances hold."""

    def __init__(self, cell=keras.layers.SimpleRNNCell(4), **kwargs):  # noqa: B008 (the defect)
        super().__init__(**kwargs)
        self.cell, self.state_size = cell, cell.state_size

    def build(self, shape):
        if not self.cell.built:
            self.cell.build(shape)

    def call(self, inputs, states):
        return self.cell(inputs, states)


def test_a_layer_of_all_instances_is_not_taken_for_a_question_of_inputs():
    with pytest.raises(ValueError, match=r"(?s)share a layer.*a SimpleRNNCell.*default None"):
        describe("Shares", Shares, None)
