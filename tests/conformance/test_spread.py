"""A run that asks what code alone decides of every cell on one backend, and of a part elsewhere."""

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
OF_CODE = {id for id in IDS if edition.requirements()[id].of_code}


def plan(backends=BACKENDS, spread=True):
    return RunPlan(CELLS, backends, IDS, spread=spread)


def test_every_cell_is_asked_everything_on_one_backend():
    work = plan().work()
    assert all(work[cell, "torch"] == IDS for cell in CELLS)
    assert plan(["jax"]).work() == plan(["jax"], spread=False).work()


def test_what_a_backend_decides_is_asked_of_every_cell_on_every_backend():
    assert {"NUM-01", "NUM-02", "NUM-03", "GRD-01", "MSK-02", "STA-03", "SEQ-02"}.isdisjoint(
        OF_CODE
    )
    for (cell, backend), ids in plan().work().items():
        assert [id for id in IDS if id in ids or id not in OF_CODE] == ids, (cell, backend)


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_what_code_decides_is_asked_of_a_sixth_of_the_cells_elsewhere(backend):
    work = plan().work()
    asked = Counter(id for cell in CELLS for id in work[cell, backend])
    for id in OF_CODE:
        assert len(CELLS) / 18 < asked[id] < len(CELLS) / 3, id
    by_cell = {cell: OF_CODE & {*work[cell, backend]} for cell in CELLS}
    assert all(by_cell.values()), "a cell is asked nothing of this on a backend"


def test_the_other_backends_have_cells_of_their_own():
    work = plan().work()
    both = [(c, id) for c in CELLS for id in OF_CODE if all(id in work[c, b] for b in BACKENDS)]
    assert not both


def test_a_report_says_that_it_was_spread():
    def notes(made):
        return Report(made, [], {}, [], 1.0).notes

    assert f"{len(OF_CODE)} requirements" in notes(plan())[0]
    assert notes(plan(spread=False)) == notes(plan(["jax"])) == []
    assert Report(plan(), [], {}, [], 1.0).to_json()["spread"] is True
