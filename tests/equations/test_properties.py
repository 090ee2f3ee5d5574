"""Random texts: well-formed ones compute what they say, broken ones are answered with the place."""

import re

import keras
import numpy as np
import pytest
from cell_numbers import DTYPE, X64, random_weights
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from three_parts import parts

import cellkit
from cellkit.equations.analyse import check_all
from cellkit.equations.declare import declare

BACKEND = keras.backend.backend()
BATCH, TIME, FEATURES, UNITS = 2, 3, 3, 4
# Every text is compiled anew where there is a compiler.
EXAMPLES = {"torch": 40, "tensorflow": 12, "jax": 6}[BACKEND]
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


class Writer:
    """Writes a text; every vector in it has `units` elements and is of moderate size."""

    def __init__(self, draw):
        self.draw = draw
        self.letters = iter(f"{a}{b}" for a in "PQRSTV" for b in "abcdefghij")
        self.states = ["h"] + (["c"] if draw(st.booleans()) else [])
        self.defined = []
        self.used = ""

    def choose(self, *options):
        return self.draw(st.sampled_from(options))

    def gate(self, name):
        """Return a sum of products, with or without a bias."""
        terms = []
        if self.choose(True, True, False):
            terms.append(f"W_{name} @ x")
        operand = self.choose("h", *self.states, f"({self.value(0)} * h)")
        terms.append(f"U_{name} @ {operand}")
        if self.choose(True, True, False):
            terms.append(f"b_{name}")
        return " + ".join(self.draw(st.permutations(terms)))

    def value(self, depth):
        """Return an expression."""
        leaves = [
            *self.states,
            *self.defined,
            f"p{next(self.letters)} * {self.choose(*self.states)}",
        ]
        if depth == 0:
            return self.choose(*leaves)
        a, b = self.value(depth - 1), self.value(self.draw(st.integers(0, depth - 1)))
        return self.choose(
            a,
            f"tanh({a})",
            f"s({a} - {b})",
            f"({a} + {b}) / 2",
            f"({a}) * s({b})",
            f"-({a})",
            f"softplus({a}) ^ 2 / 4",
            f"({a}) / (1 + abs({b}))",
            f"where({a} > {b}, {a}, tanh({b}))",
            f"({a} if x_0 > 0.1 else {b})".replace("x_0", "mean(x)"),
            f"max({a}, {b}) - mean({a})",
            f"1[{a} <= {b}] * ({a})",
            f"norm({a})",
            f"tanh({next(self.letters)} @ [x; {b}])",
            f"exp(-square({a}))",
        )

    def text(self):
        lines = []
        for name in self.draw(st.permutations("zrn"))[: self.draw(st.integers(1, 3))]:
            lines.append(f"{name} = {self.choose('s', 'tanh', 'sigmoid')}({self.gate(name)})")
            self.defined.append(name)
        if self.choose(False, True):
            lines.append("i, f = " + self.choose("s(V @ x + v * h)", "split(tanh(V @ x + d))"))
            self.defined += ["i", "f"]
        if self.choose(False, False, True):
            lines.append("a_k = tanh(A_k @ x + b_k)  for k = 1..3")
            lines.append("a = (a_1 + a_2 - a_3) / 2")
            self.defined.append("a")
        if self.choose(False, False, True):
            lines.append("repeat 2: h := tanh(D @ h + d_h)")
            self.used = "h + "
        for state in self.states:
            body = self.value(self.draw(st.integers(1, 3)))
            lines.append(
                f"{state}' = " + self.choose(f"tanh({body})", f"s({body}) * {state} + 0.1")
            )
        if self.choose(False, True):
            lines.append(f"y = {self.value(1)} + 0 * ({self.used}{' + '.join(self.defined)})")
        else:
            lines[-1] += f" + 0 * ({self.used}{' + '.join(self.defined)})"
        # Lines may stand in any order, but for those behind a new meaning.
        if not any(":=" in line for line in lines):
            lines = self.draw(st.permutations(lines))
        return "norm(v) = (v - mean(v)) / sqrt(var(v) + 0.1)\nq(v) = v\n" + "\n".join(lines)


@st.composite
def texts(draw):
    text = Writer(draw).text()
    if "norm(" not in text.split("\n", 1)[1]:
        text = text.split("\n", 1)[1]
    return text.replace("q(v) = v\n", "")


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def by_reference(spec, weights, x, states, config):
    """Return outputs and final states of the reference, in float64."""
    outputs = []
    for t in range(x.shape[1]):
        y, states = spec.reference(weights, x[:, t], states, config)
        outputs.append(y)
    return np.stack(outputs, axis=1), states


