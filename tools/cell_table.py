"""Write docs/cells.md, the page of all cells, from the registry and the frozen outputs.

    python tools/cell_table.py            # writes the page
    python tools/cell_table.py --check    # exit code 1 if the page is not what it would write

Each cell is compared with every file of tests/golden that it is registered for, and the page says
how far it was off. That number may differ in its digits from machine to machine, so `--check`
leaves it out, but it does insist on the limit.

KERAS_BACKEND chooses the backend (default: torch).
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "conformance")]
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ["JAX_ENABLE_X64"] = "1"  # the files are compared in their own dtype, mostly float64

import keras  # noqa: E402
import numpy as np  # noqa: E402

import cellkit  # noqa: E402
from cellkit._distribution import is_own  # noqa: E402
from cellkit.registry import FAMILIES, TRAITS, registry  # noqa: E402
from cellkit.registry.guide import sentence, title  # noqa: E402
from cellkit_conformance.golden import manifest as golden  # noqa: E402
from cellkit_conformance.golden.compare import compare_entry  # noqa: E402

PAGE = ROOT / "docs" / "cells.md"
GOLDEN = ROOT / "tests" / "golden"
SCALE = 7  # makes widths that can't be taken for a size of the inputs
DETAILED = {"equiv": "gives the numbers of Keras' layer", "rank": "takes inputs of rank"}
ERROR = re.compile(r"\b\de[+-]\d\d\b")

HEAD = """# Cells

<!-- Written by tools/cell_table.py from the registry: change a cell's spec, not this page. -->

`cellkit.create(name, ...)` makes one of these {count} cells for `cellkit.RNN`. A name leads to the
cell's page: drawing, equations, arguments, an example; `cellkit show NAME` prints what is known
about it. [Which cell for ...](which-cell.md) finds one for a purpose. Cells of other packages stand
beside them in `cellkit list` once those are installed.

**States** are given without the batch axis, for a cell with its defaults.

