"""The generator reaches what it promises, and draws a cell again from its seed and number."""

import collections

import numpy as np
import pytest

from . import cells, compare, grammar, parts
from .choices import Choices, shrunk

pytestmark = pytest.mark.one_backend


def drawn(number, host=True, seed=3):
    return cells.drawn(Choices.numbered(seed, number), host)


def test_a_cell_is_drawn_again_from_its_seed_and_number():
    texts = [drawn(n).text() for n in range(30)]
    assert texts == [drawn(n).text() for n in range(30)]
    assert len(set(texts)) > 25
    assert drawn(4, seed=4).text() != drawn(4).text()


def test_a_cell_is_drawn_again_from_its_choices():
    recipe = drawn(5)
    assert cells.drawn(Choices.replayed(recipe.choices)).text() == recipe.text()


def test_nearly_every_rule_is_reached():
    recipes = [drawn(n) for n in range(800)]
    text = "\n".join(r.source for r in recipes)
    for table in (parts.PARTS, parts.EFFECTS):
        assert not [name for name in table if name not in text]
    rules = {*grammar.UNARY, *grammar.BINARY, *grammar.ACROSS, *grammar.HOST}
    rules |= {e for expressions in grammar.SHAPED.values() for e in expressions}
    rules |= {e for part in (*parts.PARTS.values(), *parts.EFFECTS.values()) for e in part.uses}
    missing = rules.difference(*(r.rules for r in recipes))
    assert len(missing) < len(rules) / 10  # operations that round to float32 are rare


def test_every_option_is_reached():
    recipes = [drawn(n) for n in range(400)]
    tags = collections.Counter(tag for r in recipes for tag in r.tags)
    kinds = {f"kind {k}" for k in cells.KINDS} | set(grammar.FLAVOURS) | {"random"}
    assert not kinds - tags.keys()
    options = {name for r in recipes for name in r.options}
    assert options >= {"stateful", "remat", "truncate_gradient", "unroll", "go_backwards"}
    calls = [call for r in recipes for call in r.calls]
    assert {c.mask for c in calls} == set(cells.MASKS)
    assert {c.shape for c in calls} == set(cells.SHAPES)
    assert {c.resets for c in calls} == set(cells.RESETS)
    for field in ("lengths", "states", "training", "gradient"):
        assert {getattr(c, field) for c in calls} == {True, False}
    assert sum(c.change is not None for c in calls) > 200


def test_no_value_reaches_python_where_loops_are_compiled():
    rules = set().union(*(drawn(n, host=False).rules for n in range(300)))
    assert not rules & set(grammar.HOST)
    assert not rules & {e for effect in parts.EFFECTS.values() for e in effect.uses}


def test_shrinking_keeps_what_fails_and_leaves_out_the_rest():
    made = Choices.numbered(3, 0)
    for _ in range(50):
        made.below(100)
    small = shrunk(made.made, lambda choices: any(c > 60 for c in choices))
    assert small == [61]


def test_distances_of_arrays():
    x = np.array([1.0, np.nan, -np.inf])
    assert compare.distance(x, x.copy()) == 0
    assert compare.distance(x, np.array([1.0, np.nan, np.inf])) == np.inf
    assert compare.distance(x, np.array([1.0, 0.0, -np.inf])) == np.inf
    assert compare.distance(x, x.astype("float32")) == np.inf
    assert compare.distance(x, x[:2]) == np.inf
    assert compare.distance(np.array([100.0]), np.array([101.0])) == pytest.approx(0.01)
    assert compare.distance(np.array([1]), np.array([3])) == 2
    assert compare.distance(None, np.zeros(2)) == 0
    assert compare.distance(None, np.ones(2)) == 1
    assert compare.distance(np.ones(2), None) == 1
