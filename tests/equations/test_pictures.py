"""Drawings and typeset equations: well formed, complete, legible, the same every time."""

import json
import re
import xml.etree.ElementTree as ElementTree
from itertools import combinations
from pathlib import Path

import pytest

from cellkit.equations import draw
from cellkit.equations.analyse import analyse
from cellkit.equations.dataflow import flow_of
from cellkit.equations.declare import declare
from cellkit.equations.parse import parse
from cellkit.equations.typeset import latex, mathml

pytestmark = pytest.mark.one_backend

MANIFEST = Path(__file__).parents[1] / "golden" / "manifest.json"

LIGRU = """
z  = s(W_z @ x + U_z @ h + b_z)          update gate
n  = relu(W_n @ x + U_n @ h + b_n)       candidate
h' = z * h + (1 - z) * n
"""
TWICE = """
u  = U @ h
z  = s(W_z @ x + u)
h' = z * tanh(W_n @ x + u) + p * u
"""


def _texts():
    """Return the texts of the frozen cells that the language can say, by name."""
    found = {"ligru": LIGRU, "a product used twice": TWICE}
    for entry in json.loads(MANIFEST.read_text(encoding="utf-8"))["cells"]:
        text = "\n".join(entry["equation"])
        try:
            analyse(declare(entry["cell"], text))
        except ValueError:
            continue  # prose, which other tests rewrite
        found[entry["cell"]] = text
    return found


TEXTS = _texts()


def test_most_frozen_cells_are_drawn():
    assert len(TEXTS) >= 17


def _analysis(name):
    return analyse(declare("Cell", TEXTS[name]))


@pytest.mark.parametrize("name", TEXTS)
def test_a_drawing_is_whole(name):
    analysis = _analysis(name)
    image = draw.svg(analysis)
    root = ElementTree.fromstring(image)
    shown = "".join(root.itertext())
    for weight in analysis.parameters.values():
        base, *index = weight.name.split("_")
        assert draw.GREEK.get(base, base) in shown, weight.name
        assert all(draw.GREEK.get(part, part) in shown for part in index), weight.name
    assert image == draw.svg(_analysis(name))


@pytest.mark.parametrize("name", TEXTS)
def test_nothing_covers_anything_and_lines_run_forwards(name):
    drawing = draw._Drawing(flow_of(_analysis(name)))
    spots = [spot for spot in drawing.spots if spot.element >= 0]
    assert len(spots) == len(drawing.flow.elements)
    for a, b in combinations(spots, 2):
        beside = a.x + a.width <= b.x or b.x + b.width <= a.x
        above = a.y + a.height / 2 <= b.y - b.height / 2 + 1e-6
        below = b.y + b.height / 2 <= a.y - a.height / 2 + 1e-6
        assert beside or above or below, (drawing.flow.elements[a.element], b)
    for spot in spots:
        assert 0 <= spot.x and spot.x + spot.width <= drawing.width
        assert drawing.top <= spot.y - spot.height / 2
        assert spot.y + spot.height / 2 <= drawing.top + drawing.height
    for line in drawing.flow.lines:
        assert drawing.spots[line.source].column < drawing.spots[line.target].column


def test_a_gate_is_one_element_with_its_matrices_and_its_bias():
    flow = flow_of(_analysis("ligru"))
    gates = {e.name: e for e in flow.elements if e.kind == "gate"}
    assert {name: (gate.text, gate.note) for name, gate in gates.items()} == {
        "z": ("σ", "b_z"),
        "n": ("relu", "b_n"),
    }
    z = flow.elements.index(gates["z"])
    into = {(flow.elements[i.source].text, i.label) for i in flow.lines if i.target == z}
    assert into == {("x", "W_z"), ("h", "U_z")}
    assert [e.text for e in flow.elements if e.kind == "new"] == ["h'"]


def test_latex_says_what_the_text_says():
    assert latex(parse(LIGRU)).splitlines() == [
        r"\begin{aligned}",
        r"  z &= \sigma \left( W_{z} x + U_{z} h + b_{z} \right) && \text{update gate} \\",
        r"  n &= \mathrm{relu} \left( W_{n} x + U_{n} h + b_{n} \right) && \text{candidate} \\",
        r"  h^{\prime} &= z \odot h + \left( 1 - z \right) \odot n",
        r"\end{aligned}",
    ]


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("h' = W @ (-x) + h", r"W \left( - x \right) + h"),
        ("h' = (a - (x - h)) / (1 + abs(b))", r"\frac{a - \left( x - h \right)}{1 + \left| b"),
        ("h' = (x * h)^2", r"\left( x \odot h \right)^{2}"),
        ("h' = 0.5 * (x + h)", r"0.5  \left( x + h \right)"),
        ("h' = sqrt(x) if x > 0 and h != 1 else h", r"\begin{cases} \sqrt{x} & \text{if}"),
        ("h' = alpha * x + beta_z * h", r"\alpha \odot x + \beta_{z} \odot h"),
        ("h' = W @ [x; h]", r"W \left[ x ; h \right]"),
    ],
)
def test_brackets_fractions_and_letters(text, printed):
    assert re.sub(r" +", " ", printed) in re.sub(r" +", " ", latex(parse(text)))


@pytest.mark.parametrize("name", TEXTS)
def test_mathml_is_well_formed_and_complete(name):
    text = parse(TEXTS[name])
    root = ElementTree.fromstring(mathml(text))
    assert root.tag.endswith("math")
    rows = [e for e in root[0] if e.tag.endswith("mtr")]
    assert len(rows) == len([line for line in latex(text).splitlines()[1:-1] if line.strip()])
    assert all("".join(row.itertext()).strip() for row in rows)
