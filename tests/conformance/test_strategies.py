"""The strategies reach their edges, and draw what they say."""

import hypothesis
import numpy as np
import pytest

from cellkit_conformance.examples.drawing import examples, masks
from cellkit_conformance.examples.strategies import (
    EVERY,
    MASKS,
    MIXED,
    PADDED,
    VALUES,
    Example,
    Space,
    draw_values,
    edges,
    sample,
)
from cellkit_conformance.subject.draws import random_weight

pytestmark = pytest.mark.one_backend

QUIET = hypothesis.settings(database=None, deadline=None, max_examples=2000)

SHAPES = {
    "right": lambda m: m[:, 0].all() and not m[:, -1].all(),
    "left": lambda m: m[:, -1].all() and not m[:, 0].all(),
    "interior": lambda m: m[:, 0].all() and m[:, -1].all() and not m.all(),
    "alternating": lambda m: (m[:, 1:] != m[:, :-1]).all(),
    "one_row_masked": lambda m: (~m.any(axis=1)).sum() == 1 and m.all(axis=1).sum() == len(m) - 1,
    "all_masked": lambda m: not m.any(),
    "all_true": lambda m: m.all(),
    "any": lambda m: True,
}


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_a_kind_of_mask_is_what_its_name_says(kind):
    @hypothesis.settings(QUIET, max_examples=100)
    @hypothesis.given(masks(kind, 3, 5))
    def drawn(mask):
        assert SHAPES[kind](np.array(mask)), mask

    drawn()
    for seed in range(20):
        (example,) = [e for e in edges(Space(masks=[kind], weight_sets=1), seed)][:1]
        assert SHAPES[kind](example.mask_array())


@pytest.mark.parametrize(
    "reached",
    [
        lambda e: e.kind == "none" and e.mask is None,
        lambda e: e.kind == "any" and not any(e.mask[0]),
        lambda e: e.kind == "any" and all(e.mask[0]),
        lambda e: e.kind == "right" and min(map(sum, e.mask)) == 1,
        lambda e: e.kind == "right" and max(map(sum, e.mask)) == 4,
        lambda e: e.kind == "left" and len(set(e.mask)) == 3,
        lambda e: e.kind == "interior" and any(sum(row) == 2 for row in e.mask),
        lambda e: e.kind == "one_row_masked" and e.batch == 3 and not any(e.mask[2]),
        lambda e: e.initial_state and e.options.get("unroll") and e.weights == 2,
        lambda e: e.values == "sparse" and e.split == (3, 2),
        lambda e: (e.batch, e.time) == (1, 1),
        lambda e: e.seed > 60000,
    ],
)
def test_the_strategy_reaches(reached):
    space = Space(
        shapes=[(3, 5), (1, 1)],
        masks=MASKS,
        options=[{}, {"unroll": True}],
        splits=[(2, 3), (3, 2)],
    )
    hypothesis.find(examples(space), reached, settings=QUIET)


@pytest.mark.parametrize("kind", PADDED)
def test_edges_meet_every_kind_of_mask_and_set_of_options(kind):
    options = [{"return_sequences": True}, {"go_backwards": True}, {"unroll": True}]
    found = edges(Space(shapes=[(3, 3)], masks=PADDED, options=options), 5)
    assert kind in {example.kind for example in found}
    assert {tuple(example.options) for example in found} == {tuple(o) for o in options}


def test_three_kinds_of_masks_hold_all_masks_of_three_steps():
    found = edges(Space(shapes=[(3, 3)], masks=EVERY, weight_sets=1))
    rows = {row for example in found for row in example.mask}
    assert len(found) == 3 and len(rows) == 8
    drawn = hypothesis.find(masks("every_2", 3, 3), lambda mask: True)
    assert drawn == next(example.mask for example in found if example.kind == "every_2")


def test_rows_of_a_mixed_mask_are_of_other_kinds():
    for kind, kinds in MIXED.items():
        (example,) = edges(Space(shapes=[(3, 5)], masks=[kind], weight_sets=1))[:1]
        drawn = hypothesis.find(masks(kind, 3, 5), lambda mask: True)
        for mask in (example.mask, drawn):
            assert len(mask) == 3
            for one, row in zip(kinds, mask, strict=True):
                assert SHAPES[one](np.array([row])), (one, row)


def test_edges_and_drawing_are_deterministic():
    space = Space(masks=MASKS)
    assert edges(space, 1) == edges(space, 1)
    assert edges(space, 1) != edges(space, 2)


def test_samples_are_of_the_space_and_differ():
    space = Space(shapes=[(3, 5), (2, 4)], masks=MASKS, options=[{}, {"unroll": True}])
    found = sample(space, 200, 3)
    assert found == sample(space, 200, 3) != sample(space, 200, 4)
    assert {example.kind for example in found} == set(MASKS)
    assert {(example.batch, example.time) for example in found} == {(3, 5), (2, 4)}
    assert {example.weights for example in found} == {0, 1, 2}
    assert {example.values for example in found} == set(VALUES)
    assert {example.initial_state for example in found} == {False, True}
    assert len({example.seed for example in found}) > 190
    for example in found:
        mask = example.mask_array()
        assert mask is None or mask.shape == (example.batch, example.time)
        assert example.batch < 3 or example.kind == "none" or SHAPES[example.kind](mask)


def test_values_are_hostile():
    rng = np.random.default_rng(0)
    drawn = {kind: draw_values(kind, (40, 40), rng) for kind in VALUES}
    assert all(values.dtype == np.float32 for values in drawn.values())
    assert len(np.unique(drawn["normal"])) > 1000
    assert 0 < np.abs(drawn["small"]).max() < 0.01
    assert 0.5 < (drawn["sparse"] == 0).mean() < 0.9
    assert set(np.unique(drawn["signs"])) == {-1.0, 1.0}


def test_an_example_describes_itself_shortly():
    example = Example(2, 3, seed=4, mask=((True, False, True), (False,) * 3), kind="any")
    assert example.describe() == {
        "batch": 2,
        "time": 3,
        "values": "normal",
        "seed": 4,
        "weights": 0,
        "initial_state": False,
        "mask": ["101", "000"],
        "kind": "any",
    }


@pytest.mark.parametrize("start", [1.0, 0.5, 0.1, 1e-3, -0.1, -1.0])
def test_a_weight_that_starts_with_a_sign_keeps_it_and_stays_away_from_zero(start):
    drawn = random_weight(np.full((40,), start, "float32"), np.random.default_rng(0), 1.0)
    assert (np.sign(drawn) == np.sign(start)).all()
    assert (np.abs(drawn) >= 0.2 * abs(start)).all() and np.ptp(drawn) > 0.4


def test_a_weight_that_starts_at_zero_gets_both_signs():
    drawn = random_weight(np.zeros((40,), "float32"), np.random.default_rng(0), 1.0)
    assert drawn.min() < -0.2 and drawn.max() > 0.2
