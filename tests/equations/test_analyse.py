"""Roles, sizes, states and outputs of equations, and what is said of those without sense."""

import pytest
from three_parts import parts

from cellkit.equations.analyse import analyse, check_all
from cellkit.equations.declare import declare

pytestmark = pytest.mark.one_backend


def known(text, **options):
    return check_all(declare("MyCell", text, **options))[0]


def shapes(analysis):
    return {p.name: tuple(map(str, p.shape)) for p in analysis.parameters.values()}


def roles(analysis):
    return {p.name: p.role for p in analysis.parameters.values()}


def test_roles_and_shapes_of_a_gated_cell():
    found = known(
        "z = s(W_z @ x + U_z @ h + b_z)\nh' = z * h + (1 - z) * tanh(W_n @ x + p * h + b_n)"
    )
    assert roles(found) == {
        "W_z": "kernel",
        "U_z": "recurrent_kernel",
        "b_z": "bias",
        "W_n": "kernel",
        "p": "vector",
        "b_n": "bias",
    }
    assert shapes(found)["W_z"] == ("features", "units")
    assert shapes(found)["U_z"] == ("units", "units")
    assert shapes(found)["p"] == ("units",)
    assert (found.states, found.output_name, found.drops) == (("h",), "h'", ("h",))


def test_names_on_the_left_have_weights_of_their_own():
    found = known("i, f = s(W @ x + U @ h + b)\nh' = i * f")
    assert list(found.parameters) == ["W_i", "U_i", "b_i", "W_f", "U_f", "b_f"]
    found = known("i, f = s(W @ x + U @ h + b) with own U and b each\nh' = i * f")
    assert list(found.parameters) == ["W", "U_i", "b_i", "U_f", "b_f"]


def test_a_split_shares_one_weight():
    found = known("i, f = split(W @ x + U @ h + b)\nh' = s(i) * f")
    assert shapes(found) == {
        "W": ("features", "2 * units"),
        "U": ("units", "2 * units"),
        "b": ("2 * units",),
    }
    assert found.parameters["W"].parts == ("i", "f")


def test_sizes_follow_by_unification():
    found = known("h' = P @ (tanh(W @ x + U @ h + b))", sizes={"P": "projection_units"})
    assert shapes(found) == {
        "P": ("units", "projection_units"),
        "W": ("features", "units"),
        "U": ("projection_units", "units"),
        "b": ("units",),
    }
    found = known("u = tanh(W @ [x; h] + b)\nh' = A @ u", sizes={"u": "backbone_units"})
    assert shapes(found)["W"] == ("features + units", "backbone_units")
    found = known("chunk = 2\nm = W_m @ x\nh' = tanh(repeat(m, chunk) + U @ h)")
    assert shapes(found)["W_m"] == ("features", "units / 2")
    assert shapes(known("u' = 0.5 * u + x")) == {}
    assert str(known("u' = 0.5 * u + x").size(known("u' = 0.5 * u + x").inputs["x"])) == "units"


def test_further_inputs_are_single_numbers_unless_a_matrix_takes_them():
    found = known("h' = tanh(W @ x + U @ h) * dt", inputs=("x", "dt"))
    assert str(found.size(found.inputs["dt"])) == "1"
    found = known("h' = tanh(W @ x + V @ v + U @ h)", inputs={"a": "x", "b": ["v"]})
    assert shapes(found)["V"] == ("v_features", "units")


@pytest.mark.parametrize(
    ("text", "options", "states", "output"),
    [
        ("c' = c + W @ x\nh' = tanh(c' + U @ h)", {}, ("h", "c"), "h'"),
        ("c' = c + W @ x\nh' = tanh(c' + U @ h)", {"states": ("c", "h")}, ("c", "h"), "c'"),
        ("c' = c + W @ x\ny = s(c')", {}, ("c",), "y"),
        ("c' = c + W @ x\nh = s(c')", {}, ("c",), "h"),
        ("m' = m + W @ x\ny' = U @ y + m'", {}, ("m", "y"), "y'"),
        ("m' = m + W @ x\nn' = m' * n", {"output": "n"}, ("m", "n"), "n'"),
    ],
)
def test_states_and_output(text, options, states, output):
    found = known(text, **options)
    assert (found.states, found.output_name) == (states, output)


def test_a_size_of_an_indexed_name_is_that_of_all_its_members():
    text = "a_k = tanh(P_k @ x) for k in 1..2\nh' = tanh(U @ h + Q_1 @ a_1 + Q_2 @ a_2 + b)"
    wide = {"P_1": ("features", "5"), "P_2": ("features", "5"), "Q_2": ("5", "units")}
    for name in ("P_k", "a_k"):
        assert wide.items() <= shapes(known(text, sizes={name: 5})).items()
    one = shapes(known(text, sizes={"P_k": 5, "P_2": 3}))
    assert (one["P_1"], one["P_2"]) == (("features", "5"), ("features", "3"))


