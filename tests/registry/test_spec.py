"""The spec of a cell: what it refuses, and the weights of a cell by path."""

import dataclasses

import keras
import numpy as np
import pytest
from three_parts import parts, raised

import cellkit
from cellkit.registry import (
    TRAITS,
    CellSpec,
    Paper,
    cell_weights,
    check_trait,
    export_weights,
    gate_blocks,
    import_weights,
    registry,
    rename,
    set_cell_weights,
)
from cellkit.registry.paper import paper_of

pytestmark = pytest.mark.one_backend

GATES = ["i", "f", "g", "o"]
PAPER = Paper("Cho et al.", 2014, "Learning phrase representations", "arXiv:1406.1078")
GOOD = {
    "reference": lambda w, inputs, states, config: (inputs, states),
    "inputs": ("features",),
    "cases": {"default": {"units": 4}, "relu": {"units": 3, "activation": "relu"}},
    "paper": PAPER,
    "symbols": rename({"kernel": "W"}),
}


def random(*shape):
    return np.random.default_rng(shape).normal(size=shape)


# --- Paper -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identifier", "url"),
    [
        ("arXiv:1406.1078", "https://arxiv.org/abs/1406.1078"),
        ("doi:10.1162/neco.1997", "https://doi.org/10.1162/neco.1997"),
        ("https://example.org/a.pdf", "https://example.org/a.pdf"),
        ("isbn:978-3-16-148410-0", None),
    ],
)
def test_a_paper_knows_its_address(identifier, url):
    assert Paper("A", 2000, "T", identifier).url == url


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"authors": " "}, "authors"),
        ({"title": None}, "title"),
        ({"year": "2014"}, "year"),
        ({"year": 14}, "year"),
        ({"year": True}, "year"),
        ({"identifier": "1406.1078"}, "identifier"),
        ({"identifier": 1406.1078}, "identifier"),
    ],
)
def test_a_paper_must_be_complete(change, said):
    what, received, expected, fix = raised(dataclasses.replace, PAPER, **change)
    assert said in what and repr(change[said]) in received and expected and fix


@pytest.mark.parametrize(
    ("written", "paper"),
    [
        (
            'Paper: Cho et al. 2014, "Learning\n    Phrase Representations", arXiv:1406.1078.',
            Paper("Cho et al.", 2014, "Learning Phrase Representations", "arXiv:1406.1078"),
        ),
        (
            'Paper: A and B 1997, "On 2 Things: 1990, and Later", doi:10.1/x, section 2.',
            Paper("A and B", 1997, "On 2 Things: 1990, and Later", "doi:10.1/x"),
        ),
        (
            'Paper: A 1997, "T", https://example.org/a.pdf; the code is theirs.',
            Paper("A", 1997, "T", "https://example.org/a.pdf"),
        ),
        ("Paper: put yours here.", None),
        ('See the Paper: A 1997, "T", doi:10.1/x.', None),
        ("", None),
    ],
)
def test_a_docstring_names_its_paper(written, paper):
    docstring = f"The cell.\n\n    {written}\n\n    More of it."
    assert paper_of(docstring) == paper
    assert paper_of(None) is None


# --- CellSpec --------------------------------------------------------------------------------


