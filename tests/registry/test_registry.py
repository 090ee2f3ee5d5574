"""The registry: entry points, registration, listing, and what stands in nobody's way."""

import subprocess
import sys
import threading
import warnings

import pytest
from fake_distributions import CELL, install
from three_parts import parts, raised

import cellkit
from cellkit._distribution import is_own
from cellkit.registry import CellSpec, Paper, registry, rename

pytestmark = pytest.mark.one_backend

PAPER = Paper("Cho et al.", 2014, "Learning phrase representations", "arXiv:1406.1078")


def make_spec(**changes):
    options = {
        "reference": None,
        "inputs": ("features",),
        "cases": {"default": {"units": 4}, "other": {"units": 3}},
        "paper": PAPER,
        "symbols": rename({}),
    }
    return CellSpec(**{**options, **changes})


class Counter:
    """A plain object that is a cell."""

    state_size = 1

    def __init__(self, units=1, *, scale=2.0):
        self.units = units
        self.scale = scale

    def call(self, inputs, states, training=False):
        return inputs, [states[0] + 1]


class OtherCounter(Counter):
    pass


@pytest.fixture
def site(tmp_path, monkeypatch, own_registry):
    """A folder on the path to install distributions into; their modules go when the test ends."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


# --- names are known without imports ---------------------------------------------------------


def test_installed_names_are_known_without_importing_the_plugin(site):
    install(site, "far-lab", {"far_cell": "far_lab:Counter"})
    assert "far_cell" in cellkit.list_cells()
    assert "far_lab" not in sys.modules
    assert cellkit.get("far_cell").cls.__name__ == "Counter"
    assert "far_lab" in sys.modules


def test_listing_imports_neither_backend_nor_keras_nor_plugin(tmp_path):
    install(tmp_path, "far-lab", {"far_cell": "far_lab:Counter"})
    code = (
        "import sys, cellkit; dir(cellkit); assert 'far_cell' in cellkit.list_cells();"
        "heavy = {'keras', 'tensorflow', 'torch', 'jax', 'numpy', 'far_lab', 'hypothesis', 'typer',"
        "'cellkit_classic', 'cellkit.rnn', 'cellkit.cells'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_built_in_cells_are_found_as_plugins():
    assert {"simple_rnn", "lstm", "gru", "nested"} <= set(cellkit.list_cells())
    found = registry.declarations()["lstm"]
    assert [is_own(d.distribution) for d in found] == [True]


def test_a_distribution_installed_later_is_seen(site):
    assert "late_cell" not in cellkit.list_cells()
    install(site, "late-lab", {"late_cell": "late_lab:Counter"})
    assert "late_cell" in cellkit.list_cells()


# --- listing ---------------------------------------------------------------------------------


def test_filters_are_patterns_one_or_several(site):
    install(site, "far", {n: "far_lab:Counter" for n in ("far_a", "far_b", "near_a")})
    assert cellkit.list_cells("far_*") == ["far_a", "far_b"]
    assert cellkit.list_cells(["near_*", "*_b"]) == ["far_b", "near_a"]
    assert cellkit.list_cells("far_?") == ["far_a", "far_b"]
    assert cellkit.list_cells("FAR_*") == []
    assert cellkit.list_cells("far_a") == ["far_a"]


def test_the_list_is_sorted(own_registry):
    for name in ("zeta", "alpha", "mid"):
        cellkit.register(name, type(name, (Counter,), {}))
    names = cellkit.list_cells()
    assert names == sorted(names)
    assert [n for n in names if n in ("zeta", "alpha", "mid")] == ["alpha", "mid", "zeta"]


def test_traits_must_all_hold(own_registry):
    def add(name, *traits):
        cellkit.register(name, type(name, (Counter,), {}), spec=make_spec(traits=traits))

    add("trait_none")
    add("trait_one", "masking")
    add("trait_two", "masking", "dropout", "equiv:LSTM")
    cellkit.register("trait_unknown", OtherCounter)
    assert cellkit.list_cells("trait_*", traits="masking") == ["trait_one", "trait_two"]
    assert cellkit.list_cells("trait_*", traits=["masking", "dropout"]) == ["trait_two"]
    assert cellkit.list_cells("trait_*", traits={"equiv:LSTM"}) == ["trait_two"]
    assert cellkit.list_cells("trait_*", traits=[]) == ["trait_none", "trait_one", "trait_two"]


def test_an_unknown_trait_is_an_error_and_no_empty_list():
    what, received, expected, fix = raised(cellkit.list_cells, traits="maskin")
    assert "trait" in what and "'maskin'" in received and "'masking'" in expected
    assert "did you mean 'masking'" in fix


@pytest.mark.parametrize("filter", [3, [1, 2], None])
def test_a_filter_that_is_no_text_is_an_error(filter):
    what, received, expected, fix = raised(cellkit.list_cells, filter)
    assert "filter" in what and repr(filter) in received and "text" in expected and "*lstm" in fix


# --- get and create --------------------------------------------------------------------------


def test_get_gives_class_and_spec_and_says_where_they_come_from(site):
    install(site, "far-lab", {"far_cell": "far_lab:Counter"}, version="2.5")
    cell = cellkit.get("far_cell")
    assert (cell.name, cell.distribution, cell.version) == ("far_cell", "far-lab", "2.5")
    assert cell.cls is sys.modules["far_lab"].Counter and cell.spec is None
    cls, spec = cell
    assert cls is cell.cls and spec is None


def test_get_takes_a_class_that_is_not_registered(site):
    (site / "loose_lab.py").write_text(CELL)
    assert cellkit.get("loose_lab:Counter").cls.__module__ == "loose_lab"
    what, received, expected, fix = raised(cellkit.get, "loose_lab:Conter")
    assert "loose_lab:Conter" in what and "without Conter" in received
    assert "module:Class" in expected and "spelling" in fix
    what, received, expected, fix = raised(cellkit.get, "no_such_lab:Counter")
    assert "imported" in what and "No module named 'no_such_lab'" in received
    assert "no_such_lab" in expected and "spelling" in fix


def test_create_passes_arguments_on(own_registry):
    cellkit.register("counting", Counter)
    cell = cellkit.create("counting", units=7, scale=0.5)
    assert type(cell) is Counter and (cell.units, cell.scale) == (7, 0.5)


def test_create_lets_the_cell_have_a_name(own_registry):
    class Named(Counter):
        def __init__(self, name):
            self.name = name

    cellkit.register("named", Named)
    assert cellkit.create("named", name="mine").name == "mine"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("lstmm", "lstm"), ("LSTM", "lstm"), ("LSTMCell", "lstm"), ("SimpleRNN", "simple_rnn")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, meant):
    for function in (cellkit.get, cellkit.create):
        what, received, expected, fix = raised(function, name)
        assert repr(name) in what and repr(name) in received and "registered cells" in expected
        assert f"did you mean '{meant}'" in fix and "cellkit list" in fix


def test_an_unknown_name_near_nothing_gets_no_proposal():
    _, _, _, fix = raised(cellkit.get, "qqqqqqqq")
    assert "did you mean" not in fix and "list_cells()" in fix


def test_a_name_that_is_no_text_is_an_error():
    what, received, expected, fix = raised(cellkit.get, Counter)
    assert (
        "name" in what and "Counter" in received and "'lstm'" in expected and "pass the name" in fix
    )


def test_create_names_an_unknown_argument(own_registry):
    cellkit.register("counting", Counter)
    what, received, expected, fix = raised(cellkit.create, "counting", unit=3)
    assert "no argument 'unit'" in what and "unit=3" in received
    assert "scale, units" in expected and "did you mean 'units'" in fix


def test_create_names_a_missing_argument(own_registry):
    class Needy(Counter):
        def __init__(self, units):
            self.units = units

    cellkit.register("needy", Needy)
    what, received, expected, fix = raised(cellkit.create, "needy")
    assert "lacks an argument" in what and "no arguments" in received
    assert "units" in expected and "create('needy', units=...)" in fix


def test_an_error_of_the_constructor_itself_passes_unchanged(own_registry):
    class Picky(Counter):
        def __init__(self, units=1):
            raise ValueError("units are not to my taste")

    cellkit.register("picky", Picky)
    with pytest.raises(ValueError, match="^units are not to my taste$"):
        cellkit.create("picky", units=3)


def test_create_refuses_an_object_without_state_size(own_registry):
    announced = {"call": Counter.call, "__annotations__": {"state_size": int}}
    cellkit.register("bare", type("Bare", (), announced))
    what, received, expected, fix = raised(cellkit.create, "bare")
    assert "how large its states are" in what and "without state_size" in received
    assert "a structure" in expected and "self.state_size" in fix


# --- registering -----------------------------------------------------------------------------


def test_register_as_decorator_and_as_function(own_registry):
    @cellkit.register("as_decorator")
    class Mine(Counter):
        pass

    assert cellkit.get("as_decorator").cls is Mine
    assert cellkit.register("as_function", OtherCounter) is OtherCounter
    assert cellkit.get("as_function").cls is OtherCounter
    assert cellkit.get("as_function").distribution == "this process"
    assert {"as_decorator", "as_function"} <= set(cellkit.list_cells())


def test_the_spec_is_the_argument_or_the_attribute_of_the_class(own_registry):
    own, given = make_spec(), make_spec()

    class WithSpec(Counter):
        spec = own

    cellkit.register("own_spec", WithSpec)
    assert cellkit.get("own_spec").spec is own and registry.spec_of(WithSpec) is own
    cellkit.register("own_spec", WithSpec, spec=given)
    assert cellkit.get("own_spec").spec is given and registry.spec_of(WithSpec) is given
    assert registry.spec_of(Counter) is None


def test_running_a_notebook_cell_again_replaces_the_class(own_registry):
    source = "@cellkit.register('again')\nclass Mine(Base):\n    version = {}\n"
    for version in (1, 2):
        scope = {"cellkit": cellkit, "Base": Counter, "__name__": "__main__"}
        exec(source.format(version), scope)
        assert cellkit.get("again").cls is scope["Mine"] and scope["Mine"].version == version
    assert cellkit.list_cells("again") == ["again"]


def test_another_class_under_a_taken_name_is_an_error_and_changes_nothing(own_registry):
    cellkit.register("taken", Counter)
    what, received, expected, fix = raised(cellkit.register, "taken", OtherCounter)
    assert "'taken' already" in what and "OtherCounter" in received and ":Counter" in received
    assert "free" in expected and "overwrite=True" in fix
    assert cellkit.get("taken").cls is Counter
    cellkit.register("taken", OtherCounter, overwrite=True)
    assert cellkit.get("taken").cls is OtherCounter


def test_a_name_taken_by_a_distribution_is_an_error_naming_both(site):
    install(site, "far-lab", {"far_cell": "far_lab:Counter"}, version="2.5")
    what, received, expected, fix = raised(cellkit.register, "far_cell", OtherCounter)
    assert "'far_cell' already" in what and "distribution far-lab 2.5" in received
    assert "this process" in received and "OtherCounter" in received
    assert "far_lab" not in sys.modules
    assert cellkit.get("far_cell").distribution == "far-lab"
    cellkit.register("far_cell", OtherCounter, overwrite=True)
    assert cellkit.get("far_cell").cls is OtherCounter


def test_a_distribution_that_comes_after_the_registration_collides_when_asked_for(site):
    cellkit.register("early", OtherCounter)
    install(site, "late-lab", {"early": "late_lab:Counter"})
    _, received, _, _ = raised(cellkit.get, "early")
    assert "late-lab" in received and "this process" in received


def test_a_plugin_may_both_declare_and_register_its_class(site):
    source = f"import cellkit\n{CELL}\ncellkit.register('both', Counter)\n"
    install(site, "both-lab", {"both": "both_lab:Counter"}, {"both_lab": source})
    assert cellkit.get("both").cls is cellkit.get("both").cls
    assert cellkit.get("both").cls.__module__ == "both_lab"


@pytest.mark.parametrize(
    ("name", "proposal"),
    [
        ("MyCell", "my"),
        ("my-cell", "my_cell"),
        ("2fast", "fast"),
        ("_hidden", "hidden"),
        ("double__score", "double_score"),
        ("trailing_", "trailing"),
        ("mit leer", "mit_leer"),
        ("", "my_cell"),
        ("größe", "gr_e"),
    ],
)
def test_names_are_lower_snake_case(own_registry, name, proposal):
    before = cellkit.list_cells()
    what, received, expected, fix = raised(cellkit.register, name, Counter)
    assert repr(name) in what and repr(name) in received
    assert "lower_snake_case" in expected and f"'{proposal}'" in fix
    assert cellkit.list_cells() == before
    cellkit.register(proposal, Counter)


def test_a_decorator_without_parentheses_is_explained():
    what, received, expected, fix = raised(cellkit.register, Counter)
    assert "name" in what and "Counter" in received and "text" in expected and "parentheses" in fix


@pytest.mark.parametrize("thing", [Counter(), lambda: Counter(), "Counter"])
def test_only_classes_are_registered(own_registry, thing):
    what, received, expected, fix = raised(cellkit.register, "thing", thing)
    assert "not a class" in what and type(thing).__name__ in received
    assert "class" in expected and "itself" in fix
    assert "thing" not in cellkit.list_cells()


def test_a_class_that_is_no_cell_is_refused(own_registry):
    class Lacking:
        def call(self, inputs, states):
            return inputs, states

    what, received, expected, fix = raised(cellkit.register, "lacking", Lacking)
    assert "not a cell" in what and received.endswith("without state_size")
    assert "state_size" in expected and "cellkit.Cell" in fix
    _, received, _, _ = raised(cellkit.register, "lacking", type("Silent", (), {"state_size": 3}))
    assert received.endswith("without call(inputs, states)")
    assert "lacking" not in cellkit.list_cells()


def test_state_size_may_be_set_in_the_constructor_or_be_a_property(own_registry):
    class Sets:
        def __init__(self):
            self.state_size = [3, (2, 2)]

        def call(self, inputs, states):
            return inputs, states

    class Has:
        call = Sets.call

        @property
        def state_size(self):
            return 3

    class Inherits(Sets):
        pass

    for name, cls in (("sets", Sets), ("has", Has), ("inherits", Inherits)):
        cellkit.register(name, cls)
        assert cellkit.create(name).state_size


def test_keras_own_cells_can_be_registered(own_registry):
    import keras

    for cls in (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell):
        cellkit.register("theirs", cls, overwrite=True)
        assert cellkit.create("theirs", units=3).units == 3
    raised(cellkit.register, "a_layer", keras.layers.Dense)
    what, received, _, fix = raised(cellkit.create, "theirs", units=3, activatio="relu")
    assert "activatio" in what and "relu" in received and "did you mean 'activation'" in fix


def test_a_spec_must_be_a_spec(own_registry):
    what, received, expected, fix = raised(cellkit.register, "specless", Counter, spec={"a": 1})
    assert "spec" in what and "{'a': 1}" in received and "CellSpec" in expected and "spec=" in fix
    raised(cellkit.register, "specless", type("Odd", (Counter,), {"spec": "see paper"}))
    assert "specless" not in cellkit.list_cells()


def test_registering_from_many_threads_loses_nothing(own_registry):
    names = [f"thread_{i}" for i in range(40)]
    classes = {name: type(name, (Counter,), {}) for name in names}
    start = threading.Barrier(len(names))
    failed = []

    def work(name):
        start.wait()
        try:
            cellkit.register(name, classes[name])
            cellkit.list_cells()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert {name: cellkit.get(name).cls for name in names} == classes


# --- trouble stays where it is ---------------------------------------------------------------


def test_two_distributions_with_one_name_collide_only_there(site):
    install(site, "one-lab", {"shared": "one_lab:Counter", "one_only": "one_lab:Counter"})
    install(site, "two-lab", {"shared": "two_lab:Counter", "two_only": "two_lab:Counter"})
    assert {"shared", "one_only", "two_only"} <= set(cellkit.list_cells())
    for function in (cellkit.get, cellkit.create):
        what, received, expected, fix = raised(function, "shared")
        assert "'shared'" in what and "one-lab 1.0" in received and "two-lab 1.0" in received
        assert "one declaration" in expected and "uninstall" in fix
    assert cellkit.get("one_only").distribution == "one-lab"
    assert cellkit.create("two_only", units=2).units == 2


def test_two_distributions_that_name_one_class_do_not_collide(site):
    install(site, "new-name", {"renamed": "renamed_lab:Counter"})
    install(site, "old-name", {"renamed": "renamed_lab : Counter"})
    (declared,) = registry.declarations()["renamed"]
    assert declared.distribution in ("new-name", "old-name")
    assert cellkit.create("renamed", units=3).units == 3


BROKEN = {
    "missing module": ("import no_such_module_anywhere", "ModuleNotFoundError"),
    "error": ("1 / 0", "ZeroDivisionError"),
    "syntax": ("def broken(:", "SyntaxError"),
    "exit": ("raise SystemExit(3)", "SystemExit"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_plugin_that_fails_to_import_raises_only_when_asked_for(site, kind):
    source, cause = BROKEN[kind]
    install(site, "bad-lab", {"bad_cell": "bad_lab:Counter"}, {"bad_lab": source})
    install(site, "good-lab", {"good_cell": "good_lab:Counter"})
    assert {"bad_cell", "good_cell"} <= set(cellkit.list_cells())
    for function in (cellkit.get, cellkit.create):
        with pytest.raises(ValueError) as caught:
            function("bad_cell")
        what, received, expected, fix = parts(caught.value)
        assert "'bad_cell'" in what and cause in received and "bad-lab 1.0" in received
        assert "bad_lab" in expected and "update or uninstall bad-lab" in fix
        assert type(caught.value.__cause__).__name__ == cause
    assert cellkit.create("good_cell", units=3).units == 3


def test_a_listing_that_needs_the_import_warns_once_and_goes_on(site):
    spec = (
        "from cellkit import CellSpec, Paper\nfrom cellkit.registry import rename\n"
        "Counter.spec = CellSpec(reference=None, inputs=('f',), symbols=rename({}),\n"
        "    cases={'a': {}, 'b': {'units': 2}}, paper=Paper('A', 2000, 'T', 'doi:1'))\n"
    )
    install(site, "bad-lab", {"x_bad": "bad_lab:Counter"}, {"bad_lab": "1 / 0"})
    install(site, "good-lab", {"x_good": "good_lab:Counter"}, {"good_lab": CELL + spec})
    install(site, "one-lab", {"x_twice": "one_lab:Counter"})
    install(site, "two-lab", {"x_twice": "two_lab:Counter"})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            assert cellkit.list_cells("x_*", traits="masking") == ["x_good"]
    texts = [str(w.message) for w in caught if w.category is cellkit.PluginWarning]
    assert len(texts) == 2
    bad, twice = sorted(texts, key=lambda text: "x_twice" in text)
    assert "ZeroDivisionError" in bad and "distribution bad-lab 1.0" in bad
    assert "one-lab" in twice and "two-lab" in twice
    assert all(w.filename == __file__ for w in caught)


def test_a_plugin_that_was_mended_works_at_once(site):
    install(site, "bad-lab", {"bad_cell": "bad_lab:Counter"}, {"bad_lab": "1 / 0"})
    raised(cellkit.get, "bad_cell")
    (site / "bad_lab.py").write_text(CELL + "\n# mended\n")
    assert cellkit.get("bad_cell").cls.__module__ == "bad_lab"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("fine_lab:NoSuchClass", "without NoSuchClass"),
        ("fine_lab:make", "a function"),
        ("fine_lab:Thing", "without call"),
        ("fine_lab", "without a class"),
    ],
)
def test_an_entry_point_that_names_no_cell_is_reported(site, target, said):
    source = CELL + "\ndef make(): return Counter()\n\nclass Thing: pass\n"
    install(site, "fine-lab", {"odd": target, "fine": "fine_lab:Counter"}, {"fine_lab": source})
    what, received, _, _ = raised(cellkit.get, "odd")
    assert "'odd'" in what and said in received
    assert cellkit.get("fine").cls.__name__ == "Counter"


def test_an_entry_point_with_a_bad_name_is_reported_and_the_others_work(site):
    install(site, "loud-lab", {"LOUD": "loud_lab:Counter", "quiet": "loud_lab:Counter"})
    what, received, expected, _ = raised(cellkit.get, "LOUD")
    assert "'LOUD'" in what and "loud-lab" in received and "lower_snake_case" in expected
    assert cellkit.get("quiet").cls.__name__ == "Counter"


def test_problem_of_says_why_a_cell_cannot_be_used(site):
    install(site, "bad-lab", {"bad_cell": "bad_lab:Counter"}, {"bad_lab": "1 / 0"})
    install(site, "good-lab", {"good_cell": "good_lab:Counter"})
    assert "ZeroDivisionError" in str(registry.problem_of("bad_cell"))
    assert registry.problem_of("good_cell") is None


# --- saved configurations --------------------------------------------------------------------


def test_plugins_that_a_saved_configuration_names_are_imported(site):
    install(site, "saved-lab", {"saved": "saved_lab:Counter"})
    (site / "stranger.py").write_text("raise RuntimeError('nobody declared this module')")
    config = {
        "module": "cellkit.rnn",
        "class_name": "RNN",
        "config": {
            "cells": [
                {"module": "saved_lab", "class_name": "Counter", "config": {}},
                {"module": "stranger", "class_name": "Counter", "config": {}},
                {"module": None, "class_name": "Counter"},
                {"module": "keras", "class_name": "Zeros"},
            ]
        },
    }
    assert registry.import_plugins(config) == ["saved_lab"]
    assert "saved_lab" in sys.modules and "stranger" not in sys.modules
    assert registry.import_plugins(config) == []


@pytest.mark.parametrize("place", ["cell", "argument", "list"])
def test_a_file_makes_no_module_run_that_no_entry_point_declares(site, place):
    folder = site / "honest_lab"
    folder.mkdir()
    (folder / "__init__.py").write_text("from honest_lab.cells import Counter")
    (folder / "cells.py").write_text(
        "class Counter:\n    state_size = 1\n    def call(self, x, s): return x, s\n"
    )
    (folder / "trap.py").write_text("raise RuntimeError('the trap has run')")
    install(site, "honest-lab", {"honest": "honest_lab:Counter"})
    trap = {"module": "honest_lab.trap", "class_name": "Anything", "config": {}}
    named = {"module": "honest_lab.cells", "class_name": "Counter", "config": {}}
    config = {
        "cell": trap,
        "argument": {**named, "config": {"hyper": {"deep": [trap]}}},
        "list": [named, trap],
    }[place]
    assert registry.import_plugins(config) == ["honest_lab"]
    assert "honest_lab.trap" not in sys.modules
    registry.import_plugins(config)
    assert "honest_lab.trap" not in sys.modules


# --- the front of the package ----------------------------------------------------------------


def test_every_public_name_is_there_and_no_other():
    assert set(cellkit.__all__) <= set(dir(cellkit))
    for name in cellkit.__all__:
        assert getattr(cellkit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'NoSuchName'"):
        cellkit.NoSuchName  # noqa: B018
