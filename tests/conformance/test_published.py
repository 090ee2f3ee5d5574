"""Pages that are made of measurements say what was measured."""

import importlib.util
import json
import sys
import tomllib
from pathlib import Path

import pytest

from cellkit_conformance import edition

pytestmark = pytest.mark.one_backend

ROOT = Path(__file__).parents[2]


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # its dataclass asks for it
    spec.loader.exec_module(module)
    return module


def test_the_kill_scores_are_those_of_their_file():
    scores = tool("kill_scores")
    text = scores.PAGE.read_text(encoding="utf-8")
    data = json.loads(scores.DATA.read_text(encoding="utf-8"))
    assert scores.page(text, data) == text, "run tools/kill_scores.py"
    for found in data["backends"]:
        assert found["score"] >= 0.99 and not found["problem"]
        assert set(found["requirements"]) <= set(edition.requirements())


def test_every_accusation_of_a_cell_of_others_was_checked_by_hand():
    others = tool("measure_others")
    found = json.loads(others.DATA.read_text(encoding="utf-8"))
    checked = tomllib.loads(others.CHECKED.read_text(encoding="utf-8"))
    text, unknown = others.page(found, checked)
    assert not unknown
    assert others.PAGE.read_text(encoding="utf-8") == text, "run tools/measure_others.py --page"
    told = {(cell, id) for cell, entries in checked.items() for id in entries}
    known = {(cell, r["requirement"]) for cell, entry in found.items() for r in entry["broken"]}
    assert told <= known, "an accusation that is no more"


def test_scores_of_single_cells_are_joined():
    def run(cell, killed, survived, seed=0):
        alike = {"backend": "torch", "profile": "standard", "most": 6, "edition": "2027.2"}
        counts = {"killed": killed, "survived": survived}
        lost = [{"cell": cell, "outcome": "survived"}] * survived
        return {
            "backends": [
                {
                    **alike,
                    "seed": seed,
                    "cellkit": "0.1.0",
                    "problem": "",
                    "created": f"2026-11-{10 + killed}",
                    "counts": counts,
                    "cells": {cell: {**counts, "score": killed / (killed + survived)}},
                    "requirements": {"NUM-01": [killed, killed + survived]},
                    "not_noticed": lost,
                }
            ]
        }

    scores = tool("kill_scores")
    (found,) = scores.joined([run("lstm", 3, 1), run("gru", 5, 0), run("lstm", 4, 0)])["backends"]
    assert found["counts"] == {"killed": 9, "survived": 0} and found["score"] == 1.0
    assert list(found["cells"]) == ["gru", "lstm"] and not found["not_noticed"]
    assert found["requirements"] == {"NUM-01": [9, 9]} and found["created"] == "2026-11-15"
    assert scores.joined([run("gru", 1, 1)])["exit_code"] == 1
    with pytest.raises(ValueError, match="seed"):
        scores.joined([run("lstm", 3, 1), run("gru", 5, 0, seed=1)])
