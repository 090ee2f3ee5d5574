"""Cells that are handed constants are checked as fairly as others."""

import json
from pathlib import Path

import keras
from attentive import Attentive, Inattentive

from cellkit_conformance import conformance_tests
from cellkit_conformance.subject.constants import fed, fed_spec, is_fed
from cellkit_conformance.subject.targets import describe

FILE = Path(__file__).parents[1] / "helpers" / "attentive.py"
RUN = "STR-03 NUM-01 NUM-02 NUM-10 SEQ-05 SEQ-11 STA-03 MSK-03 MSK-09 GRD-01 SER-01 SER-03".split()

test_attentive = conformance_tests("attentive:Attentive", select=RUN)


def test_a_target_takes_its_constants_as_inputs():
    target = describe("attentive", Attentive, Attentive.spec)
    assert is_fed(target.cls) and not is_fed(Attentive)
    assert target.inputs == [("features",), ("places", 3)]
    assert target.spec.constants is None
    cell = target.make({"units": 4})
    assert isinstance(cell, Attentive) and cell.get_config()["units"] == 4


def test_a_structure_of_constants_is_handed_on():
    seen = []

    class Named(keras.layers.Layer):
        state_size = output_size = 2

        def call(self, inputs, states, constants, training=False):
            seen.append((constants, training))
            return states[0], states

    import dataclasses

    constants = {"memory": ("places", 3), "pair": [("n",), ()]}
    spec = dataclasses.replace(
        Attentive.spec,
        constants=constants,
        reference=lambda w, x, states, config, constants: (constants, states),
        draw_constants=lambda drawn: {**drawn, "pair": [drawn["pair"][0] > 0, drawn["pair"][1]]},
    )
    cls, made = fed(Named, spec), fed_spec(spec)
    assert made.inputs == [("features",), ("places", 3), ("n",), ()]
    cls()(_inputs(), [_zeros()], training=True)
    assert seen[0][1] and list(seen[0][0]) == ["memory", "pair"]
    assert [tuple(x.shape) for x in keras.tree.flatten(seen[0][0])] == [(5, 6, 3), (5, 4), (5,)]
    given, _ = made.reference({}, ["x", 1, 2, 3], [0], {})
    assert given == {"memory": 1, "pair": [2, 3]}
    assert made.draw_inputs(["x", 1.0, 2.0, 3.0]) == ["x", 1.0, True, 3.0]


def _inputs():
    shapes = [(5, 2), (5, 6, 3), (5, 4), (5,)]
    return [keras.ops.zeros(shape) for shape in shapes]


def _zeros():
    return keras.ops.zeros((5, 2))


def test_a_cell_that_uses_them_wrongly_is_noticed(tmp_path, monkeypatch):
    from cellkit.cli import main

    monkeypatch.chdir(tmp_path)
    words = ["conform", f"{FILE}:{Inattentive.__name__}", "--select", "NUM-01,NUM-02"]
    assert main([*words, "--backend", keras.backend.backend(), "-n", "1"]) == 1
    found = json.loads(Path("reports/conformance.json").read_text(encoding="utf-8"))
    assert [result["outcome"] for result in found["results"]] == ["fail", "fail"]
