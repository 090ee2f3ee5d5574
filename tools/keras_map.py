"""Write docs/keras-map.md: what the conformance suite finds in `keras.layers.RNN`.

    python tools/keras_map.py --backend torch    # runs one backend and writes the page
    python tools/keras_map.py --backend torch --select RNG-03    # one requirement of it alone
    python tools/keras_map.py                    # writes the page from what was found before
    python tools/keras_map.py --check            # exit code 1 if the page is not what is found

A canary, which is known to be right, and a stock cell run every requirement of the edition in
Keras' own layer, so whatever fails there is a defect of Keras. What a backend gave is kept in
tools/keras_map.json, because the backends run in processes of their own, and rarely.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "conformance")]
DATA = ROOT / "tools" / "keras_map.json"
PAGE = ROOT / "docs" / "keras-map.md"
NAMES = {"tensorflow": "TensorFlow", "torch": "PyTorch", "jax": "JAX"}
CELLS = {"PlainCanary": "custom", "LSTMCell": "stock"}

HEAD = """# What Keras keeps

The same requirements that every cell has to meet in `cellkit.RNN`, run in `keras.layers.RNN`, on
the CPU, with {versions}. Two cells run in it: a *custom* one, a Keras layer with two states and an
output that is neither of them, which uses nothing of cellkit and meets every requirement in
`cellkit.RNN`; and a *stock* one, `keras.layers.LSTMCell`. A cell with a dict of states, matrix
states or integer states is no use here: `keras.layers.RNN` refuses the dict, and on no backend does
it run the others rightly ([D](keras-defects.md#d-structure-of-states-outputs-and-cells)).

{legend}

Each backend has one table, of what either cell does not keep there; what both keep stands below it.
The numbers in the last column lead to [what is broken in Keras](keras-defects.md), where each
defect is described. Some requirements ask for more than Keras promises, such as errors with three
parts; the page lists them all the same.

`python tools/keras_map.py --backend torch` runs it again, and `cellkit conform lstm --layer keras`
any cell.

"""


def run(backend: str, chosen: Sequence[str]) -> dict[str, Any]:
    """Run the canaries on the backend of this process, and return what was found.

    Args:
        backend: The backend.
        chosen: Ids or groups; nothing means all.
    """
    import keras

    from cellkit_conformance.edition import select
    from cellkit_conformance.edition.profiles import Profile
    from cellkit_conformance.judge import Judge
    from cellkit_conformance.run.worker import compile_cheaply, divide_processor
    from cellkit_conformance.subject import canaries
    from cellkit_conformance.subject.targets import describe

    divide_processor(backend)
    compile_cheaply(backend)
    if backend != "tensorflow":
        sys.modules.setdefault("tensorflow", None)  # type: ignore[arg-type]
    profile, start = Profile("quick", examples=2, all_cases=False, timeout=60.0), time.time()
    found: dict[str, dict[str, list[str]]] = {}
    for name in CELLS:
        cls = getattr(canaries, name, None) or getattr(keras.layers, name)
        target = describe(name, cls, getattr(cls, "spec", canaries.STOCK_SPEC))
        judge = Judge(
            target, backend, profile, 0, keras.layers.RNN, shrink=False, exchange=None, blame=False
        )
        found[name] = {}
        for identifier in select(chosen):
            result = judge.run(identifier)
            print(backend, name, identifier, result.outcome, result.message, file=sys.stderr)
            found[name][identifier] = [str(result.outcome), result.message]
    module = __import__(backend)
    versions = {"keras": keras.__version__, backend: module.__version__.split("+")[0]}
    return {"versions": versions, "seconds": round(time.time() - start), "found": found}


def page(data: dict[str, Any]) -> str:
    """Write the page.

    Args:
        data: Results of `run`, by backend.
    """
    from cellkit_conformance.edition import requirements
    from cellkit_conformance.judge.attribution import find

    backends = [name for name in NAMES if name in data]
    versions = ["Keras " + data[backends[0]]["versions"]["keras"]]
    versions += [f"{NAMES[b]} {data[b]['versions'][b]}" for b in backends]
    said = ", ".join(versions[:-1]) + " and " + versions[-1]
    lines = [HEAD.format(versions=said, legend=LEGEND)]
    lines += ["| | " + " | ".join(f"[{NAMES[b]}](#{b})" for b in backends) + " |"]
    lines += ["|---|" + "---|" * len(backends)]
    for name, short in CELLS.items():
        counts = []
        for backend in backends:
            outcomes = [entry[0] for entry in data[backend]["found"][name].values()]
            bad = sum(outcome in ("fail", "error") for outcome in outcomes)
            counts.append(f"{bad} of {bad + outcomes.count('pass')} broken")
        lines.append(f"| {short} | " + " | ".join(counts) + " |")
    for backend in backends:
        lines += ["", f"## {NAMES[backend]} {{ #{backend} }}", ""]
        lines += ["| | Requirement | " + " | ".join(CELLS.values()) + " | Defect |"]
        lines += ["|---|---|" + ":-:|" * len(CELLS) + "---|"]
        kept: dict[str, list[str]] = {"pass": [], "n/a": []}
        for identifier, requirement in requirements().items():
            found = [data[backend]["found"][c].get(identifier, ["", ""])[0] for c in CELLS]
            if not any(outcome in ("fail", "error") for outcome in found):
                kept["pass" if "pass" in found else "n/a"].append(identifier)
                continue
            sentence = requirement.sentence.replace("|", "\\|")
            should = "" if requirement.level == "must" else " *(should)*"
            defect = find(backend, "keras", identifier)
            link = f"[{defect.id[3:]}]({defect.link})" if defect else ""
            marks = " | ".join(MARKS.get(outcome, "") for outcome in found)
            lines.append(f"| `{identifier}` | {sentence}{should} | {marks} | {link} |")
        for outcome, text in (("pass", "Kept"), ("n/a", "Does not apply")):
            if kept[outcome]:
                names = ", ".join(f"`{identifier}`" for identifier in kept[outcome])
                lines += ["", f'??? note "{text}: {len(kept[outcome])} requirements"', ""]
                lines += [f"    {names}"]
    return "\n".join(lines) + "\n"


MARKS = {
    "pass": '<span class="kept">✓</span>',
    "fail": '<span class="broken">✗</span>',
    "error": '<span class="error">!</span>',
    "n/a": "–",
}
LEGEND = (
    f"| Sign | Meaning |\n|:-:|---|\n| {MARKS['pass']} | met |\n| {MARKS['fail']} | broken |\n"
    f"| {MARKS['error']} | an exception ended the check |\n| {MARKS['n/a']} | does not apply |"
)


def main() -> int:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backend", choices=sorted(NAMES), action="append", default=[])
    parser.add_argument("--select", action="append", default=[])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--here", choices=sorted(NAMES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print("\n" + json.dumps(run(options.here, options.select)))
        return 0
    data = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    from cellkit_conformance.run.process import QUIET

    for backend in options.backend:
        done = subprocess.run(
            [
                sys.executable,
                __file__,
                "--here",
                backend,
                *(f"--select={s}" for s in options.select),
            ],
            env={**QUIET, **os.environ, "KERAS_BACKEND": backend},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        new = json.loads(done.stdout.splitlines()[-1])
        if options.select:  # the rest stays as it was
            for name, found in new["found"].items():
                data[backend]["found"][name].update(found)
        else:
            data[backend] = new
        DATA.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    text = page(data)
    if options.check:
        same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        print("docs/keras-map.md is " + ("up to date" if same else "out of date"))
        return 0 if same else 1
    PAGE.write_text(text, encoding="utf-8")
    print("Wrote docs/keras-map.md.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
