"""Texts of equations as trees, and what is said of texts that are none."""

import contextlib
import time

import pytest
from three_parts import parts

from cellkit.equations.parse import parse
from cellkit.equations.syntax import Definition, Function, Guard, Repeat, Variant

pytestmark = pytest.mark.one_backend


def targets(text):
    return [
        str(target)
        for statement in parse(text).statements
        if isinstance(statement, Definition)
        for target in statement.targets
    ]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("z = x\nh' = z", ["z", "h'"]),
        ("z = x; h' = z", ["z", "h'"]),
        ("z = x, h' = z", ["z", "h'"]),
        ("a0=s(x) a1=relu(x) h'=a0*a1", ["a0", "a1", "h'"]),
        ("i, f, o = s(W @ x + U @ h + b)", ["i", "f", "o"]),
        ("z  = s(x)          update gate", ["z"]),
        ("h' = x  # c' = x", ["h'"]),
        ("h' = x  or the like\nc' = x   if it is open", ["h'", "c'"]),
        ("h' = x  if x > 1 else h", ["h'"]),
        ("c~ = x\nh' = c~", ["c~", "h'"]),
        ("z = x *\n  (1 - x)\nh' = z\n   + x", ["z", "h'"]),
        ("h' = [x;\n  h]", ["h'"]),
        ("    z = x\n    h' = z", ["z", "h'"]),
        ("z = x\n    h' = z", ["z", "h'"]),
    ],
)
def test_definitions_of_a_text(text, names):
    assert targets(text) == names


def test_remarks_are_kept_beside_their_definitions():
    first, second = parse('z = s(x)   update gate = "it"\nh\' = z  # new').statements
    assert (first.remark, second.remark) == ('update gate = "it"', "new")


def test_operators_bind_as_in_arithmetic():
    same = [
        ("h' = a + b * W @ x ^ 2", "h' = a + (b * (W @ (x ^ 2)))"),
        ("h' = -x ** 2", "h' = -(x ^ 2)"),
        ("h' = a - b - c", "h' = (a - b) - c"),
        ("h' = a ^ b ^ c", "h' = a ^ (b ^ c)"),
        ("h' = A @ B @ x", "h' = A @ (B @ x)"),
        ("h' = a if x > 1 else b if x > 0 else c", "h' = a if x > 1 else (b if x > 0 else c)"),
        ("h' = t - a mod b", "h' = t - (a % b)"),
        ("h' = where(not a > b and c < d, x, y)", "h' = where((not (a > b)) and (c < d), x, y)"),
    ]
    for one, other in same:
        assert parse(one) == parse(other)


def test_families_are_for_all_definitions_of_a_line():
    tree = parse("x_k = W_k @ x;  m_k = U_k @ h, k = 0..7\nh' = x_0")
    assert [s.family and (s.family.first, s.family.last) for s in tree.statements] == [
        (0, 7),
        (0, 7),
        None,
    ]


def test_functions_variants_and_repetitions():
    tree = parse(
        """
        norm(v) = v / sqrt(var(v) + epsilon)
        form="paper":   the form of the paper
            z = norm(x)
            repeat 3 times:
                z := z * z
        form="other": z = x
        for k = 1..rounds: odd k: x := 2 * x;  even k: h := h * x
        n = x with reset_after=True
        h' = z + n
        """
    )
    function, paper, other, repeat, reset, _ = tree.statements
    assert isinstance(function, Function) and function.arguments == ("v",)
    assert isinstance(paper, Variant) and isinstance(paper.body[1], Repeat)
    assert isinstance(other, Variant) and other.value == "other"
    assert (repeat.index, repeat.first, repeat.last) == ("k", 1, "rounds")
    assert all(isinstance(s, Guard) for s in repeat.body)
    assert (reset.option, reset.value) == ("reset_after", True)
    assert tree.options == {"form": ("paper", "other"), "reset_after": (True,)}


WRONG = {
    "attribute": ("h' = x.shape", 1, 6),
    "import": ("z = x\nh' = __import__('os')", 2, 16),
    "text": ('h\' = f("a")', 1, 7),
    "open bracket": ("h' = s(W @ x", 1, 6),
    "closed bracket": ("h' = x)", 1, 6),
    "two things": ("h' = a b", 1, 7),
    "two primes": ("h'' = x", 1, 0),
    "nothing after an operator": ("h' = x +", 1, 8),
    "operator after an operator": ("h' = x * / x", 1, 9),
    "no definition": ("z = x\nthen the rest\nh' = z", 2, 0),
    "no else": ("h' = x if x > 1", 1, 15),
    "two comparisons": ("h' = x < y < z", 1, 11),
    "number too large": ("h' = 1e999 * x", 1, 5),
    "number and name": ("h' = 2j", 1, 5),
    "indicator of a two": ("h' = 2[x > 0]", 1, 5),
    "keyword": ("if = x", 1, 0),
    "lambda": ("h' = lambda x: x", 1, 12),
    "empty block": ("h' = x\na=True:", 2, 0),
    "indented": ("z = x\n\n  h' = z\n\nq = x", 3, 2),
    "empty": ("", 1, 0),
    "remark alone": ("# nothing", 1, 0),
    "primed argument": ("f(v') = v\nh' = f(x)", 1, 2),
    "argument twice": ("f(v, v) = v\nh' = f(x)", 1, 5),
    "state called": ("h' = c'(x)", 1, 5),
    "assignment in a bracket": ("h' = (z = x)", 1, 8),
    "deep brackets": ("h' = " + "(" * 500 + "x", 1, 45),
    "deep signs": ("h' = " + "-" * 500 + "x", 1, 45),
    "deep powers": ("h' = " + "2^" * 500 + "x", 1, 85),
    "long sum": ("h' = x" + "+x" * 500, 1, 204),
    "long text": ("h' = x  " + "a" * 100_000, 1, 20_000),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_texts_show_the_place(case):
    text, line, column = WRONG[case]
    with pytest.raises(ValueError) as caught:
        parse(text)
    parts(caught.value)
    shown = str(caught.value).split("\n")
    at = next(i for i, row in enumerate(shown) if row.startswith("  Received: line"))
    assert shown[at] == f"  Received: line {line}"
    caret = shown[at + 2].index("^") - 4
    source = text.split("\n")[line - 1]
    cut = max(0, column - 45) if len(source) > 90 else 0
    assert caret == column - cut + 3 * (cut > 0)


@pytest.mark.parametrize(
    "text",
    [
        "x " * 50_000,
        "a, " * 40_000,
        "[" * 100_000,
        "h' = " + "x+" * 9_000,
        "with own " + "and" * 6000,
    ]
    + ["h' = x  with own a" + "and" * 5000, "odd " * 5000, "\n" * 100_000, "' = " * 5000],
)
def test_every_text_is_answered_quickly(text):
    start = time.perf_counter()
    with contextlib.suppress(ValueError):
        parse(text)
    assert time.perf_counter() - start < 2.0


def test_equations_are_a_text():
    with pytest.raises(ValueError) as caught:
        parse(["h' = x"])
    parts(caught.value)