def gradient(layer, x, factors):
    """Return the gradients of the weighed sum of a layer's outputs, by the variables' names."""
    weights = layer.trainable_variables

    def loss(tensor):
        y = layer(tensor)
        y = y[0] if isinstance(y, (list, tuple)) else y
        return keras.ops.sum(y * keras.ops.convert_to_tensor(factors))

    tensor = keras.ops.convert_to_tensor(x)
    if BACKEND == "torch":
        import torch

        found = torch.autograd.grad(loss(tensor), [v.value for v in weights], allow_unused=True)
    elif BACKEND == "tensorflow":
        import tensorflow

        @tensorflow.function
        def run(tensor):
            with tensorflow.GradientTape() as tape:
                value = loss(tensor)
            return tape.gradient(value, [v.value for v in weights])

        found = run(tensor)
    else:
        import jax

        def value(values):
            mapping = list(zip(weights, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                return loss(tensor)

        found = jax.grad(value)([v.value for v in weights])
    return {
        v.name: np.zeros(v.shape) if g is None else numpy(g).astype("float64")
        for v, g in zip(weights, found, strict=True)
    }


@pytest.mark.slow
@SETTINGS
@given(text=texts(), use_bias=st.booleans())
@example(text="h' = s(alpha) * h + tanh(W @ x)", use_bias=True)
@example(
    text="h' = tanh(h + W @ x) if mean(x) > 0.1 else where(V @ x > 0, U @ h, h)", use_bias=True
)
@example(text="c' = s(w) * c + W @ x\nh = s(V @ x) * tanh(c')", use_bias=True)
def test_random_texts_compute_what_they_say(text, use_bias):
    cls = cellkit.define("RandomCell", text)
    cell = cls(UNITS, use_bias=use_bias, dtype=DTYPE)
    layer = cellkit.RNN(cell, return_sequences=True, dtype=DTYPE)
    layer.build((BATCH, TIME, FEATURES))
    rng = np.random.default_rng(0)
    random_weights(cell, rng)
    x = rng.normal(size=(BATCH, TIME, FEATURES)).astype(DTYPE)
    config = cell.get_config()
    weights = {k: v.astype("float64") for k, v in cellkit.export_weights(cell).items()}
    start = [np.zeros(s.shape) for s in map(numpy, layer.get_initial_state(batch_size=BATCH))]
    want, _ = by_reference(cls.spec, weights, x.astype("float64"), start, config)
    scale = max(1.0, float(np.abs(want).max()))
    close = scale * (1e-10 if X64 else 2e-4)
    reports = {}
    for engine in ("auto", "loop") if BACKEND != "torch" else ("auto", "loop", "projected"):
        layer.engine = engine
        np.testing.assert_allclose(numpy(layer(x)), want, rtol=0, atol=close, err_msg=engine)
        reports[engine] = layer.engine_report().engine
    if issubclass(cls, cellkit.LinearCell) and TIME > 1 and BACKEND == "torch":
        assert reports["auto"] == "scan"

    # The gradient, along a random direction of the weights, is what the reference changes by.
    layer.engine = "auto"
    factors = rng.normal(size=want.shape).astype(DTYPE)
    found = gradient(layer, x, factors)
    symbols = cls.spec.symbols
    directions = {name: rng.normal(size=g.shape) for name, g in found.items()}
    along = symbols.to_symbols(directions, config)

    def moved(by):
        changed = {name: value + by * along[name] for name, value in weights.items()}
        outputs, _ = by_reference(cls.spec, changed, x.astype("float64"), start, config)
        return float((outputs * factors).sum())

    slope = sum(float((found[name] * directions[name]).sum()) for name in found)
    near, far = ((moved(e) - moved(-e)) / (2 * e) for e in (1e-6, 1e-5))
    size = max(1.0, *(float(np.abs(g).sum()) for g in found.values()))
    if abs(near - far) < 1e-5 * size:  # no kink of a comparison lies in between
        assert slope == pytest.approx(near, abs=size * (1e-6 if X64 else 3e-3))


PIECES = st.sampled_from(
    "h' h c' c x y z W U b i, f = := == + - * / @ ^ ** ( ) [ ] ; , . : # ' ~ 0 1 7 1e9 1e999 .. "
    "for k k = 0..7 if else where( tanh( s( split( repeat depth: odd k: a=True: 1[ > < and not mod "
    "e pi __import__ ('os') .system lambda import eval exec \n \n\n   {x} \\ \" é λ ∂ \t \0".split(
        " "
    )
)


@pytest.mark.one_backend
@settings(max_examples=400, deadline=2000, derandomize=True, database=None)
@given(st.lists(PIECES, max_size=30).map(" ".join))
def test_random_pieces_are_answered_with_the_place(text):
    answered(text)


@pytest.mark.slow
@pytest.mark.one_backend
@settings(max_examples=300, deadline=2000, derandomize=True, database=None)
@given(st.data())
def test_broken_texts_are_answered_with_the_place(data):
    text = data.draw(texts())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 4))
        text = text[:at] + data.draw(st.one_of(PIECES, st.text(max_size=2))) + text[at + cut :]
    answered(text)


def answered(text):
    """Let a text be understood, or be refused in three parts with a line and a caret."""
    try:
        check_all(declare("BrokenCell", text))
    except ValueError as error:
        _, received, _, _ = parts(error)
        assert re.match(r"line \d+\n    .*\n +\^+", received) or "\n" not in received, received
        assert received.startswith("line ") or "=" in received


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "text",
    [
        "h' = x ^ " + "9" * 5000,
        "h' = 9 ^ 9 ^ 9 ^ 9 ^ 9 ^ 9 * x",
        "h' = " + "x ^ " * 39 + "x",
        "h' = " + " + ".join(f"f{i}(x)" for i in range(90)),
        "\n".join(f"z{i} = z{i + 1} + x" for i in range(900)) + "\nz900 = x\nh' = z0",
        "\n".join(f"f{i}(v) = f{i + 1}(v) + 1" for i in range(300)) + "\nf300(v) = v\nh' = f0(x)",
        "\n".join(f"z{i + 1} = z{i} * z{i}" for i in range(900)) + "\nz0 = x\nh' = z900",
        "repeat 300: repeat 300: h := h + x\nh' = h",
        "repeat 999999: h := h + x\nh' = h",
        "a_k = W_k @ x  for k = 0..999999\nh' = a_0",
        "h' = repeat(x, 999999999)",
        "\n".join(f"o{i}=True: a{i} = x" for i in range(200)) + "\nh' = x",
    ],
)
def test_large_texts_are_answered_quickly(text):
    import time

    start = time.perf_counter()
    answered(text)
    assert time.perf_counter() - start < 5
