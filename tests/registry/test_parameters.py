"""The number of a cell's parameters, as a formula that holds for other sizes too."""

import re

import keras
import pytest

import cellkit
from cellkit import _outline, _parameters, facts
from cellkit.equations.parse import parse

pytestmark = pytest.mark.one_backend


def value(text, sizes):
    """Evaluate a formula as it is written."""
    total = 0
    for sign, term in re.findall(r"([+-]?) ?([^+-]+)", text):
        product = 1
        for factor in term.split():
            name, _, power = factor.partition("^")
            if "/" in name:
                top, bottom = map(int, name.split("/"))
                product = product * top / bottom
            else:
                product *= (int(name) if name.isdigit() else sizes[name]) ** int(power or 1)
        total += -product if sign == "-" else product
    return total


@pytest.mark.parametrize(
    ("name", "options", "features"),
    [
        ("lstm", {}, 11),
        ("gru", {}, 2),
        ("lstmp", {"projection_units": 5}, 11),
        ("clockwork", {"periods": (1, 2, 4, 8)}, 3),
        ("fastgrnn", {}, 9),
        ("s5", {"dt": 1.0}, 9),
        ("lru", {}, 9),
    ],
)
def test_the_formula_counts_cells_of_other_sizes(name, options, features):
    found = _parameters.formula(cellkit.get(name))
    cell = cellkit.create(name, units=16, **options)
    cellkit.RNN(cell).build((None, None, features))
    sizes = {"units": 16, "features": features, **options}
    given = {letter: sizes[size] for letter, size in found["letters"].items()}
    if found["held"] is None:
        assert value(found["formula"], given) == cell.count_params()
    else:
        assert not set(found["held"]) & set(found["letters"].values())


@pytest.mark.parametrize(
    ("name", "held"), [("block_gru", {"blocks": 1}), ("mamba", {"step_rank": 1})]
)
def test_an_argument_that_follows_from_the_units_is_held(name, held):
    found = _parameters.formula(cellkit.get(name))
    assert {key: found["held"][key] for key in held} == {k: repr(v) for k, v in held.items()}
    options = {"state_units": 5} if name == "mamba" else {}
    cell = cellkit.create(name, units=40, **options, **held)
    cellkit.RNN(cell).build((None, None, 9))
    sizes = {"units": 40, "features": 9, **options}
    given = {letter: sizes[size] for letter, size in found["letters"].items()}
    assert value(found["formula"], given) == cell.count_params()


def test_a_formula_with_a_product_of_three_sizes():
    found = _parameters.formula(cellkit.get("mass_conserving_lstm"))
    assert set(found["letters"].values()) == {"units", "masses", "features"}
    cell = cellkit.create("mass_conserving_lstm", units=12)
    cellkit.RNN(cell).build([(None, None, 3), (None, None, 5)])
    sizes = {"units": 12, "masses": 3, "features": 5}
    given = {letter: sizes[size] for letter, size in found["letters"].items()}
    assert value(found["formula"], given) == cell.count_params()


def test_weights_that_are_not_trained_are_told_apart():
    found = _parameters.formula(cellkit.get("esn"))
    assert found["trained"] == "0" != found["formula"]
    assert "trained" not in _parameters.formula(cellkit.get("lstm"))


def test_a_cell_whose_inputs_are_as_wide_as_itself():
    found = _parameters.formula(cellkit.get("intersection_rnn"))
    cell = cellkit.create("intersection_rnn", units=12)
    cellkit.RNN(cell).build((None, None, 12))
    assert value(found["formula"], {"H": 12}) == cell.count_params()


def test_a_map_that_is_there_for_other_widths_alone_is_told():
    assert _parameters.formula(cellkit.get("rg_lru"))["apart"]
    assert "apart" not in _parameters.formula(cellkit.get("gru"))


def test_counts_without_a_polynomial_have_none():
    counts = {(k,): 2**k for k in range(1, 6)}
    assert _parameters._fit(counts) is None
    squares = {(k,): 3 * k * k - k for k in range(1, 6)}
    assert _parameters._written(_parameters._fit(squares), ["H"]) == "3 H^2 - H"


def test_an_outline_shows_what_new_states_are_made_of():
    text = parse(
        """
        n  = tanh(W @ x + U @ (r * h) + b)      candidate
        r  = s(R @ x + b_r)                     reset gate
        h' = n + h
        """
    )
    assert _outline.outline(text, "h'") == [
        (0, "h' = n + h"),
        (1, "n = tanh(W @ x + U @ (r * h) + b)  candidate"),
        (2, "r = s(R @ x + b_r)  reset gate"),
    ]


def test_states_that_nothing_else_needs_are_shown_too():
    text = parse("h' = tanh(W @ x + b)\nc' = h' + c\nk' = k + x")
    assert [line for _, line in _outline.outline(text, "h'")] == [
        "c' = h' + c",
        "h' = tanh(W @ x + b)",
        "k' = k + x",
    ]


def test_bibtex_names_authors_apart():
    entry = cellkit.Paper("Li, Wu, and de Vries", 2020, "On {x}", "doi:10.1/2").bibtex("k")
    assert entry.startswith("@article{k,\n  author = {Li and Wu and de Vries},")
    assert "doi = {10.1/2}" in entry
    other = cellkit.Paper("Cho et al.", 2014, "T", "https://a.b").bibtex("k")
    assert "author = {Cho and others}" in other and "url = {https://a.b}" in other


def test_facts_tell_all_that_a_docstring_says_of_an_argument():
    told = facts.read("gru_d")
    assert told["documented"]["mean"].endswith("right for standardised variables.")
    assert "**kwargs" not in told["arguments"]["units"]
    assert told["signature"].startswith("GRUDCell(units, *, mean=None")
    assert told["shapes"].startswith("Inputs: a dict") and "Example" not in told["shapes"]
    assert not keras.tree.is_nested(told["equations"])
