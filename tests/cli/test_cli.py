"""The command line: what it prints, its exit codes, and how little it imports."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from fake_distributions import CELL, install
from three_parts import parts

import cellkit
from cellkit import _backends, _distribution, cli, doctor
from cellkit.registry import FAMILIES

pytestmark = pytest.mark.one_backend

SPEC = '''
from cellkit import CellSpec, Paper
from cellkit.registry import rename

Counter.__doc__ = """Counts [its] steps.

    The paper: A. Uthor (2001), doi:10.1/2.

    n' = n + 1

    Args:
        units: Ignored.
    """
Counter.spec = CellSpec(
    reference=None,
    inputs={"video": ("h", "w", 3), "audio": ("f",)},
    cases={"default": {"units": 1}, "wide": {"units": 2}},
    paper=Paper("A. Uthor", 2001, "On counting", "doi:10.1/2"),
    symbols=rename({"kernel": "W"}),
    traits={"masking", "dropout"},
    deviations=("The paper counts [from] one.",),
    aliases={"counter_wide": {"units": 2}},
    dims={"f": (2, 4)},
    states=("n",),
)
'''


def command(*words, path=None, code=None, **environment):
    """Run the command in a process of its own, optionally with a folder on its path."""
    start = f"sys.path.insert(0, {str(path)!r}); " if path else ""
    program = code or f"from cellkit.cli import main; sys.exit(main({list(words)!r}))"
    return subprocess.run(
        [sys.executable, "-c", f"import sys; {start}{program}"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.fixture(autouse=True)
def own_app(monkeypatch):
    """Start without the suite's commands: an earlier test in the process may have added them."""
    own = [info for info in cli.app.registered_commands if info.name not in cli._CONFORMANCE]
    monkeypatch.setattr(cli.app, "registered_commands", own)


@pytest.fixture
def site(tmp_path, monkeypatch, own_registry):
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def far_lab(site):
    install(site, "far-lab", {"far_cell": "far_lab:Counter"}, {"far_lab": CELL + SPEC}, "2.5")
    return site


# --- list ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["list"], ["list", "far*"], ["list", "--json"], ["--version"], ["list", "--help"]]
)
def test_quick_commands_import_nothing_heavy(tmp_path, words):
    install(tmp_path, "far-lab", {"far_cell": "far_lab:Counter"})
    heavy = ["keras", "numpy", "tensorflow", "torch", "jax", "far_lab", "cellkit_conformance"]
    code = (
        f"from cellkit.cli import main; code = main({words!r}); "
        f"found = set({heavy!r}) & set(sys.modules); assert not found, found; sys.exit(code)"
    )
    done = command(path=tmp_path, code=code)
    assert done.returncode == 0, done.stderr
    assert ("far_cell" in done.stdout) == ("--help" not in words and "--version" not in words)


def test_list_answers_at_once():
    """Half a second on an idle machine is the promise; the processor time is what is stable."""
    code = (
        "from cellkit.cli import main; main(['list']); import time; "
        "print(time.process_time(), file=sys.stderr)"
    )
    seconds = min(float(command(code=code).stderr) for _ in range(3))
    assert seconds < 0.5


def test_list_shows_name_class_and_distribution(far_lab, capsys):
    assert cli.main(["list", "far*"]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "far_cell" in x]
    assert line.split() == ["far_cell", "far_lab:Counter", "far-lab", "2.5"]
    assert "far_lab" not in sys.modules


def test_list_as_json(far_lab, capsys):
    assert cli.main(["list", "far*", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "name": "far_cell",
            "class": "far_lab:Counter",
            "distribution": "far-lab",
            "version": "2.5",
            "problem": None,
            "family": None,
            "use_when": None,
            "tags": None,
        }
    ]


def test_list_with_papers_and_by_trait(far_lab, capsys):
    install(far_lab, "bare-lab", {"far_bare": "bare_lab:Counter"})
    assert cli.main(["list", "far*", "--verbose"]) == 0
    assert "A. Uthor (2001): On counting. doi:10.1/2" in capsys.readouterr().out
    assert cli.main(["list", "--trait", "dropout", "--trait", "masking", "far*"]) == 0
    out = capsys.readouterr().out
    assert "far_cell" in out and "far_bare" not in out
    assert cli.main(["list", "--trait", "zoneout", "far*"]) == 1
    assert "No cell fits 'far*' with zoneout." in capsys.readouterr().err


