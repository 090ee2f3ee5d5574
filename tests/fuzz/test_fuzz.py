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
# Number of chunks of cells, and of cells in each. JAX and TensorFlow compile for every cell and
# every engine.
CHUNKS, CELLS = {"torch": (10, 20), "tensorflow": (6, 5), "jax": (4, 4)}[compare.BACKEND]


def explained(number, recipe, verdict):
    failures = "\n".join(map(str, verdict.failures))
    again = f"python tools/fuzz.py --backend {compare.BACKEND} --seed {SEED} --cell {number}"
    return f"{failures}\n\n{recipe.text()}\n\nMade smaller by: {again}"


@pytest.mark.slow
@pytest.mark.part(5)
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
    max_examples=8,
    # Where a cell takes seconds, finding the smallest one would take an hour.
    phases=set(hypothesis.Phase) - ({hypothesis.Phase.shrink} if CELLS < 20 else set()),
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


def found(flavour, most, engines=("auto",), first=0):
    """Return the first failure among the cells of a flavour, up to number `most`."""
    for number in range(first, most):
        recipe = cells.drawn(Choices.numbered(SEED, number), compare.HOST, flavour)
        failures = compare.verdict_of(recipe, engines).failures
        if failures:
            return failures[0]
    return None


@pytest.mark.skipif(compare.BACKEND == "tensorflow", reason="nothing is kept between calls there")
def test_changes_that_are_not_noticed_are_found(monkeypatch):
    """Compiled and recorded steps are used again, whatever was changed since."""
    monkeypatch.setattr("cellkit.cells.watch.Watch.key", lambda self: 0)
    # The 33rd fails on JAX, where each cell before it takes a second or two.
    failure = found("attributes", 90, first=30 if compare.BACKEND == "jax" else 0)
    assert failure is not None and failure.kind == "difference" and failure.call > 0


def blind(self, function, types, args=(), kwargs=None):
    """Let a record be made of values that were read on the host, and of the number of rows."""
    return function(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.skipif(compare.BACKEND != "torch", reason="only there is a step recorded")
@pytest.mark.parametrize("flavour", ["host", "across"])
def test_records_that_cannot_see_are_found(monkeypatch, flavour):
    """A record holds what a step decided for the rows that it was made with."""
    from cellkit.engines.torch import fused

    guard = "cellkit.engines.torch.derive.guard.Guard"
    monkeypatch.setattr(f"{guard}.__torch_function__", blind)
    monkeypatch.setattr(fused, "same", lambda *tapes: True)
    monkeypatch.setattr(fused, "_agrees", lambda *record: True)
    failure = found(flavour, 60)
    assert failure is not None and failure.kind == "difference"


@pytest.mark.skipif(compare.BACKEND != "torch", reason="only there is a step recorded")
def test_effects_of_a_record_are_found(monkeypatch):
    """A step runs once more to be recorded, and then never again."""
    monkeypatch.setattr("cellkit.cells.effects.Undone._put_cell_back", lambda self: None)
    failure = found("effects", 40)
    assert failure is not None and failure.kind in ("difference", "effects")


OUTER = """
class Outer(cellkit.Cell):
    def __init__(self, units=4, **kwargs):
        super().__init__(units, **kwargs)
        self.inner = cellkit.RNN(Fuse(4, dtype=self.dtype_policy), dtype=self.dtype_policy)

    def build(self, input_shape):
        super().build(input_shape)
        self.inner.build((None, 2, 4))
        self.w = self.add_kernel((3, 4), name="w")

    def step(self, inputs, states):
        v = cellkit.cells.matmul(inputs, self.w)
        h = ops.tanh(self.inner(ops.stack([v, -v], axis=1)) + 0.3 * states[0])
        return h, [h]
"""


PROJECTED = """
class Projected(cellkit.Cell):
    def build(self, input_shape):
        super().build(input_shape)
        self.w = self.add_kernel((3, 4), name="w")

    def project(self, inputs):
        return cellkit.cells.matmul(inputs, self.w)

    def step(self, projected, states):
        # No tanh: as the tests compile on JAX, XLA computes it to 8 digits.
        z = projected + 0.3 * states[0]
        h = z / (1 + z * z)
        return h, [h]
"""


def failures_of(source, name, **options):
    """Return the failures of one call with gradients."""
    call = cells.Call((3, 4), 1, "none", False, False, False, True, None)
    maker = f"{name}(4, dtype='float64')"
    recipe = cells.Recipe([], source, maker, "float64", options, [call], [], set(), set(), False)
    return compare.verdict_of(recipe).failures


@pytest.mark.skipif(compare.BACKEND != "torch", reason="only there is a step recorded")
@pytest.mark.parametrize("sequences", [False, True])
def test_a_layer_inside_a_cell(sequences):
    """Its products are not those of the step around it. Not drawn at random yet."""
    assert not failures_of(OUTER, "Outer", return_sequences=sequences)


def test_chunks_of_projected_inputs():
    assert not failures_of(PROJECTED, "Projected", remat=True)
