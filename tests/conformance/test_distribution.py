"""Training over several devices, in a worker that has two of them."""

import keras
import pytest

from cellkit_conformance.outcome import Outcome
from cellkit_conformance.run.plan import RunPlan
from cellkit_conformance.run.runner import Runner

BACKEND = keras.backend.backend()
# Training is compiled for each of them elsewhere, where the canaries are cells with a loop.
CELLS = ["lstm", "min_gru"] if BACKEND == "torch" else ["min_gru"]
IDS = ["DST-01", "DST-02", "DST-03", "DST-04"]


@pytest.mark.slow
def test_cells_train_over_two_replicas_as_on_one():
    plan = RunPlan(CELLS, [BACKEND], IDS, profile="standard")
    results = [result for unit in Runner(plan).run() for result in unit.results]
    absent = {"torch": {"DST-02"}, "tensorflow": {"DST-02", "DST-04"}}.get(BACKEND, set())
    for result in results:
        want = Outcome.NOT_APPLICABLE if result.requirement in absent else Outcome.PASS
        assert result.outcome is want, f"{result.requirement} {result.cell}: {result.message}"
    assert len(results) == len(CELLS) * len(IDS)
