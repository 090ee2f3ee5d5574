"""The oracle, against numbers worked out by hand and against its own definition."""

from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit_conformance.examples.drawing import examples
from cellkit_conformance.examples.strategies import MASKS, Space, edges
from cellkit_conformance.subject import oracle
from cellkit_conformance.trees import leaves, map_trees

pytestmark = pytest.mark.one_backend


def adder(x, states):
    """Output is ten times the new sum, so that an output is never mistaken for a state."""
    total = states[0] + x
    return 10 * total, [total]


def column(*values):
    return np.array(values, dtype=float).reshape(1, -1, 1)


def test_sum_by_hand():
    run = oracle.run(adder, column(1, 2, 3), [np.full((1, 1), 100.0)])
    assert run.sequence.ravel().tolist() == [1010, 1030, 1060]
    assert run.last.item() == 1060
    assert run.states[0].item() == 106
    assert [states[0].item() for states in run.history] == [101, 103, 106]


def test_backwards_gives_outputs_in_the_order_processed():
    run = oracle.run(adder, column(1, 2, 3), [np.zeros((1, 1))], go_backwards=True)
    assert run.sequence.ravel().tolist() == [30, 50, 60]


def test_masked_steps_repeat_the_output_and_keep_the_state():
    x = column(1, 2, 4, 8, 16)
    mask = np.array([[False, True, False, True, False]])
    run = oracle.run(adder, x, [np.full((1, 1), 5.0)], mask=mask)
    assert run.sequence.ravel().tolist() == [0, 70, 70, 150, 150]
    assert run.last.item() == 150
    assert run.states[0].item() == 15
    assert [states[0].item() for states in run.history] == [5, 7, 7, 15, 15]


def test_backwards_reads_the_mask_with_the_inputs():
    mask = np.array([[True, True, False]])
    run = oracle.run(adder, column(1, 2, 4), [np.zeros((1, 1))], mask=mask, go_backwards=True)
    assert run.sequence.ravel().tolist() == [0, 20, 30]


def test_zero_output_touches_the_emitted_sequence_only():
    mask = np.array([[True, False, True, False]])
    options = {"mask": mask, "zero_output_for_mask": True}
    run = oracle.run(adder, column(1, 2, 4, 8), [np.zeros((1, 1))], **options)
    assert run.sequence.ravel().tolist() == [10, 0, 50, 0]
    assert run.result(return_sequences=False).item() == 50


def test_rows_are_masked_apart():
    x = np.array([[[1.0], [2.0]], [[4.0], [8.0]]])
    mask = np.array([[True, False], [False, False]])
    run = oracle.run(adder, x, [np.array([[0.0], [7.0]])], mask=mask)
    assert run.sequence[:, :, 0].tolist() == [[10, 10], [0, 0]]
    assert run.states[0].ravel().tolist() == [1, 7]


def test_nan_at_a_masked_step_reaches_nothing():
    run = oracle.run(
        adder, column(1, np.nan, 2), [np.zeros((1, 1))], mask=np.array([[1, 0, 1]], dtype=bool)
    )
    assert run.sequence.ravel().tolist() == [10, 10, 30]


def test_no_steps_and_no_rows():
    empty = oracle.run(adder, np.zeros((2, 0, 1)), [np.ones((2, 1))])
    assert empty.sequence.shape == (2, 0, 1)
    assert empty.last.tolist() == [[0], [0]]
    assert empty.states[0].tolist() == [[1], [1]]
    assert empty.history == ()
    none = oracle.run(adder, np.zeros((0, 3, 1)), [np.ones((0, 1))])
    assert none.sequence.shape == (0, 3, 1)


Pair = namedtuple("Pair", "low high")


def nested(x, states):
    """Nested inputs, outputs and states; an int32 counter, a flag and a matrix."""
    matrix = states["matrix"] + x["image"]
    count = states["rest"].low + 1
    flag = ~states["rest"].high
    output = {"sum": matrix.sum((1, 2))[:, None] + x["word"][0], "flag": flag}
    return output, {"rest": Pair(count, flag), "matrix": matrix}


def test_any_structure_rank_and_dtype():
    inputs = {"image": np.ones((2, 3, 2, 2)), "word": [np.ones((2, 3, 1))]}
    states = {
        "matrix": np.zeros((2, 2, 2)),
        "rest": Pair(np.zeros((2, 1), np.int32), np.zeros((2, 1), bool)),
    }
    mask = np.array([[True, False, True], [False, False, False]])
    run = oracle.run(nested, inputs, states, mask=mask)
    assert run.sequence["sum"][:, :, 0].tolist() == [[5, 5, 9], [0, 0, 0]]
    assert run.sequence["flag"][0, :, 0].tolist() == [True, True, False]
    assert isinstance(run.states["rest"], Pair)
    assert run.states["rest"].low.dtype == np.int32
    assert run.states["rest"].low.ravel().tolist() == [2, 0]
    assert run.states["matrix"][:, 0, 0].tolist() == [2, 0]