GUIDE = """
import dataclasses
from cellkit import Guide

Counter.spec = dataclasses.replace(
    Counter.spec,
    guide=Guide("my_lab:counters", "Use it when you count [steps].", ("tiny", "my_lab:even")),
)
"""


def test_list_by_family_and_tag(site, capsys):
    install(
        site, "far-lab", {"far_cell": "far_lab:Counter"}, {"far_lab": CELL + SPEC + GUIDE}, "2.5"
    )
    for words in (
        ["--tag", "tiny", "--tag", "my_lab:even"],
        ["--family", "my_lab:counters", "-v"],
        ["--trait", "masking", "--tag", "tiny"],
    ):
        assert cli.main(["list", "far*", *words]) == 0
        out = capsys.readouterr().out
        assert "my_lab:counters: a family of another package" in out
        assert "you count [steps]" in out and "tiny, my_lab:even" in out
    for words in (["--tag", "spiking"], ["--family", "gru"]):
        assert cli.main(["list", "far*", *words]) == 1
        assert f"No cell fits 'far*' with {words[1]}." in capsys.readouterr().err


def test_list_is_in_the_order_of_families(capsys):
    assert cli.main(["list", "--json"]) == 0
    family = {row["name"]: row["family"] for row in json.loads(capsys.readouterr().out)}
    assert cli.main(["list"]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    heads = [line.partition(":")[0] for line in lines if not line.startswith(" ")]
    assert heads == [name for name in FAMILIES if name in family.values()]
    head, under = "", {}
    for line in lines:
        if line.startswith(" "):
            under[line.split()[0]] = head
        else:
            head = line.partition(":")[0]
    assert under == family


def test_a_tag_may_be_written_with_hyphens(capsys):
    said = []
    for written in ("irregular time", "irregular-time", "Irregular_Time"):
        assert cli.main(["list", "-q", "--tag", written]) == 0
        said.append(capsys.readouterr().out.split())
    assert said[0] == said[1] == said[2] and "gru_d" in said[0]


@pytest.mark.parametrize("option", ["--tag", "--family"])
def test_an_unknown_tag_or_family_is_wrong_use(option, capsys):
    assert cli.main(["list", option, "irregula"]) == 64
    _, received, expected, fix = parts(capsys.readouterr().err)
    assert "'irregula'" in received and "'kind:detail'" in expected
    assert ("did you mean 'irregular time'" in fix) == (option == "--tag")


@pytest.mark.parametrize("more", [[], ["--json"], ["-q"], ["--verbose"]])
def test_list_without_a_hit_says_so_and_fails(capsys, more):
    assert cli.main(["list", "no_such*", *more]) == 1
    printed = capsys.readouterr()
    assert printed.err == "No cell fits 'no_such*'.\n"
    assert printed.out == ("[]\n" if more == ["--json"] else "")


def test_list_without_a_hit_names_what_is_near(capsys):
    assert cli.main(["list", "lsmt"]) == 1
    assert "No cell fits 'lsmt'. Did you mean 'lstm'" in capsys.readouterr().err


def test_list_names_alone(capsys):
    assert cli.main(["list", "-q", "lstm*"]) == 0
    assert capsys.readouterr().out.split() == cellkit.list_cells("lstm*")


def test_list_by_trait_is_what_the_registry_lists(capsys):
    for trait in ("linear", "equiv:LSTM"):
        assert cli.main(["list", "-q", "--trait", trait]) == 0
        assert capsys.readouterr().out.split() == cellkit.list_cells(traits=trait)


def test_list_names_collisions_and_goes_on(site, capsys):
    install(site, "one-lab", {"shared": "one_lab:Counter", "fine": "one_lab:Counter"})
    install(site, "two-lab", {"shared": "two_lab:Counter"})
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr()
    assert "fine" in printed.out and "shared" in printed.out
    assert "one-lab" in printed.err and "two-lab" in printed.err
    assert cli.main(["list", "shared", "--json"]) == 0
    assert "two-lab" in json.loads(capsys.readouterr().out)[0]["problem"]


# --- show ------------------------------------------------------------------------------------


def test_show_tells_what_the_spec_holds(far_lab, capsys):
    assert cli.main(["show", "far_cell"]) == 0
    out = capsys.readouterr().out
    for said in (
        "Counts [its] steps.",
        "n' = n + 1",
        "far_lab:Counter",
        "far-lab 2.5",
        "A. Uthor (2001): On counting. doi:10.1/2",
        "https://doi.org/10.1/2",
        "video: ('h', 'w', 3)",
        "wide: {'units': 2}",
        "dropout, masking",
        "The paper counts [from] one.",
        "counter_wide: {'units': 2}",
        "f: (2, 4)",
        "n: 1 (case 'default')",
        "kernel = W",
    ):
        assert said in out, said
    assert "units = 1. Ignored." in out


def test_show_one_line(far_lab, capsys):
    assert cli.main(["show", "far_cell", "--quiet"]) == 0
    assert capsys.readouterr().out == "Counts [its] steps.\n"


def test_show_tells_arguments_defaults_and_an_example(capsys):
    assert cli.main(["show", "phased_lstm"]) == 0
    out = capsys.readouterr().out
    for said in (
        "units: has to be given. Number of units H.",
        "alpha = 0.001. The leak of closed units.",
        "dropout = 0.0",
        'cellkit.RNN("phased_lstm", units=4, return_sequences=True)(inputs)',
    ):
        assert said in out, said


def test_show_as_json(far_lab, capsys):
    assert cli.main(["show", "far_cell", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["name"] == "far_cell" and told["traits"] == ["dropout", "masking"]
    assert told["inputs"] == {"video": ["h", "w", 3], "audio": ["f"]}


def test_show_a_cell_without_spec_and_a_class_that_is_not_registered(site, capsys):
    install(site, "bare-lab", {"bare": "bare_lab:Counter"})
    for name in ("bare", "bare_lab:Counter"):
        assert cli.main(["show", name]) == 0
        out = capsys.readouterr().out
        assert "Counts its steps." in out and "none: the conformance suite can't" in out


@pytest.mark.slow
def test_every_registered_cell_can_be_shown(capsys):
    for name in cellkit.list_cells():
        assert cli.main(["show", name]) == 0, name
        assert cellkit.get(name).spec.paper.title in capsys.readouterr().out


# --- wrong use -------------------------------------------------------------------------------


def test_an_unknown_cell_is_three_parts_on_stderr_without_a_traceback(capsys):
    assert cli.main(["show", "lstmm"]) == 64
    printed = capsys.readouterr()
    what, received, _, fix = parts(printed.err.rstrip("\n"))
    assert "'lstmm'" in what and "'lstmm'" in received and "did you mean 'lstm'" in fix
    assert printed.out == ""


@pytest.mark.parametrize("how", ["before", "after", "environment"])
def test_debug_shows_the_traceback(monkeypatch, capsys, how):
    words = ["show", "lstmm"]
    if how == "environment":
        monkeypatch.setenv("CELLKIT_DEBUG", "1")
    else:
        words = ["--debug", *words] if how == "before" else [*words, "--debug"]
    assert cli.main(words) == 64
    printed = capsys.readouterr().err
    assert "Traceback (most recent call last)" in printed and "did you mean 'lstm'" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lst"], "Did you mean 'list'"),
        (["list", "--nonsense"], "--nonsense"),
        (["list", "a", "b"], "unexpected extra argument"),
        (["show"], "Missing argument"),
        (["doctor", "--timeout", "soon"], "--timeout"),
    ],
)
def test_wrong_use_has_exit_code_64(capsys, words, said):
    assert cli.main(words) == 64
    assert said in capsys.readouterr().err


def test_a_defect_shows_its_traceback_and_has_exit_code_70(monkeypatch, capsys):
    def fail(name):
        raise ValueError("an unexpected one")

    monkeypatch.setattr(cli.facts, "read", fail)
    assert cli.main(["show", "lstm"]) == 70
    printed = capsys.readouterr().err
    assert "Traceback (most recent call last)" in printed and "an unexpected one" in printed


def test_no_words_show_the_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(said in out for said in ("list", "show", "doctor", "64 wrong use"))


@pytest.mark.parametrize("words", [["-h"], ["list", "-h"], ["show", "-h"], ["explain", "-h"]])
def test_a_short_word_for_help(capsys, words):
    assert cli.main(words) == 0
    assert "Usage: cellkit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "environment", "coloured"),
    [
        ([], {}, False),
        ([], {"FORCE_COLOR": "1"}, True),
        (["--color"], {}, True),
        (["--color"], {"NO_COLOR": "1"}, True),
        (["--no-color"], {"FORCE_COLOR": "1"}, False),
    ],
)
def test_colour_and_no_colour(words, environment, coloured):
    for command_words in (["explain", "MSK-03"], ["show", "lstm"]):
        done = command(*words, *command_words, **environment)
        assert done.returncode == 0 and ("\x1b[" in done.stdout) == coloured


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("cellkit show phas", "phased_lstm"), ("cellkit explain MSK-0", "MSK-03")],
)
def test_completion(typed, completed):
    done = command(
        _CELLKIT_COMPLETE="complete_bash",
        COMP_WORDS=typed,
        COMP_CWORD="2",
        code="from cellkit.cli import main; sys.exit(main([]))",
    )
    assert completed in done.stdout.split(), done


