"""Reproduction scripts: they fail on the mutant, pass on the canary, and need no suite."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from cheap import cheaply

from cellkit_conformance.edition import requirements
from cellkit_conformance.edition.profiles import PROFILES
from cellkit_conformance.examples import shrink
from cellkit_conformance.judge import Judge
from cellkit_conformance.run.process import QUIET
from cellkit_conformance.selftest.mutants import MUTANTS
from cellkit_conformance.subject.targets import resolve

ROOT = Path(__file__).parents[2]
BACKEND = keras.backend.backend()

# One of each kind: values, a gradient, a gradient through a mask, an error.
FEW = {("WrongSign", "NUM-02"), ("CutGradient", "GRD-04"), ("MaskIgnored", "MSK-02")}
FEW |= {("CutGradient", "MSK-10"), ("OtherErrors", "ERR-01")}

# The scripts of these hold a claim of the spec against the cell, and the canary claims otherwise.
OTHER_CLAIM = {"MSK-17", "RNG-11", "DTY-04"}

# The cell raises in a recorded call, which says all.
RAISING = {"STA-05"}

# PyTorch connects nothing where a weight has no effect, and there is no gradient to show; what
# the first broken cell does wrong is found by other means.
NONE = {"GRD-03", "MSK-10", "NUM-10", "STA-13"}

DRIVER = """
import contextlib, io, json, sys
found = []
for text in json.load(sys.stdin):
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(text, "script", "exec"), {"__name__": "__main__"})
        found.append(None)
    except Exception as error:
        found.append(f"{type(error).__name__}: {error}"[:300])
print(json.dumps(found))
"""

LAB = '''
import keras


class Sum(keras.layers.Layer):
    """Adds up its inputs, and forgets the rows."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.state_size = self.output_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.state_size), name="kernel")

    def call(self, inputs, states, training=False):
        new = keras.ops.tanh(keras.ops.matmul(inputs, self.kernel) + states[0])
        return new SIGN keras.ops.mean(new, axis=0), [new]