def test_floats_are_computed_in_double_and_complex_stays_complex():
    def rotate(x, states):
        state = states[0] * 1j + x
        return state.real, [state]

    run = oracle.run(rotate, np.ones((1, 2, 1), np.float32), [np.ones((1, 1), np.complex64)])
    assert run.states[0].dtype == np.complex128
    assert run.sequence.ravel().tolist() == [1, 0]
    assert oracle.run(adder, np.ones((1, 1, 1), np.float32), [np.zeros((1, 1))]).last.dtype == float


def test_masks_in_every_accepted_form():
    keep = np.array([[1, 0], [1, 1]])
    want = keep.astype(bool)
    for mask in (keep, keep.astype(bool), keep[:, :, None], keep.tolist(), keep.astype("float32")):
        assert oracle.combine_masks(np.asarray(mask), 2, 2).tolist() == want.tolist()
    both = {"a": keep, "b": np.array([[1, 1], [0, 1]]), "c": None}
    assert oracle.combine_masks(both, 2, 2).tolist() == [[True, False], [False, True]]
    assert oracle.combine_masks(None, 1, 2).tolist() == [[True, True]]


@pytest.mark.parametrize("shape", [(2, 3), (1, 2), (2,), (2, 2, 4), (3, 2)])
def test_masks_that_do_not_fit(shape):
    with pytest.raises(ValueError, match="expected"):
        oracle.combine_masks(np.ones(shape), 2, 2)


def test_a_step_that_changes_shape_is_an_error():
    with pytest.raises(ValueError, match="changed a shape"):
        oracle.run(lambda x, s: (x, [s[0][:, :1]]), np.ones((2, 2, 1)), [np.ones((2, 3))])
    with pytest.raises(ValueError, match="disagree"):
        oracle.run(adder, [np.ones((2, 2, 1)), np.ones((2, 3, 1))], [np.ones((2, 1))])


def same(got, want):
    """Equal but for the order in which BLAS sums, which depends on the number of rows."""
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


def leaky(x, states):
    h = np.tanh(0.7 * states[0] + x @ np.array([[0.3, -0.5], [0.2, 0.9]]))
    return h * [2.0, 3.0], [h]


@settings(max_examples=150, deadline=None)
@given(examples(Space(shapes=[(3, 5), (1, 4)], masks=MASKS)), st.booleans())
def test_a_row_equals_its_unmasked_steps_alone(example, backwards):
    rng = np.random.default_rng(example.seed)
    x = rng.standard_normal((example.batch, example.time, 2))
    h = rng.standard_normal((example.batch, 2))
    mask = example.mask_array()
    run = oracle.run(leaky, x, [h], mask=mask, go_backwards=backwards)
    for row in range(example.batch):
        keep = np.ones(example.time, bool) if mask is None else mask[row]
        alone = oracle.run(
            leaky, oracle.compact(x[row], keep)[None], [h[row : row + 1]], go_backwards=backwards
        )
        order = keep[::-1] if backwards else keep
        same(run.sequence[row][order], alone.sequence[0])
        same(run.last[row], alone.last[0])
        same(run.states[0][row], alone.states[0][0])


@settings(max_examples=60, deadline=None)
@given(examples(Space(masks=MASKS)), st.integers(0, 5))
def test_chunks_equal_one_run(example, cut):
    rng = np.random.default_rng(example.seed)
    x, h = rng.standard_normal((3, 5, 2)), [rng.standard_normal((3, 2))]
    mask = example.mask_array()
    whole = oracle.run(leaky, x, h, mask=mask)
    parts = [
        (x[:, part], None if mask is None else mask[:, part])
        for part in (slice(0, cut), slice(cut, 5))
    ]
    runs = oracle.run_chunks(leaky, parts, h)
    np.testing.assert_array_equal(runs[-1].states[0], whole.states[0])
    if mask is None:
        joined = np.concatenate([run.sequence for run in runs], axis=1)
        np.testing.assert_array_equal(joined, whole.sequence)


def test_inputs_are_left_alone():
    inputs, states = np.ones((1, 2, 1)), [np.zeros((1, 1))]
    before = map_trees(np.copy, [inputs, states])
    oracle.run(adder, inputs, states, mask=np.zeros((1, 2), bool))
    for a, b in zip(leaves([inputs, states]), leaves(before), strict=True):
        np.testing.assert_array_equal(a, b)


def test_edges_reach_everything_they_name():
    space = Space(masks=MASKS, options=[{"unroll": True}, {"unroll": False}], splits=[(2, 3)])
    found = edges(space, 3)
    assert {example.kind for example in found} == set(MASKS)
    assert {example.options["unroll"] for example in found} == {True, False}
    assert {example.initial_state for example in found} == {True, False}
