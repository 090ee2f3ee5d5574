"""Every engine that accepts a random cell computes what the plain loop computes.

`make fuzz` runs thousands of such cells; here are some of them, the same ones at every run.
"""

import collections

import hypothesis
import pytest
from hypothesis import strategies as st

from . import cells, compare
from .choices import Choices

SEED = 20170207
# How many chunks of cells, and how many cells each: as many as half a minute takes. JAX and
# TensorFlow compile for every cell and every engine.
CHUNKS, CELLS = {"torch": (10, 20), "tensorflow": (6, 5), "jax": (6, 4)}[compare.BACKEND]


def explained(number, recipe, verdict):
    failures = "\n".join(map(str, verdict.failures))
    again = f"python tools/fuzz.py --backend {compare.BACKEND} --seed {SEED} --cell {number}"
    return f"{failures}\n\n{recipe.text()}\n\nMade smaller by: {again}"


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_engines_compute_what_the_loop_computes(chunk):
    counts = collections.Counter()
    for number in range(chunk * CELLS, (chunk + 1) * CELLS):
        recipe = cells.drawn(Choices.numbered(SEED, number), compare.HOST)
        verdict = compare.verdict_of(recipe, compare.engines_of(number))
        counts.update(verdict.counts)
        assert not verdict.failures, explained(number, recipe, verdict)
    assert counts["calls"] >= 2 * CELLS


@st.composite
def recipes(draw):
    """Draw cells and their calls: Hypothesis finds the smallest one that fails."""
    return cells.drawn(Choices(lambda n: draw(st.integers(0, n - 1))), compare.HOST)


@hypothesis.settings(
    max_examples=CELLS,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(recipes())
def test_auto_computes_what_the_loop_computes(recipe):
    verdict = compare.verdict_of(recipe, ("auto",))
    hypothesis.note(recipe.text())
    assert not verdict.failures, "\n".join(map(str, verdict.failures))


def found(flavour, most, engines=("auto",)):
    """Return the first failure among `most` cells of a flavour."""
    for number in range(most):
        recipe = cells.drawn(Choices.numbered(SEED, number), compare.HOST, flavour)
        failures = compare.verdict_of(recipe, engines).failures
        if failures:
            return failures[0]
    return None


@pytest.mark.skipif(compare.BACKEND == "tensorflow", reason="nothing is kept between calls there")
def test_changes_that_are_not_noticed_are_found(monkeypatch):
    """What was compiled or recorded is used again, whatever was changed since."""
    monkeypatch.setattr("cellkit.cells.watch.Watch.key", lambda self: 0)
    failure = found("attributes", 60)
    assert failure is not None and failure.kind == "difference" and failure.call > 0