def test_a_good_spec_keeps_what_it_is_given_and_no_hold_on_it():
    cases = {"default": {"units": 4}, "relu": {"units": 3}}
    spec = CellSpec(**{**GOOD, "cases": cases, "traits": ["masking", "equiv:LSTM"]})
    cases["default"]["units"] = 99
    cases["new"] = {}
    assert spec.cases == {"default": {"units": 4}, "relu": {"units": 3}}
    assert spec.traits == frozenset({"masking", "equiv:LSTM"})
    assert CellSpec(**GOOD).traits == frozenset({"masking"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.tolerance = 2.0


@pytest.mark.parametrize(
    "inputs",
    [
        ("features",),
        (),
        (3, "h", "w"),
        [("a",), ("b", "c")],
        (("a",), ("b",)),
        {"video": ("h", "w", 3), "audio": ("f",)},
        {"a": [("x",), {"b": ("y", 2)}]},
    ],
)
def test_inputs_may_be_any_structure_of_shapes(inputs):
    assert CellSpec(**{**GOOD, "inputs": inputs}).inputs == inputs


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("reference", "numpy", "reference"),
        ("initial_state", 0, "initial_state"),
        ("paper", "Cho 2014", "Paper"),
        ("symbols", {"kernel": "W"}, "weight map"),
        ("tolerance", 0, "tolerance"),
        ("tolerance", -1.0, "tolerance"),
        ("tolerance", float("nan"), "tolerance"),
        ("tolerance", float("inf"), "tolerance"),
        ("tolerance", True, "tolerance"),
        ("cases", {"only": {"units": 4}}, "two cases"),
        ("cases", {}, "two cases"),
        ("cases", [{"units": 4}, {"units": 3}], "cases"),
        ("cases", {"a": {"units": 4}, "b": {"units": 4}}, "same"),
        ("cases", {"a": {"units": 4}, "b": 3}, "cases"),
        ("cases", {"a": {"units": 4}, 2: {"units": 3}}, "cases"),
        ("cases", {"a": {"units": 4}, "b": {3: 3}}, "cases"),
        ("inputs", "features", "inputs"),
        ("inputs", 3, "inputs"),
        ("inputs", None, "inputs"),
        ("inputs", [], "inputs"),
        ("inputs", {}, "inputs"),
        ("inputs", ["features"], "inputs"),
        ("inputs", ("a", ("b",)), "inputs"),
        ("inputs", (0,), "inputs"),
        ("inputs", (-1, "a"), "inputs"),
        ("inputs", (None, "a"), "inputs"),
        ("inputs", (True,), "inputs"),
        ("inputs", ("not a name",), "inputs"),
        ("traits", "masking", "traits"),
        ("traits", None, "traits"),
        ("traits", {"maskin"}, "trait"),
        ("traits", {3}, "trait"),
        ("deviations", "One sentence.", "deviations"),
        ("deviations", (3,), "deviation"),
        ("aliases", ["gru"], "aliases"),
        ("aliases", {"gru": None}, "aliases"),
        ("dims", {"width": 3}, "dims"),
        ("dims", {"features": 0}, "dims"),
        ("dims", {"features": ()}, "dims"),
        ("dims", {"features": (3, "a")}, "dims"),
        ("dims", 3, "dims"),
        ("states", ("h", "h"), "states"),
        ("states", "hc", "states"),
        ("states", (1, 2), "states"),
        ("configure", {"units": 4}, "configure"),
        ("draw_states", 1.0, "draw_states"),
    ],
)
def test_a_wrong_field_is_refused(field, value, said):
    what, received, expected, fix = raised(CellSpec, **{**GOOD, field: value})
    assert said in what and received and expected and fix


def test_dims_hold_or_restrict_named_sizes():
    spec = CellSpec(**{**GOOD, "dims": {"features": (3, 5)}})
    assert spec.dims == {"features": (3, 5)}
    assert CellSpec(**{**GOOD, "inputs": [("a",), ("b",)], "dims": {"b": 2}}).dims == {"b": 2}


def test_traits_are_known_or_have_a_colon():
    for trait in (*TRAITS, "equiv:LSTM", "rank:4", "my_lab:sparse", "export.onnx:17"):
        assert check_trait(trait) == trait
    for trait in ("Masking", "equiv:", ":LSTM", "", "a b:c", "equiv: LSTM"):
        raised(check_trait, trait)
    _, _, _, fix = raised(check_trait, "recurent_dropout")
    assert "did you mean 'recurrent_dropout'" in fix


# --- what a class says of itself ------------------------------------------------------------