def test_scalars_go_by_their_names_or_by_declaration():
    assert roles(known("h' = s(alpha) * h + W @ x"))["alpha"] == "scalar"
    assert roles(known("h' = a * h + W @ x"))["a"] == "vector"
    assert roles(known("h' = a * h + W @ x", sizes={"a": ()}))["a"] == "scalar"
    assert roles(known("h' = alpha * h + W @ x", sizes={"alpha": "units"}))["alpha"] == "vector"
    layer_norm = known("h' = gamma * tanh(W @ x + U @ h) + beta")
    assert roles(layer_norm)["beta"] == "bias"
    assert shapes(layer_norm)["beta"] == ("units",)


def test_numbers_come_from_lines_or_from_arguments():
    declared = declare("C", "leaky = 1.0\nh' = (1 - leaky) * h + leaky * (W @ x)")
    assert dict(declared.numbers) == {"leaky": 1.0}
    declared = declare("C", "h' = (1 - leaky) * h + leaky * (W @ x)", numbers={"leaky": 0.5})
    assert dict(declared.numbers) == {"leaky": 0.5}
    norm = declare("C", "norm(v) = v / sqrt(var(v) + epsilon)\nh' = norm(W @ x)")
    assert dict(norm.numbers) == {"epsilon": 1e-5}
    assert dict(declare("C", "repeat n: h := h + W @ x\nh' = h").numbers) == {"n": None}


@pytest.mark.parametrize(
    ("text", "linear"),
    [
        ("z = s(W_z @ x)\nh' = (1 - z) * h + z * (W_n @ x)", True),
        ("c' = exp(-exp(w)) * c + W @ x\nh = s(V @ x) * c'", True),
        ("h' = where(x > 0, -(h / 2), h - x)", True),
        ("m' = 0.5 * m + x\nh' = h * s(x) - x", True),
        ("h' = h * h + W @ x", False),
        ("h' = tanh(h) + W @ x", False),
        ("h' = 0.5 * h + U @ h + W @ x", False),
        ("m' = 0.5 * m + x\nh' = m * h + x", False),
        ("h' = 0.5 * h + W @ x\ny = h * x", False),
        ("h' = where(h > 0, h, x)", False),
        ("h' = W @ x", False),
    ],
)
def test_linear_recurrences_are_recognised(text, linear):
    assert (known(text).linear is not None) == linear


def test_variants_are_analysed_apart():
    text = """
    r = s(W_r @ x + U_r @ h + b_r)
    reset_after=True:
        n = tanh(W_n @ x + b_n + r * (U_n @ h + b_hn))
    reset_after=False:
        n = tanh(W_n @ x + U_n @ (r * h) + b_n)
    h' = n
    """
    after, before = check_all(declare("C", text))
    assert "b_hn" in after.parameters and "b_hn" not in before.parameters
    assert (after.options, before.options) == ({"reset_after": True}, {"reset_after": False})


def test_repetitions_are_written_out():
    body = "h := tanh(U_l @ h + b_l + 1[l == 1] * (W @ x))"
    text = f"depth = 3\nrepeat l = 1..depth:\n    {body}\nh' = h"
    declared = declare("C", text)
    assert [n for n in analyse(declared).parameters] == [
        name for k in (1, 2, 3) for name in (f"U_{k}", f"b_{k}", *["W"] * (k == 1))
    ]
    assert "U_5" in analyse(declared, {}, {"depth": 5}).parameters


