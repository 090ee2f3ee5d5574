"""Write the kill scores of the self-test on real cells into docs/conformance.md.

cellkit selftest --cells --backend torch --json > docs/kill-scores.json
python tools/kill_scores.py              write the tables of the page from that file
python tools/kill_scores.py --check      fail where they differ
python tools/kill_scores.py --show FILE  print the tables of another file
python tools/kill_scores.py --join FILES > docs/kill-scores.json    of runs over single cells
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "conformance.md"
DATA = ROOT / "docs" / "kill-scores.json"
BEGIN, END = "<!-- kill scores -->\n", "<!-- end of kill scores -->\n"


def tables(data: dict[str, Any]) -> str:
    """Write the tables.

    Args:
        data: Output of `cellkit selftest --cells --json`.
    """
    return "\n".join(map(_of_backend, data["backends"]))


def _of_backend(found: dict[str, Any]) -> str:
    counts = {"killed": 0, "survived": 0, "equivalent": 0, **found["counts"]}
    sample = "" if found["most"] is None else f", {found['most']} changes of each cell"
    lines = [
        f"Measured on {found['created'][:10]} on {found['backend']}, cellkit {found['cellkit']}, "
        f"edition {found['edition']},",
        f"profile {found['profile']}, seed {found['seed']}{sample}: {len(found['cells'])} cells, "
        f"{counts['killed'] + counts['survived']} changes that can be noticed,",
        f"{counts['killed']} noticed, score {100 * found['score']:.1f} %.",
    ]
    rows = ["| cell | noticed | survive | cannot be noticed | score |", "|---|---:|---:|---:|---:|"]
    for cell, row in found["cells"].items():
        numbers = " | ".join(str(row.get(key, 0)) for key in ("killed", "survived", "equivalent"))
        rows.append(f"| {cell} | {numbers} | {100 * row['score']:.1f} % |")
    lines += _closed("Every cell", rows)
    rows = ["| requirement | notices first | is asked about |", "|---|---:|---:|"]
    for identifier, (killed, asked) in found["requirements"].items():
        rows.append(f"| {identifier} | {killed} | {asked} |")
    lines += _closed("Every requirement that was asked", rows)
    survivors = [entry for entry in found["not_noticed"] if entry["outcome"] == "survived"]
    if survivors:
        lines += ["", "What survives:", ""]
        for entry in survivors:
            lines.append(f"- {entry['cell']}, `{entry['what']}`: {entry['reason']}.")
    others = [entry for entry in found["not_noticed"] if entry["outcome"] == "equivalent"]
    if others:
        lines += ["", "What cannot be noticed, because numbers and gradients are the same:", ""]
        by_cell: dict[str, list[str]] = {}
        for entry in others:
            by_cell.setdefault(entry["cell"], []).append(f"`{entry['what']}`")
        lines += [f"- {cell}: {', '.join(found)}" for cell, found in by_cell.items()]
    return "\n".join(lines) + "\n"


def _closed(title: str, rows: list[str]) -> list[str]:
    """Return a table that is too long to be read past, as a part of the page that opens."""
    return ["", f'??? note "{title}"', "", *(f"    {row}" for row in rows)]


def joined(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Join runs over different cells; of a cell in several of them the last one counts.

    Args:
        runs: Printed by `cellkit selftest --cells --json`, each on one backend, with the same
            profile, seed and number of changes.

    Raises:
        ValueError: The runs are of different kinds, or one of several cells is run anew for some.
    """
    found = [run["backends"][0] for run in runs]
    alike = ("backend", "profile", "seed", "most", "edition", "cellkit")
    for key in alike:
        if len({run[key] for run in found}) > 1 or any(run["problem"] for run in found):
            raise ValueError(f"the runs differ in {key}, or one of them ended early")
    last = {cell: run for run in found for cell in run["cells"]}
    chosen = list({id(run): run for _, run in sorted(last.items())}.values())
    for run in chosen:
        if any(last[cell] is not run for cell in run["cells"]):
            raise ValueError("some cells of a run are in a later one: its counts can't be divided")
    counts: Counter[str] = Counter()
    requirements: dict[str, list[int]] = {}
    for run in chosen:
        counts.update(run["counts"])
        for identifier, pair in run["requirements"].items():
            known = requirements.get(identifier, [0, 0])
            requirements[identifier] = [a + b for a, b in zip(known, pair, strict=True)]
    possible = counts["killed"] + counts["survived"]
    whole = {
        **found[0],
        "created": max(run["created"] for run in chosen),
        "score": round(counts["killed"] / possible, 4),
        "counts": dict(counts),
        "cells": {cell: last[cell]["cells"][cell] for cell in sorted(last)},
        "requirements": dict(sorted(requirements.items())),
        "not_noticed": [entry for run in chosen for entry in run["not_noticed"]],
    }
    return {"exit_code": int(whole["score"] < 0.99), "backends": [whole]}


def page(text: str, data: dict[str, Any]) -> str:
    """Put the tables into the text of the page.

    Args:
        text: Of the page.
        data: See `tables`.
    """
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{tables(data)}\n{END}{tail}"


def main(words: list[str]) -> int:
    """Write the page, compare it, or print tables."""
    if words[:1] == ["--show"]:
        print(tables(json.loads(Path(words[1]).read_text(encoding="utf-8"))))
        return 0
    if words[:1] == ["--join"]:
        runs = [json.loads(Path(word).read_text(encoding="utf-8")) for word in words[1:]]
        print(json.dumps(joined(runs), indent=1))
        return 0
    old = PAGE.read_text(encoding="utf-8")
    new = page(old, json.loads(DATA.read_text(encoding="utf-8")))
    if "--check" in words:
        print("up to date" if new == old else f"{PAGE} is old: run tools/kill_scores.py")
        return int(new != old)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