class Leaving(cellkit.GatedCell):
    """A cell that leaves to its class what can be left.

    ```
    f  = s(W_f @ x + U_f @ h + b_f)
    n  = tanh(W_n @ x + U_n @ h + rate * b_n)
    h' = (1 - f) * h + f * n
    m' = m + h
    ```
    """

    gates = {"f": "recurrent_activation", "n": "activation"}

    def __init__(self, units, *, rate=1.0, **kwargs):
        super().__init__(units, **kwargs)
        self.rate = rate

    spec = CellSpec(
        paper=PAPER,
        more_cases={"slow": {"units": 3, "rate": 0.5}, "relu": {"units": 2, "activation": "relu"}},
        more_traits={"my_lab:leaving"},
    )


def test_a_class_says_what_its_spec_leaves_out():
    spec = Leaving.spec
    assert spec.inputs == ("features",) and spec.states == ("h", "m")
    assert list(spec.cases) == ["default", "slow", "relu", "no_bias", "dropout"]
    assert spec.cases["relu"] == {"units": 2, "activation": "relu"}  # instead of the usual one
    assert repr(spec.symbols) == repr(gate_blocks(["f", "n"]))
    claims = {"masking", "stateful", "dropout", "recurrent_dropout", "zoneout"}
    assert spec.traits == claims | {"my_lab:leaving"}
    assert spec.completed(Leaving) is spec and not (spec.more_cases or spec.more_traits)
    linear = CellSpec(**{**GOOD, "cases": {"a": {"units": 1}, "b": {}}}).completed(
        cellkit.LinearCell
    )
    assert linear.traits == claims - {"recurrent_dropout"} | {"linear", "fp32_state"}
    assert list(linear.cases) == ["a", "b"]


def test_the_equations_of_a_docstring_are_the_reference():
    shapes = {"W_f": (3, 2), "U_f": (2, 2), "W_n": (3, 2), "U_n": (2, 2), "b_n": (2,)}
    draws = np.random.default_rng(5)
    w = {letter: draws.normal(size=shape) for letter, shape in shapes.items()}
    x, h, m = random(4, 3), random(4, 2), random(4, 2) + 1
    config = {"activation": "relu", "recurrent_activation": "sigmoid", "rate": 0.25}
    output, states = Leaving.spec.reference(w, x, [h, m], config)
    f = 1 / (1 + np.exp(-(x @ w["W_f"] + h @ w["U_f"])))  # a bias that is left out is zero
    n = np.maximum(0, x @ w["W_n"] + h @ w["U_n"] + 0.25 * w["b_n"])
    np.testing.assert_allclose(output, (1 - f) * h + f * n, rtol=1e-13)
    np.testing.assert_allclose(states, [output, m + h], rtol=1e-13)
    with pytest.raises(KeyError, match="V"):
        _other_letter().spec.reference(w, x, [h], config)


def _other_letter():
    class Other(cellkit.GatedCell):
        """A cell whose equations have a letter that its weights do not have.

        ```
        h' = V @ x
        ```
        """

        gates = {"f": "activation"}
        spec = CellSpec(paper=PAPER)

    return Other


def test_the_registry_completes_a_spec(own_registry):
    class Late(Leaving):
        pass

    Late.spec = CellSpec(paper=PAPER, reference=None)
    cellkit.register("late", Late)
    found = cellkit.get("late").spec
    assert found.reference is None and found.states == () and "no_bias" in found.cases


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "symbols"),
        ({"symbols": GOOD["symbols"]}, "cases"),
        ({"symbols": GOOD["symbols"], "cases": GOOD["cases"]}, "reference"),
    ],
)
def test_what_nobody_says_is_asked_for(given, said):
    class Silent:
        pass

    what, received, expected, fix = raised(CellSpec(paper=PAPER, **given).completed, Silent)
    assert "Silent" in what and said in what and said in received and expected and fix


def test_a_class_names_its_paper():
    class Cited(Leaving):
        """A cell.

        Paper: Cho et al. 2014, "Learning phrase representations", arXiv:1406.1078.

        ```
        f  = s(W_f @ x + U_f @ h + b_f)
        n  = tanh(W_n @ x + U_n @ h + b_n)
        h' = f * h + (1 - f) * n
        ```
        """

        spec = CellSpec()

    assert Cited.spec.paper == PAPER