'''


JUDGE = """
import json, sys
import keras
from cellkit_conformance.selftest.mutants import MUTANTS
from cellkit_conformance.run.worker import divide_processor
backend = keras.backend.backend()
divide_processor(backend)
if backend == "jax":
    sys.modules.setdefault("tensorflow", None)
found = []
for mutant in MUTANTS:
    for identifier in {"CMP-01", "CMP-02", "DEV-01", "DEV-04"} & set(mutant.kills):
        found.append([mutant.name, mutant.judge(backend).run(identifier).script])
print(json.dumps(found))
"""


def run(given, program=DRIVER):
    """Run scripts in one process that has never seen the suite, and could have two processors."""
    cheap = cheaply()
    if cheap:
        cheap["XLA_FLAGS"] += " " + QUIET["XLA_FLAGS"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        input=json.dumps(given),
        env={**QUIET, **os.environ, **cheap},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def is_replay(text):
    return "import replay" in text


def on_canary(text, mutant):
    """Put what is right in the place of what is broken."""
    # No canary is a plugin that cellkit would find, so a process that loads a model imports it.
    text = text.replace(
        "import os, sys\n", "import os, sys, cellkit_conformance.subject.canaries\n"
    )
    if mutant.name == "RNN":
        text = re.sub(r"keras\.layers\.RNN\b", "cellkit.RNN", text)
        return text.replace("import keras\n", "import cellkit\nimport keras\n")
    if mutant.cell:
        pattern = rf"from \S+ import {mutant.name}\n"
        return re.sub(pattern, f"from cellkit import RNN as {mutant.name}\n", text)
    if isinstance(mutant.broken, str):  # of a module of its own
        right = f"from cellkit_conformance.subject.canaries import PlainCanary as {mutant.name}\n"
        return re.sub(rf"from \S+ import {mutant.name}\n", right, text)
    parents = mutant.broken.__mro__[1:]
    canary = next((c for c in parents if c.__module__.endswith(".canaries")), parents[0])
    module = "keras.layers" if canary.__module__.startswith("keras.") else canary.__module__
    right = f"from {module} import {canary.__name__} as {mutant.name}\n"
    return re.sub(rf"from \S+ import {mutant.name}\n", right, text)


@pytest.mark.parametrize("each", ["kind", pytest.param("requirement", marks=pytest.mark.full)])
def test_scripts_fail_on_the_mutant_and_pass_on_the_canary(each):
    every = each == "requirement"
    cases, seen = [], set()
    for mutant in MUTANTS:
        judge = mutant.judge(BACKEND)
        for identifier in mutant.kills:
            if (every and identifier not in seen) or (mutant.name, identifier) in FEW:
                result = judge.run(identifier)
                if not result.outcome.is_bad:
                    continue  # not on this backend: the mutants' own test has an eye on that
                cases.append((mutant, identifier, result.script))
                seen.add(identifier)
    assert len(cases) >= (50 if every else len(FEW))
    assert not [(m.name, i, text) for m, i, text in cases if text.startswith("# No script")]
    standalone = {i for _, i, text in cases if not is_replay(text)}
    assert not {i for i in standalone if requirements()[i].script == "replay"} - RAISING
    if every and BACKEND == "torch":
        assert {i for i, r in requirements().items() if r.script != "replay"} - standalone == NONE
    broken = run([text for _, _, text in cases])
    survived = [(m.name, i) for (m, i, _), said in zip(cases, broken, strict=True) if not said]
    assert not survived
    right = [(m, i, on_canary(t, m)) for m, i, t in cases if i not in OTHER_CLAIM]
    found = run([text for _, _, text in right])
    wrong = [(m.name, i, said) for (m, i, _), said in zip(right, found, strict=True) if said]
    assert not wrong


def test_the_page_says_which_requirement_is_shown_by_which_program():
    page = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    section = page.partition("## Programs of failures")[2].partition("\n## ")[0]
    alone, replayed = section.split("shown by a replay")
    for text, script in ((alone, "standalone"), (replayed, "replay")):
        ids = re.findall(r"[A-Z]{3}-\d\d", text)
        assert ids == [i for i, r in requirements().items() if r.script == script]


@pytest.mark.skipif(BACKEND == "torch", reason="these checks do not apply on PyTorch")
@(pytest.mark.full if BACKEND == "tensorflow" else pytest.mark.slow)  # JAX's run every day
def test_scripts_of_compiled_functions_and_devices():
    scripts = run([], JUDGE)
    assert len(scripts) >= 4
    # In one process, and TensorFlow makes two processors of one only before it starts.
    scripts.sort(key=lambda entry: "LogicalDevice" not in entry[1])
    by_name = {mutant.name: mutant for mutant in MUTANTS}
    broken = run([text for _, text in scripts])
    assert all("AssertionError" in str(said) for said in broken), broken
    right = run([on_canary(text, by_name[name]) for name, text in scripts])
    assert right == [None] * len(scripts)


def test_a_script_needs_neither_the_suite_nor_hypothesis(tmp_path, monkeypatch):
    monkeypatch.setattr(shrink, "SECONDS", 600.0)  # however slow the machine
    lab = tmp_path / "lab.py"
    lab.write_text(LAB.replace("SIGN", "-"), encoding="utf-8")
    target = resolve(f"{lab}:Sum")
    import cellkit

    result = Judge(target, BACKEND, PROFILES["quick"], 0, cellkit.RNN).run("SEQ-05")
    assert result.outcome == "fail"
    # Two rows have to differ and one step is enough, with numbers that can be read.
    assert {k: result.example[k] for k in ("batch", "time", "values", "initial_state")} == {
        "batch": 2,
        "time": 1,
        "values": "plain",
        "initial_state": False,
    }
    assert len(result.script.partition("cell = ")[2].splitlines()) < 25
    assert not re.search(
        r"\d\.\d{3}", result.script.partition("weights = ")[2].partition("want")[0]
    )
    script = tmp_path / "seq_05.py"
    tail = "import sys\nprint({'hypothesis', 'cellkit_conformance', 'pytest'} & set(sys.modules))\n"
    script.write_text(result.script, encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "AssertionError" in done.stderr
    lab.write_text(LAB.replace("SIGN", "- 0 *"), encoding="utf-8")
    script.write_text(result.script + tail, encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "set()"


def test_a_script_says_what_must_hold_and_escapes_what_it_quotes(tmp_path):
    lab = tmp_path / "lab2.py"
    raising = 'raise KeyError(\'\\"\\"\\" \\\\ \\x00 quotes\')\n'
    text = LAB.replace("new = keras.ops.tanh", raising + "        new = keras.ops.tanh")
    lab.write_text(text.replace("SIGN", "-"), encoding="utf-8")
    import cellkit

    target = resolve(f"{lab}:Sum")
    result = Judge(target, BACKEND, PROFILES["quick"], 0, cellkit.RNN).run("SEQ-01")
    assert result.outcome == "error"
    assert "Must hold: Without a mask" in result.script
    assert "KeyError" in run([result.script])[0]