def test_the_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"cellkit {cellkit.__version__}\n"


def test_the_installed_command_and_python_dash_m():
    script = Path(sys.executable).with_name("cellkit")
    for start in ([str(script)], [sys.executable, "-m", "cellkit"]):
        done = subprocess.run([*start, "--version"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, f"cellkit {cellkit.__version__}\n")
        done = subprocess.run([*start, "show", "lstmm"], capture_output=True, text=True)
        assert done.returncode == 64 and "Traceback" not in done.stderr


# --- the commands of the conformance suite ---------------------------------------------------


def suite_module(calls):
    module = types.ModuleType("cellkit_conformance.cli")
    module.__path__ = []

    def add_commands(app):
        calls.append(app)

        @app.command("conform")
        def conform(cell: str) -> int:
            """Prove cells."""
            print(f"conforming {cell}")
            return 3

        @app.command("explain")
        def explain() -> None:
            """Explain."""

    module.add_commands = add_commands
    return module


def test_the_suite_adds_its_commands_only_when_asked_for(monkeypatch, capsys):
    calls = []
    monkeypatch.setitem(sys.modules, "cellkit_conformance.cli", suite_module(calls))
    for words in (["list"], ["list", "--json"], ["show", "--help"], ["--version"]):
        assert cli.main(words) == 0
    assert calls == []
    assert cli.main(["conform", "lstm"]) == 3  # the command's own exit code
    assert "conforming lstm" in capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    assert "Prove cells." in capsys.readouterr().out
    assert calls == [cli.app]  # once, however many commands were run


def test_without_the_suite_its_commands_say_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cellkit_conformance.cli", None)
    for word in ("conform", "golden", "selftest", "explain"):
        assert cli.main([word, "lstm"]) == 64
        what, received, expected, fix = parts(capsys.readouterr().err.rstrip("\n"))
        assert f"`cellkit {word}`" in what and "cellkit_conformance.cli" in received
        assert "conformance" in expected and "pip install 'keras-cellkit[conformance]'" in fix
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr()
    assert "doctor" in printed.out and "conformance suite are left out" in printed.err


def test_a_defect_in_the_suite_is_not_taken_for_its_absence(tmp_path):
    (tmp_path / "cellkit_conformance").mkdir()
    (tmp_path / "cellkit_conformance" / "__init__.py").write_text("")
    (tmp_path / "cellkit_conformance" / "cli.py").write_text("1 / 0\n")
    done = command("conform", path=tmp_path)
    assert done.returncode == 70 and "ZeroDivisionError" in done.stderr


# --- doctor ----------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Answer for the processes that the doctor starts, and give it a Keras home of its own."""
    answers = {
        name: (
            {"backend": name, "devices": ["cpu:0"], "x64": False if name == "jax" else None},
            None,
        )
        for name in doctor.BACKENDS
    }
    plugins = {name: None for name in cellkit.list_cells()}

    def run(code, backend, timeout):
        return (plugins, None) if "problem_of" in code else answers[backend]

    monkeypatch.setattr(doctor, "_run", run)
    monkeypatch.setattr(_backends, "installed", lambda: list(doctor.BACKENDS))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    return types.SimpleNamespace(answers=answers, plugins=plugins, home=tmp_path)


def findings(report, subject):
    return [f for found in report.groups.values() for f in found if f.subject == subject]


def test_doctor_of_a_healthy_machine(quick, capsys):
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr()
    for said in ("python", "3.", "cellkit", "keras", "torch", "configured backend", "cpu:0", "x64"):
        assert said in printed.out
    assert "Everything works." in printed.out and "Trying jax" in printed.err


def test_doctor_as_json(quick, capsys):
    assert cli.main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["healthy"] is True
    assert list(told["groups"]) == ["Versions", "Configuration", "Backends", "Plugins"]


def test_doctor_reports_a_broken_backend(quick, capsys):
    quick.answers["jax"] = (None, "ImportError: libfoo.so")
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "ImportError: libfoo.so" in out
    end = out[out.index("Something is broken. What to do:") :].splitlines()
    assert end[1:] == ["  install jax again, or uninstall it"]


def test_doctor_ends_with_the_line_that_sets_a_backend(quick, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "pytorch")
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "cellkit does not run on 'pytorch'" in out
    assert out.endswith("What to do:\n  export KERAS_BACKEND=torch\n")


def test_doctor_ends_with_what_is_worth_doing(quick, capsys):
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  for float64 on JAX: export JAX_ENABLE_X64=1" in lines[lines.index("Worth doing:") :]


def test_doctor_tells_absent_backends_from_needed_ones(quick, monkeypatch):
    monkeypatch.setattr(_backends, "installed", lambda: ["tensorflow", "torch"])
    report = doctor.examine()
    assert report.healthy and findings(report, "jax")[0].state == "absent"
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    report = doctor.examine()
    assert not report.healthy and findings(report, "jax")[0].state == "broken"
    assert report.to_do == ("pip install 'keras-cellkit[jax]', or export KERAS_BACKEND=tensorflow",)


def test_doctor_without_any_backend(quick, monkeypatch):
    monkeypatch.setattr(_backends, "installed", lambda: [])
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    report = doctor.examine()
    assert report.to_do == ("pip install 'keras-cellkit[torch]' && export KERAS_BACKEND=torch",)
    assert findings(report, "backends")[0].state == "broken"
    assert findings(report, "cells")[0].state == "note"


def test_doctor_reads_keras_json(quick, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND")
    (quick.home / "keras.json").write_text('{"backend": "jax", "floatx": "float32"}')
    report = doctor.examine()
    assert report.healthy and "backend jax" in findings(report, "keras.json")[0].text
    assert "configured backend" in findings(report, "jax")[0].text
    (quick.home / "keras.json").write_text("{broken")
    assert findings(doctor.examine(), "keras.json")[0].state == "broken"
    (quick.home / "keras.json").write_text('{"backend": "mxnet"}')
    assert findings(doctor.examine(), "backend")[0].state == "broken"


def test_doctor_of_a_backend_without_gradients(quick, monkeypatch):
    def told(report):
        return next(f for f in report.groups["Backends"] if f.subject == "numpy")

    said = told(doctor.examine())
    assert said.state == "ok" and "inference alone" in said.text
    quick.answers["numpy"] = ({"backend": "numpy", "devices": ["cpu"], "x64": None}, None)
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    report = doctor.examine()
    assert report.healthy and "configured backend" in told(report).text
    assert findings(report, "numpy trains nothing")[0].state == "note"
    quick.answers["numpy"] = (None, "no module")
    assert told(doctor.examine()).state == "broken"


def test_doctor_reports_broken_and_colliding_plugins(quick, site):
    install(site, "one-lab", {"shared": "one_lab:Counter"})
    quick.plugins["shared"] = "declared more than once"
    report = doctor.examine()
    assert not report.healthy and findings(report, "shared")[0].state == "broken"
    own = [f for f in report.groups["Plugins"] if _distribution.is_own(f.subject)]
    assert any(" lstm" in f.text for f in own)


def entry_point(folder, distribution):
    """Make a distribution of this project out of one that `install` has put into `folder`."""
    (information,) = folder.glob(f"{distribution.replace('-', '_')}-*.dist-info")
    with (information / "entry_points.txt").open("a") as file:
        file.write("[console_scripts]\ncellkit = cellkit.cli:main\n")


def own_findings():
    return {f.subject: (f.state, f.text, f.fix) for f in doctor._own_versions()}


@pytest.fixture
def no_others(monkeypatch, tmp_path):
    """Hide the distributions that are installed, those of the environment's own cellkit."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def test_doctor_says_which_distribution_is_ours(no_others):
    install(no_others, "keras-cellkit", version="0.1.0")
    entry_point(no_others, "keras-cellkit")
    assert own_findings() == {"keras-cellkit": ("ok", "0.1.0", "")}


def test_doctor_without_a_distribution(no_others):
    found = own_findings()["keras-cellkit"]
    assert found == ("broken", "not installed", "pip install keras-cellkit")


def test_doctor_tells_of_another_project_of_that_name(no_others):
    install(no_others, "keras-cellkit", version="0.1.0")
    entry_point(no_others, "keras-cellkit")
    install(no_others, "cellkit", version="0.0.0")
    state, text, fix = own_findings()["cellkit"]
    assert state == "note" and "0.0.0 is a distribution of another project" in text
    assert fix == "pip uninstall cellkit"
    (no_others / "cellkit-0.0.0.dist-info" / "RECORD").write_text("cellkit/__init__.py,,\n")
    state, text, fix = own_findings()["cellkit"]
    assert state == "broken" and "its files lie among ours" in text
    assert fix.endswith("pip install --force-reinstall --no-deps keras-cellkit")


def test_doctor_without_ours_but_with_another_project_of_that_name(no_others):
    install(no_others, "cellkit", version="0.0.0")
    found = own_findings()
    assert found["keras-cellkit"][0] == "broken" and found["cellkit"][0] == "note"


def test_doctor_tells_of_an_installation_under_the_former_name(no_others):
    install(no_others, "cellkit", version="0.1.0")
    entry_point(no_others, "cellkit")
    state, text, _ = own_findings()["cellkit"]
    assert state == "note" and "the former name of keras-cellkit" in text
    install(no_others, "keras-cellkit", version="0.1.0")
    entry_point(no_others, "keras-cellkit")
    found = own_findings()
    assert found["keras-cellkit"] == ("ok", "0.1.0", "")
    assert "pip uninstall keras-cellkit cellkit" in found["cellkit"][2]


@pytest.mark.slow
def test_doctor_really_tries_a_backend_and_the_plugins(far_lab, backend):
    result, trouble = doctor._run(doctor._PROBE, backend, 300.0)
    assert trouble is None and result["backend"] == backend and result["devices"]
    install(far_lab, "bad-lab", {"bad_cell": "bad_lab:Counter"}, {"bad_lab": "1 / 0"})
    install(far_lab, "more-lab", {"far_cell": "more_lab:Counter"})
    problems, trouble = doctor._run(doctor._PROBE_PLUGINS, backend, 300.0)
    assert trouble is None and "ZeroDivisionError" in problems["bad_cell"]
    assert "far-lab" in problems["far_cell"] and "more-lab" in problems["far_cell"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import time; time.sleep(60)", "no answer in 1 seconds"),
        ("import os; os.abort()", "signal 6"),
        ("raise ImportError('libfoo.so')", "ImportError: libfoo.so"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
def test_doctor_survives_what_it_tries(backend, code, said):
    result, trouble = doctor._run(code, backend, 1.0 if "sleep" in code else 60.0)
    assert result is None and trouble == said or said in trouble