def test_a_paper_that_nobody_names_is_asked_for():
    class Silent:
        """A cell.

        Paper: to be found.
        """

    given = {field: GOOD[field] for field in ("symbols", "cases", "reference")}
    what, received, expected, fix = raised(CellSpec(**given).completed, Silent)
    assert "Silent has no paper" in what and "docstring" in received and "Paper" in expected
    assert "Cho et al. 2014" in fix


# --- weights of a cell -----------------------------------------------------------------------


class Normed(keras.layers.Layer):
    """A cell with a weight of its own, a sub-layer, a list of layers and a seed."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size = units
        self.norm = keras.layers.LayerNormalization()
        self.branches = [keras.layers.Dense(units), keras.layers.Dense(units, use_bias=False)]
        self.drop = keras.layers.Dropout(0.5, seed=1)

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")
        self.gain = self.add_weight(shape=(self.units,))  # no name: Keras makes one up
        self.norm.build((None, self.units))
        for branch in self.branches:
            branch.build((None, self.units))

    def call(self, inputs, states, training=False):
        h = self.norm(inputs @ self.kernel * self.gain + states[0])
        return h, [h]


def test_paths_do_not_depend_on_what_else_was_made():
    paths = []
    for _ in range(2):
        cell = Normed(2)
        cell.build((None, 3))
        paths.append(list(cell_weights(cell)))
    expected = ["kernel", "gain", "norm/gamma", "norm/beta", "branches/0/kernel", "branches/0/bias"]
    assert sorted(paths[0]) == sorted([*expected, "branches/1/kernel"])
    assert paths[0] == paths[1]


def test_weights_are_read_and_set_by_path():
    cell = Normed(2)
    cell.build((None, 3))
    new = {path: random(*a.shape).astype("float32") for path, a in cell_weights(cell).items()}
    set_cell_weights(cell, new)
    for path, array in cell_weights(cell).items():
        np.testing.assert_array_equal(array, new[path])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(cell.norm.gamma), new["norm/gamma"])


def test_weights_of_keras_own_cells():
    cell = keras.layers.StackedRNNCells([keras.layers.LSTMCell(2), keras.layers.GRUCell(2)])
    cell.build((None, 3))
    assert sorted(cell_weights(cell)) == [
        f"cells/{i}/{name}" for i in (0, 1) for name in ("bias", "kernel", "recurrent_kernel")
    ]


def test_weights_of_a_plain_object():
    class Plain:
        state_size = 2

        def __init__(self):
            self.dense = keras.layers.Dense(2)
            self.dense.build((None, 3))

    assert sorted(cell_weights(Plain())) == ["dense/bias", "dense/kernel"]


@pytest.mark.parametrize("bad", ["missing", "unknown", "shape"])
def test_set_cell_weights_changes_all_or_nothing(bad):
    cell = keras.layers.LSTMCell(2)
    cell.build((None, 3))
    before = cell_weights(cell)
    new = {path: array + 1 for path, array in before.items()}
    if bad == "missing":
        del new["bias"]
    elif bad == "unknown":
        new["kernal"] = new["kernel"]
    else:
        new["bias"] = new["bias"][:-1]
    what, received, expected, fix = raised(set_cell_weights, cell, new)
    said = {
        "missing": ("LSTMCell", "missing: 'bias'", "'recurrent_kernel'", "cell_weights"),
        "unknown": ("LSTMCell", "unknown: 'kernal'", "'kernel'", "did you mean 'kernel'"),
        "shape": ("'bias'", "(7,)", "(8,)", "(in, out)"),
    }[bad]
    assert all(
        text in part for text, part in zip(said, (what, received, expected, fix), strict=True)
    )
    for path, array in cell_weights(cell).items():
        np.testing.assert_array_equal(array, before[path])


def test_a_cell_that_is_not_built_has_no_weights_yet():
    for function in (cell_weights, lambda cell: set_cell_weights(cell, {})):
        what, received, expected, fix = raised(function, keras.layers.LSTMCell(2))
        assert "LSTMCell" in what and "not built" in received and "built" in expected
        assert "build((None, features))" in fix


def test_two_weights_of_one_path_are_an_error():
    class Twins(keras.layers.Layer):
        def build(self, input_shape):
            self.a = self.add_weight(shape=(2,), name="kernel")
            self.b = self.add_weight(shape=(2,), name="kernel")

    cell = Twins()
    cell.build((None, 2))
    what, received, expected, fix = raised(cell_weights, cell)
    assert "Twins" in what and "'kernel' twice" in received and "one path" in expected
    assert "add_weight(name=" in fix


def keras_lstm(units=2, features=3, **options):
    cell = keras.layers.LSTMCell(units, **options)
    cell.build((None, features))
    return cell


LSTM_SPEC = CellSpec(**{**GOOD, "symbols": gate_blocks(GATES)})


def test_weights_travel_by_the_symbols_of_the_paper():
    source, target = keras_lstm(), keras_lstm()
    set_cell_weights(source, {p: random(*a.shape) for p, a in cell_weights(source).items()})
    symbols = export_weights(source, spec=LSTM_SPEC)
    assert len(symbols) == 12
    import_weights(target, symbols, spec=LSTM_SPEC)
    for path, array in cell_weights(source).items():
        np.testing.assert_array_equal(cell_weights(target)[path], array)


def test_importing_uses_the_configuration_of_the_cell():
    source, target = keras_lstm(use_bias=False), keras_lstm(use_bias=False)
    import_weights(target, export_weights(source, spec=LSTM_SPEC), spec=LSTM_SPEC)
    np.testing.assert_array_equal(cell_weights(target)["kernel"], cell_weights(source)["kernel"])


def test_importing_finds_the_spec_of_the_class(own_registry):
    class MyLSTM(keras.layers.LSTMCell):
        pass

    cell = MyLSTM(2)
    cell.build((None, 3))
    what, received, expected, fix = raised(export_weights, cell)
    assert "MyLSTM" in what and "None" in received and "CellSpec" in expected
    assert "set_cell_weights" in fix
    registry.register("my_lstm", MyLSTM, spec=LSTM_SPEC)
    import_weights(cell, {name: a + 1 for name, a in export_weights(cell).items()})


def test_importing_weights_of_another_size_changes_nothing():
    cell = keras_lstm()
    before = cell_weights(cell)
    with pytest.raises(ValueError) as caught:
        import_weights(cell, export_weights(keras_lstm(units=5), spec=LSTM_SPEC), spec=LSTM_SPEC)
    what, received, expected, _ = parts(caught.value)
    assert "'kernel'" in what and "(3, 20)" in received and "(3, 8)" in expected
    for path, array in cell_weights(cell).items():
        np.testing.assert_array_equal(array, before[path])


def test_importing_a_torch_lstm_gives_its_numbers():
    """The use that the map is made for, from the other side's layout to this one's."""
    torch = pytest.importorskip("torch")
    theirs = torch.nn.LSTM(3, 2, batch_first=True)
    symbols = {}
    for letter, matrix in (("W", theirs.weight_ih_l0), ("U", theirs.weight_hh_l0)):
        for gate, block in zip(GATES, matrix.detach().chunk(4), strict=True):
            symbols[f"{letter}_{gate}"] = block.numpy().T
    for gate, block in zip(
        GATES, (theirs.bias_ih_l0 + theirs.bias_hh_l0).detach().chunk(4), strict=True
    ):
        symbols[f"b_{gate}"] = block.numpy()
    cell = keras_lstm()
    import_weights(cell, symbols, spec=LSTM_SPEC)
    x = random(4, 3).astype("float32")
    output, _ = cell(x, [np.zeros((4, 2), "float32")] * 2)
    expected, _ = theirs(torch.tensor(x)[:, None])
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(output), expected[:, 0].detach().numpy(), atol=1e-6
    )
