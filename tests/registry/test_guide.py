"""Guides to cells: families, sentences and tags, checked, and there for every own cell."""

import dataclasses

import keras
import pytest
from three_parts import parts

import cellkit
from cellkit import Guide, _distribution, facts
from cellkit.registry import FAMILIES, TAGS, registry

pytestmark = pytest.mark.one_backend

SENTENCE = "Use it when memory is short."
OWN = sorted(
    name
    for name, found in registry.declarations().items()
    if _distribution.is_own(found[0].distribution)
)


def test_tags_are_known_sorted_and_told_once():
    guide = Guide("GRU", SENTENCE, ["my_lab:b", "long-memory", "Tiny", "long memory", "my_lab:a"])
    assert guide == Guide("gru", SENTENCE, ("tiny", "long memory", "my_lab:b", "my_lab:a"))


@pytest.mark.parametrize(
    ("arguments", "received", "fix"),
    [
        (("grus", SENTENCE), "'grus'", "did you mean 'gru'"),
        ((None, SENTENCE), "None", "one of the known families"),
        (("gru", SENTENCE, ("spkin",)), "'spkin'", "did you mean 'spiking'"),
        (("gru", SENTENCE, (3,)), "3", "one of the known tags"),
        (("gru", SENTENCE, "tiny"), "tags='tiny'", "tags=('long memory',)"),
        (("gru", SENTENCE, None), "tags=None", "tags=('long memory',)"),
        (("gru", "For short memory."), "For short memory.", "use_when='Use it when"),
        (("gru", "Use it when memory is short"), "short'", "use_when='Use it when"),
        (("gru", "Use it when\nlines break."), "break", "use_when='Use it when"),
        (("gru", "Use it when it trails off..."), "...", "use_when='Use it when"),
        (("gru", None), "use_when=None", "use_when='Use it when"),
    ],
)
def test_a_guide_is_checked(arguments, received, fix):
    with pytest.raises(ValueError) as raised:
        Guide(*arguments)
    found = parts(str(raised.value))
    assert received in found[1] and fix in found[3]


def test_a_spec_takes_a_guide_alone():
    spec = cellkit.get("lstm").spec
    assert dataclasses.replace(spec, guide=None).guide is None
    with pytest.raises(ValueError) as raised:
        dataclasses.replace(spec, guide="gru")
    _, received, expected, fix = parts(str(raised.value))
    assert received == "guide='gru'" and "cellkit.Guide" in expected and "guide=Guide(" in fix


def test_define_takes_a_guide():
    guide = Guide("plain", SENTENCE, ("tiny",))
    made = cellkit.define(
        "GuidedCell", "h' = tanh(W @ x + U @ h + b)", package="my_guides", guide=guide
    )
    assert made.spec.guide is guide


@pytest.mark.parametrize("name", OWN)
def test_every_cell_says_when_to_use_it(name):
    spec, there = cellkit.get(name).spec, facts.read(name)
    guide = spec.guide
    assert guide is not None, "give the spec of the cell a cellkit.Guide"
    assert (there["family"], there["use_when"]) == (guide.family, guide.use_when)
    assert guide.family in FAMILIES and set(guide.tags) <= set(TAGS)
    # The tags also say what can be read off the rest of the spec.
    parallel = "parallel" in guide.tags
    assert parallel or "linear" not in spec.traits
    assert (
        not parallel
        or "linear" in spec.traits
        or issubclass(cellkit.get(name).cls, cellkit.MatrixCell)
    )
    structured = len(keras.tree.flatten_with_path(_leaves(spec.inputs))) > 1
    if "several inputs" in guide.tags or guide.family == "several inputs":
        assert structured
    if structured:
        assert {"several inputs", "irregular time", "static inputs"} & set(guide.tags)


def _leaves(inputs):
    """Return a structure of shapes with each shape as one leaf."""
    if isinstance(inputs, dict):
        return {key: _leaves(value) for key, value in inputs.items()}
    if all(isinstance(size, (int, str)) for size in inputs):
        return 0
    return [_leaves(value) for value in inputs]


def test_sentences_are_their_own():
    said = [facts.read(name)["use_when"] for name in OWN]
    assert len(set(said)) == len(said) == len(OWN) > 60