WRONG = {
    "unknown function": ("h' = foo(W @ x)", "no function `foo`", 1, 5),
    "state never defined": ("h' = o * tanh(c')", "`c` is never defined", 1, 14),
    "old state never defined": ("h' = x + c", "`c` is never defined", 1, 9),
    "defined twice": ("z = s(x)\nz = tanh(x)\nh' = z", "`z` is defined twice", 2, 0),
    "state defined twice": ("h' = x; h' = x", "`h'` is defined twice", 1, 8),
    "input defined": ("x = W @ x\nh' = x", "`x` is defined twice", 1, 0),
    "old state defined": ("h = x\nh' = h", "`h` is defined twice", 1, 0),
    "function twice": ("f(v) = v\nf(v) = v\nh' = f(x)", "`f` is defined twice", 2, 0),
    "number twice": ("a = 1\na = 2\nh' = a * x", "`a` is defined twice", 2, 0),
    "sizes": ("a = W @ x\nb = [a; h]\nh' = a\ny = a + b + [b; b]", "do not fit", 4, 4),
    "matrix sizes": ("h' = W @ x\ny = W @ [x; x]", "do not fit", 2, 8),
    "matrix and vector": ("h' = x * W + W @ x", "two roles", 1, 13),
    "vector and matrix": ("h' = W @ x + x * W", "two roles", 1, 17),
    "input and state": ("h' = W @ x + W @ h", "two roles", 1, 13),
    "loop": ("a = b2 + x\nb2 = a + x\nh' = a", "in a loop", 2, 0),
    "loop of one": ("h' = h' + x", "in a loop", 1, 0),
    "function that calls itself": ("f(v) = f(v)\nh' = f(x)", "calls itself", 1, 0),
    "unused": ("z = s(x)\nh' = x", "`z` is defined and never used", 1, 0),
    "unused name": ("i, f = s(W @ x)\nh' = i", "`f` is defined and never used", 1, 3),
    "unused function": ("f(v) = v\nh' = x", "`f` is defined and never used", 1, 0),
    "unused number": ("a = 1\nh' = x", "`a` is defined and never used", 1, 0),
    "no state": ("y = W @ x", "no new state", 1, 0),
    "condition as number": ("h' = (x > 1) + x", "place of a number", 1, 8),
    "number as condition": ("h' = where(x, x, x)", "place of a condition", 1, 11),
    "product on the left": ("h' = s(W @ x) @ h", "on the left of `@`", 1, 5),
    "state on the left": ("h' = h @ x", "on the left of `@`", 1, 5),
    "matrix of a number": ("h' = W @ 2 + x", "not a vector", 1, 9),
    "number beside a vector": ("h' = U @ [x; 2]", "not a vector", 1, 13),
    "softmax of a number": ("h' = softmax(3) + x", "of a vector", 1, 5),
    "arguments": ("h' = exp(x, x)", "does not take 2", 1, 5),
    "own arguments": ("f(v) = v\nh' = f(x, x)", "does not take 2", 2, 5),
    "power tower": ("h' = 9^9^9^9 * x", "no finite result", 1, 8),
    "division by zero": ("h' = x * (1 / 0)", "no finite result", 1, 12),
    "root of a negative": ("h' = x * (0 - 8) ^ 0.5", "no finite result", 1, 17),
    "split alone": ("h' = split(W @ x)", "`split`", 1, 5),
    "split inside": ("i, f = s(split(W @ x))\nh' = i * f", "`split`", 1, 9),
    "guard alone": ("odd k: h' = x", "does not count", 1, 0),
    "too many lines": ("repeat 100000: h := h + x\nh' = h", "more than 2000 lines", 1, 15),
    "no such variant": ("a=True: z = x\na=False: q = x\nh' = z", "not defined here", 3, 5),
    "nothing left": ("h' = [W @ x; V @ h]", "leave nothing", 1, 13),
    "condition as output": ("h' = x\ny = x > 0", "is a condition", 2, 6),
    "condition as state": ("h' = x > 0", "place of a number", 1, 7),
    "repeat what": ("h' = repeat(x, x)", "`repeat` does not know", 1, 5),
    "deep functions": (
        "f0(v) = v + v\n"
        + "".join(f"f{i}(v) = f{i - 1}(v) + f{i - 1}(v + 1)\n" for i in range(1, 30))
        + "h' = f29(x)",
        "too long",
        10,
        0,
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_equations_show_the_place(case):
    text, says, line, column = WRONG[case]
    with pytest.raises(ValueError) as caught:
        known(text)
    what, received, _, _ = parts(caught.value)
    assert says in what
    first, _, caret, *_ = received.split("\n")
    assert first == f"line {line}"
    assert caret.index("^") - 4 == column


def test_disagreeing_places_are_both_shown():
    with pytest.raises(ValueError) as caught:
        known("z = s(x)\nq = x\nz = tanh(q)\nh' = z")
    _, received, _, _ = parts(caught.value)
    assert "line 3\n    z = tanh(q)\n    ^" in received
    assert "and line 1\n    z = s(x)\n    ^" in received


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"inputs": ()}, "inputs"),
        ({"inputs": ("x", "x")}, "inputs"),
        ({"inputs": ("x", "dt")}, "never used"),
        ({"inputs": 3}, "inputs"),
        ({"states": ("h", "c")}, "`states`"),
        ({"states": "h"}, "`states`"),
        ({"output": "z"}, "output"),
        ({"sizes": {"Q": "a"}}, "size"),
        ({"sizes": {"W": -1}}, "sizes"),
        ({"sizes": ["W"]}, "sizes"),
        ({"numbers": {"leaky": 1.0}}, "number"),
        ({"numbers": {"a": "1"}}, "number"),
        ({"numbers": {"x": 1.0}}, "number"),
        ({"trainable": ("a",)}, "trained"),
    ],
)
def test_wrong_declarations(options, says):
    with pytest.raises(ValueError) as caught:
        known("h' = tanh(W @ x)", **options)
    what, *_ = parts(caught.value)
    assert says in what


def test_too_many_variants():
    text = "\n".join(f"o{i}=True: a{i} = x\no{i}=False: a{i} = 2 * x" for i in range(7))
    with pytest.raises(ValueError) as caught:
        known(text + "\nh' = " + " + ".join(f"a{i}" for i in range(7)))
    assert "too many variants" in parts(caught.value)[0]
