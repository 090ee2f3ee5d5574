"""Write docs/others.md: what the recurrent cells of other packages keep, as installed here.

    python tools/measure_others.py                 run what is installed, and write the page
    python tools/measure_others.py --only ncps     run one package, and keep what is known of others

The packages are not dependencies: install ncps, keras-lmu, keras-spiking, hgq2, torchrecurrent and
flax beside cellkit. What a run finds is kept in docs/others.json. `tools/others/checked.toml` says
of every accusation what a look at the package's code and a few lines without the suite have shown;
one that nobody has looked at ends the tool with exit code 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "tools" / "others"
PAGE, DATA = ROOT / "docs" / "others.md", ROOT / "docs" / "others.json"
CHECKED = HERE / "checked.toml"

HEAD = """\
# Cells of other packages, measured

What `cellkit conform` finds in recurrent cells of other packages, in the quick profile: each with
the versions that were installed, on a backend that the package is written for. Cells of PyTorch and
Flax modules stand behind an adapter of some lines (`tools/others/cells.py`), and what the adapter
answers for (errors, configs) is left out. None has a reference here, so nothing is said of whether
a cell computes what its paper says.

Every accusation was checked by hand: in the package's code, and without the suite.
`tools/measure_others.py` writes this page.

| cell | package | backend | measured | pass | broken | do not apply | blocked |
|---|---|---|---|---:|---:|---:|---:|
"""


@dataclass(frozen=True)
class Entry:
    """One cell.

    Attributes:
        name: On the page.
        package: The distribution.
        module: Module to import.
        target: Target for `cellkit conform`.
        backend: Name of the backend.
        spec: The file of its spec in tools/others, or "".
        skip: Groups that are the adapter's.
    """

    name: str
    package: str
    module: str
    target: str
    backend: str
    spec: str = ""
    skip: str = ""


def _entries() -> list[Entry]:
    adapters = str(HERE.relative_to(ROOT) / "cells.py")
    found = [
        Entry("CfCCell", "ncps", "ncps", "ncps.keras:CfCCell", "torch"),
        Entry("LTCCell", "ncps", "ncps", "ncps.keras:LTCCell", "torch", "spec_ltc.py"),
        Entry(
            "LMUCell", "keras-lmu", "keras_lmu", "keras_lmu:LMUCell", "tensorflow", "spec_lmu.py"
        ),
    ]
    spiking = {
        "LowpassCell": "spec_lowpass.py",
        "AlphaCell": "spec_lowpass.py",
        "SpikingActivationCell": "spec_spiking.py",
    }
    for name, spec in spiking.items():
        target = f"keras_spiking:{name}"
        found.append(Entry(name, "keras-spiking", "keras_spiking", target, "tensorflow", spec))
    for name in ("QSimpleRNNCell", "QGRUCell"):
        found.append(
            Entry(name, "hgq2", "hgq", f"hgq.layers.rnn:{name}", "torch", "spec_quantised.py")
        )
    adapted = {
        "torchrecurrent": (
            "torch",
            "TorchRecurrentCell",
            ("MGUCell", "LEMCell", "PeepholeLSTMCell"),
        ),
        "flax": ("jax", "FlaxCell", ("GRUCell", "OptimizedLSTMCell", "MGUCell")),
    }
    for package, (backend, adapter, names) in adapted.items():
        for name in names:
            spec = f"spec_{package}_{name.lower()}.py"
            target = f"{adapters}:{adapter}"
            found.append(Entry(name, package, package, target, backend, spec, "ERR,SER,STR-13"))
    return found


def run(entry: Entry) -> dict[str, Any]:
    """Run the suite on a cell, and keep what the page tells.

    Args:
        entry: The cell.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "r.json")
        words = ["conform", entry.target, "--backend", entry.backend, "-q", "-n", "1"]
        words += ["--spec", str(HERE.relative_to(ROOT) / entry.spec)] if entry.spec else []
        words += ["--skip", entry.skip] if entry.skip else []
        done = subprocess.run(
            [sys.executable, "-m", "cellkit", *words, "--json", str(report)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if not report.is_file():
            sys.exit(f"{entry.target}: {done.stderr}")
        data = json.loads(report.read_text(encoding="utf-8"))
    versions = data["backends"][entry.backend]["versions"]
    bad = ("fail", "error", "timeout", "crash")
    return {
        "name": entry.name,
        "package": f"{entry.package} {metadata.version(entry.package)}",
        "backend": f"{entry.backend} {versions[entry.backend]}",
        "keras": versions["keras"],
        "created": data["created"],
        "edition": data["edition"],
        "seed": data["seed"],
        "cellkit": data["cellkit"],
        "platform": data["platform"],
        "counts": data["counts"],
        "broken": [
            {
                "requirement": r["requirement"],
                "level": data["requirements"][r["requirement"]]["level"],
                "cause": _short(r["extra"].get("cause", r["requirement"])),
                "message": _short(r["message"]),
            }
            for r in data["results"]
            if r["outcome"] in bad
        ],
    }


def _short(text: str) -> str:
    """Leave out where packages are installed."""
    return re.sub(r"\S*/site-packages/", "", text.replace(f"{ROOT}/", ""))


def page(found: dict[str, Any], checked: dict[str, dict[str, str]]) -> tuple[str, list[str]]:
    """Write the page, and name the accusations that nobody has looked at.

    Args:
        found: Measurements, by package and name.
        checked: Findings by hand, by cell and requirement.
    """
    rows, sections, unknown = [], [], []
    for key, entry in found.items():
        counts = entry["counts"]
        broken = sum(counts.get(outcome, 0) for outcome in ("fail", "error", "timeout", "crash"))
        numbers = [counts.get("pass", 0), broken, counts.get("n/a", 0), counts.get("blocked", 0)]
        columns = [entry["name"], entry["package"], entry["backend"], entry["created"][:10]]
        rows.append(f"| {' | '.join([*columns, *map(str, numbers)])} |\n")
        by_cause: dict[str, list[dict[str, str]]] = {}
        for result in entry["broken"]:
            by_cause.setdefault(result["cause"], []).append(result)
        lines = []
        for results in by_cause.values():
            first = results[0]
            said = checked.get(key, {}).get(first["requirement"])
            if said is None:
                unknown.append(f"{key} {first['requirement']}: {first['message']}")
            ids = ", ".join(r["requirement"] for r in results)
            level = "" if first["level"] == "must" else f" ({first['level']})"
            lines.append(f"- **{ids}**{level}: {said or first['message']}\n")
        if lines:
            sections.append(f"\n### {key}\n\n{''.join(lines)}")
    one = next(iter(found.values()))
    foot = f"\nEdition {one['edition']}, seed {one['seed']}, Keras {one['keras']}, cellkit "
    foot += f"{one['cellkit']}, {one['platform']}.\n"
    return HEAD + "".join(rows) + foot + "\n## What is broken\n" + "".join(sections), unknown


def main() -> int:
    """Run what is installed, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="one package")
    parser.add_argument("--page", action="store_true", help="write the page from docs/others.json")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if DATA.is_file():
        found = json.loads(DATA.read_text(encoding="utf-8"))
    for entry in _entries():
        if options.page or options.only not in (None, entry.package):
            continue
        if importlib.util.find_spec(entry.module) is None:
            print(f"{entry.package} is not installed: {entry.name} stays as it was measured")
            continue
        found[f"{entry.package} {entry.name}"] = run(entry)
        print(f"{entry.package} {entry.name}", flush=True)
        DATA.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text, unknown = page(found, tomllib.loads(CHECKED.read_text(encoding="utf-8")))
    PAGE.write_text(text, encoding="utf-8")
    for line in unknown:
        print(f"nobody has looked at {line}")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
