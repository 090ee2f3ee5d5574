"""Write the tables of docs/benchmarks.md from the committed results.

    python tools/bench_tables.py            # writes them
    python tools/bench_tables.py --check    # exit code 1 if the page does not say what they say

`make bench` makes the results, benchmarks/results/results.json, and calls this script after.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "conformance")]

from cellkit_bench import report  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results" / "results.json"
BEGIN = "<!-- From benchmarks/results/results.json by tools/bench_tables.py: do not edit. -->\n"
END = "<!-- End of the tables. -->\n"
MODES = {"inference": "inference", "training": "training step"}
COLUMNS = {
    "keras.layers.RNN": "Keras' `RNN`",
    "keras.layers.": "Keras' built-in",
    "by hand": "by hand",
    "torch.nn.": "`torch.nn`",
    "flax.": "flax",
    "torchrecurrent.": "torchrecurrent",
}
"""The titles of the columns, by the beginnings of the names of contestants."""


def tables(results: dict[str, Any]) -> str:
    """Return the part of the page that shows `results`."""
    machine = results["machine"]
    parts = [
        f"Measured on {results['date'][:10]} with cellkit {results['cellkit']} on "
        f"{machine['cpu']}, {machine['cpus']} CPUs, load {machine['load_at_start']} at the start. "
        "`cellkit.RNN` is a median time, with its engine and the part of it that the matrix "
        "products alone would take. Under the other names stands what `cellkit.RNN` takes of "
        "their time: less than 1 is faster than they are.\n"
    ]
    rate = report.rates(results)
    groups = report.group(results)
    ratios = {(key, name): s.median for key, name, s in report.compare(results)}
    for backend in dict.fromkeys(key[0] for key in groups):
        ran = next(b for b in results["backends"] if b["backend"] == backend)
        parts.append(f"### {backend}\n")
        known = {**ran["versions"], **ran.get("settings", {})}
        parts.append(", ".join(f"{name} {value}" for name, value in known.items()) + "\n")
        for mode, title in MODES.items():
            found = {k: g for k, g in groups.items() if k[0] == backend and k[3] == mode}
            parts.append(_times(title, found, rate, ratios))
        stream = [
            [f"`{key[1]}`", name, report.duration(entry["seconds"]["median"])]
            for key, entries in groups.items()
            if key[0] == backend and key[3] == "stream"
            for name, entry in entries.items()
        ]
        parts.append(_table(["one step, a batch of one", "contestant", "time"], stream))
        memory = [
            [
                f"`{m['work']['cell']}`, {m['mode']}",
                _shape(m["work"]),
                m["contestant"],
                f"{m['bytes'] / 2**20:.1f}",
            ]
            for m in results["memory"]
            if m["backend"] == backend
        ]
        title = ["memory at the peak", "batch x steps x width", "contestant", "MiB"]
        parts.append(_table(title, memory))
    return "\n".join(p for p in parts if p)


def _times(title: str, groups: Any, rate: dict[str, float], ratios: dict[Any, float]) -> str:
    starts = {n: _start(n) for entries in groups.values() for n in entries}
    columns = [c for c in COLUMNS if c in starts.values()]
    rows = []
    for key, entries in groups.items():
        ours = entries.get(report.CELLKIT)
        if ours is None:
            continue
        median, least = ours["seconds"]["median"], report.floor(ours, rate)
        share = "" if least is None else f", {least / median:.0%}"
        first = report.duration(ours["first"])
        cells = {
            _start(name): f"{ratios[key, name]:.2f}" for name in entries if (key, name) in ratios
        }
        rows.append(
            [
                f"`{key[1]}`",
                _shape(ours["work"]),
                f"{report.duration(median)} (`{ours['engine']}`{share})",
                *(cells.get(c, "") for c in columns),
                first,
            ]
        )
    head = [title, "batch x steps x width", "`cellkit.RNN`", *(COLUMNS[c] for c in columns)]
    return _table([*head, "its first call"], rows)


def _start(name: str) -> str | None:
    return next((start for start in COLUMNS if name.startswith(start)), None)


def _table(head: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _shape(work: dict[str, Any]) -> str:
    return f"{work['batch']} x {work['length']} x {work['width']}"


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description="Write the tables of docs/benchmarks.md.")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    old, after = rest.split(END)
    new = f"\n{tables(json.loads(RESULTS.read_text(encoding='utf-8')))}\n"
    if check:
        print(f"{PAGE.name} " + ("says what the results say" if new == old else "is out of date"))
        return int(new != old)
    PAGE.write_text(before + BEGIN + new + END + after, encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
