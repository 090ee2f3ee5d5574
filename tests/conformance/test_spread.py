"""A run that asks what no backend decides of every cell on one backend, and of a part elsewhere."""

from collections import Counter

import pytest

import cellkit
from cellkit_conformance import edition
from cellkit_conformance.report.report import Report
from cellkit_conformance.run.plan import RunPlan

pytestmark = pytest.mark.one_backend

CELLS = cellkit.list_cells()
BACKENDS = ["jax", "tensorflow", "torch"]
IDS = edition.select(profile="quick")
BY = {
    who: {id for id in IDS if edition.requirements()[id].decided_by == who}
    for who in ("code", "layer", "backend")
}


def plan(backends=BACKENDS, spread=True):
    return RunPlan(CELLS, backends, IDS, spread=spread)


def test_every_cell_is_asked_everything_on_one_backend():
    work = plan().work()
    assert all(work[cell, "torch"] == IDS for cell in CELLS)
    assert plan(["jax"]).work() == plan(["jax"], spread=False).work()


def test_what_a_backend_decides_is_asked_of_every_cell_on_every_backend():
    numbers = {"NUM-01", "NUM-02", "NUM-03", "NUM-05", "GRD-01", "GRD-03", "GRD-04"}
    masks = {"MSK-01", "MSK-02", "MSK-03", "MSK-04", "MSK-05", "MSK-10"}
    states = {"STA-01", "STA-02", "STA-03", "STA-04", "SEQ-01", "SEQ-02", "SEQ-03"}
    assert numbers | masks | states <= BY["backend"]
    for (cell, backend), ids in plan().work().items():
        assert [id for id in IDS if id in ids or id in BY["backend"]] == ids, (cell, backend)


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
@pytest.mark.parametrize(("who", "part"), [("code", 6), ("layer", 3)])
def test_the_rest_is_asked_of_a_part_of_the_cells_elsewhere(who, part, backend):
    work = plan().work()
    asked = Counter(id for cell in CELLS for id in work[cell, backend])
    for id in BY[who]:
        assert len(CELLS) / (3 * part) < asked[id] < 2 * len(CELLS) / part, id
    by_cell = {cell: BY[who] & {*work[cell, backend]} for cell in CELLS}
    assert all(by_cell.values()), "a cell is asked nothing of this on a backend"


def test_the_other_backends_have_cells_of_their_own():
    work, spread = plan().work(), BY["code"] | BY["layer"]
    both = [(c, id) for c in CELLS for id in spread if all(id in work[c, b] for b in BACKENDS)]
    assert not both


def test_a_report_says_that_it_was_spread():
    def notes(made):
        return Report(made, [], {}, [], 1.0).notes

    for who in ("code", "layer"):
        assert f"{len(BY[who])} requirements about" in notes(plan())[0]
    assert notes(plan(spread=False)) == notes(plan(["jax"])) == []
    assert Report(plan(), [], {}, [], 1.0).to_json()["spread"] is True