**Confirmed by** names implementations of other authors. For most of them, frozen outputs lie in
`tests/golden`, and `cellkit golden tests/golden` runs the cell on the same weights, inputs and
initial states. Keras' own layers run beside the cell on copied weights when this page is made. The
error is the largest difference in outputs and states, relative to the largest magnitude of an
array, in float64 unless it says otherwise (Keras' `SimpleRNN` is exact to float32 only).

*Reference only* says that there is neither: the cell stands against a NumPy reference that was
written from its paper, as all the others do too.
"""


def own_cells() -> list[registry.RegisteredCell]:
    """Return the cells that this project brings, sorted by name."""
    mine = registry.declarations().items()
    return [cellkit.get(n) for n, found in mine if any(is_own(d.distribution) for d in found)]


def comparisons() -> dict[str, list[tuple[dict[str, Any], golden.Match]]]:
    """Compare every frozen file; return entries and results by the name of the cell.

    Raises:
        ValueError: If a cell is off by more than its file allows, or can't be compared.
    """
    manifest = golden.read_manifest(GOLDEN)
    found: dict[str, list[tuple[dict[str, Any], golden.Match]]] = {}
    for entry in manifest["cells"]:
        match = compare_entry(GOLDEN, entry, golden.limits(manifest))
        if match.cell and not match.ok:
            raise ValueError(
                f"{match.cell} does not agree with {entry['file']}.\n"
                f"  Received: {match.problem or f'errors {match.error}'}\n"
                f"  Expected: at most {match.limit:g}\n"
                "  How to fix: run `cellkit golden tests/golden`, and mend the cell"
            )
        found.setdefault(match.cell, []).append((entry, match))
    return found


def beside_keras(registered: registry.RegisteredCell, name: str) -> float:
    """Run a cell and a layer of Keras on the same weights and inputs; return the relative error.

    Raises:
        ValueError: If it is more than rounding.
    """
    arguments = next(iter(registered.spec.cases.values()))
    rng = np.random.default_rng(0)
    shape = _sized(registered.spec.inputs, registered.spec.dims, {})
    inputs = rng.normal(size=(3, 5, *shape[2:]))
    ours = cellkit.RNN(
        registered.cls(**arguments, dtype="float64"), return_sequences=True, dtype="float64"
    )
    theirs = getattr(keras.layers, name)(**arguments, return_sequences=True, dtype="float64")
    ours.build(inputs.shape)
    theirs.build(inputs.shape)
    weights = [0.5 * rng.normal(size=w.shape) for w in ours.get_weights()]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    got, want = (keras.ops.convert_to_numpy(layer(inputs)) for layer in (ours, theirs))
    error = float(np.abs(got - want).max() / np.abs(want).max())
    # On PyTorch, Keras' SimpleRNN of dtype float64 is 1e-7 off what NumPy gives; the cell is not.
    limit = golden.DEFAULT_LIMITS["float32"]
    if not error <= limit:
        raise ValueError(
            f"{registered.name} claims to be keras.layers.{name}, and is not.\n"
            f"  Received: outputs that differ by {error:.1e}\n"
            f"  Expected: at most {limit:g}\n"
            f"  How to fix: mend the cell, or take the trait 'equiv:{name}' from its spec"
        )
    return error


# --- states ------------------------------------------------------------------------------------


def states(registered: registry.RegisteredCell) -> str:
    """Describe the states of a cell with its defaults, sizes by name."""
    widths, arguments = {}, {}
    parameters = inspect.signature(registered.cls).parameters
    for key, value in next(iter(registered.spec.cases.values())).items():
        default = parameters[key].default if key in parameters else ...
        width = "unit" in key or "filter" in key
        if default is inspect.Parameter.empty or (default is None and width):
            # A cell whose inputs are as wide as itself can't be made wider alone.
            scaled = width and value not in keras.tree.flatten(registered.spec.inputs)
            arguments[key] = value * SCALE if scaled else value
            if width:
                widths[key] = arguments[key]
    sizes: dict[str, int] = {}
    shapes = _sized(registered.spec.inputs, registered.spec.dims, sizes)
    cell = registered.cls(**arguments)
    cellkit.RNN(cell).build(shapes)
    names = [f"`{name}` " for name in registered.spec.states]
    described = []
    for k, spec in enumerate(keras.tree.flatten(cell.state_spec())):
        shape = ", ".join(_named(size, axis, widths, sizes) for axis, size in enumerate(spec.shape))
        dtype = f" {spec.dtype}" if spec.dtype not in (None, "float32") else ""
        described.append(f"{names[k] if k < len(names) else ''}({shape}){dtype}")
    return "; ".join(described)


def _sized(inputs: Any, dims: dict[str, Any], sizes: dict[str, int]) -> Any:
    """Return the inputs with batch, time and numbers for the named sizes, which it notes."""
    if isinstance(inputs, tuple) and all(isinstance(size, (int, str)) for size in inputs):
        for size in inputs:
            if isinstance(size, str) and size not in sizes:
                held = dims.get(size, 101 + 30 * len(sizes))
                sizes[size] = held if isinstance(held, int) else held[0]
        return (None, None, *(sizes[s] if isinstance(s, str) else s for s in inputs))
    if isinstance(inputs, dict):
        return {key: _sized(value, dims, sizes) for key, value in inputs.items()}
    return [_sized(value, dims, sizes) for value in inputs]


def _named(size: int, axis: int, widths: dict[str, int], sizes: dict[str, int]) -> str:
    """Return the name of a size, or how much less than a size of the inputs it is."""
    for name, value in (*widths.items(), *sizes.items()):
        if size == value:
            return name
    name, value = [*sizes.items()][axis] if axis < len(sizes) else ("", 0)
    return f"{name} - {value - size}" if 0 < value - size < 5 else str(size)


# --- the page ----------------------------------------------------------------------------------


def confirmed(
    registered: registry.RegisteredCell, found: list[tuple[dict[str, Any], golden.Match]]
) -> str:
    """Say which implementations a cell agrees with, and to what error."""
    texts = []
    for entry, match in found:
        dtype = "" if match.dtype == "float64" else f" ({match.dtype})"
        form = "" if len(found) == 1 else f" as `{entry['cell']}`"
        texts.append(f"{entry['library']} {entry['version']}{form}, {match.worst:.0e}{dtype}")
    equal = sorted(t.partition(":")[2] for t in registered.spec.traits if t.startswith("equiv:"))
    texts += [f"Keras' `{name}`, {beside_keras(registered, name):.0e}" for name in equal]
    return "<br>".join(texts) or "*reference only*"


def traits(cells: list[registry.RegisteredCell]) -> list[list[str]]:
    """Say of each trait which cells claim it, or which don't where those are fewer."""
    claimed = {trait for cell in cells for trait in cell.spec.traits}
    rows = []
    for trait in (*(t for t in TRAITS if t in claimed), *sorted(claimed - set(TRAITS))):
        with_it, without = (
            [link(cell) for cell in cells if (trait in cell.spec.traits) == wanted]
            for wanted in (True, False)
        )
        text = "every cell" if len(with_it) > len(without) else ", ".join(with_it)
        if without and len(with_it) > len(without):
            text += f" but {', '.join(without)}"
        kind, _, detail = trait.partition(":")
        meaning = TRAITS.get(trait) or f"{DETAILED.get(kind, '')} {detail}".strip()
        rows.append([f"`{trait}`", meaning, text])
    return rows


def table(headings: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def page() -> str:
    """Return the page."""
    cells, found = own_cells(), comparisons()
    rows, notes = {}, []
    for cell in cells:
        paper = cell.spec.paper
        cite = f"{paper.authors} {paper.year}"
        cite = f"[{cite}]({paper.url})" if paper.url else f"{cite}, {paper.identifier}"
        guide = cell.spec.guide
        row = [link(cell), cite, states(cell), confirmed(cell, found.get(cell.name, []))]
        rows.setdefault(guide.family if guide else "others", []).append(row)
        notes += [f"- {link(cell)}: {sentence(text)}" for text in cell.spec.deviations]
    main = []
    for family in (*FAMILIES, *sorted(set(rows) - set(FAMILIES))):
        if family in rows:
            main.append(f"## {title(family)}\n\n{FAMILIES.get(family, '').capitalize()}.\n")
            main.append(table(["Cell", "Paper", "States", "Confirmed by, error"], rows[family]))
    sections = [
        HEAD.format(count=len(cells)),
        *main,
        "## Traits\n\nWhat a cell claims, and the conformance suite verifies: both what is claimed "
        "and what is not.\n",
        table(["Trait", "Meaning", "Cells"], traits(cells)),
        "## Departures from the papers\n\nOf the cells here, and of other implementations that "
        "carry the same name.\n",
        "\n".join(notes) + "\n",
    ]
    return "\n".join(sections)


def link(cell: registry.RegisteredCell) -> str:
    """Return the name of a cell, which leads to its page on the site."""
    return f"[`{cell.name}`](cells/{cell.name}.md)"


def difference(there: str, text: str) -> list[str]:
    """Return how two pages differ, but for the digits of errors."""
    old, new = (ERROR.sub("*", part).splitlines() for part in (there, text))
    return [*difflib.unified_diff(old, new, "the page", "the registry", lineterm="", n=0)]


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, don't write")
    options = parser.parse_args()
    text = page()
    shown = PAGE.relative_to(ROOT)
    if not options.check:
        PAGE.write_text(text, encoding="utf-8")
        print(f"Wrote {shown}.")
        return 0
    there = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    found = difference(there, text)
    if found:
        print("\n".join(found))
        print(f"{shown} is out of date. Run `python tools/cell_table.py`.")
        return 1
    print(f"{shown} says what the registry says.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
