"""Writes a page for every cell when the documentation is built, and puts them into the navigation.

A hook of MkDocs. A page is made of the facts of the cell (`cellkit/facts.json`), its drawing and
its typeset equations, the row of docs/cells.md that says who confirms it, and the committed
results of the benchmark. Nothing is imported but the registry as long as the facts are those of
the code, and nothing is written into docs/.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import re
import sys
import textwrap
from html import escape
from itertools import product
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "cells"
RESULTS = ROOT / "benchmarks" / "results" / "results.json"
TABLE = ROOT / "docs" / "cells.md"
WIDEST = 1600
"""Of the drawings that are shown."""
DECLARED = ("inputs", "states", "output", "sizes", "numbers")
WHERE = "Cells"
"""The group of the navigation that gets the pages."""

sys.path[:0] = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "conformance")]


@functools.cache
def cells() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return what there is to say of every cell of the project: where it is declared, its facts."""
    from cellkit import facts
    from cellkit._distribution import is_own
    from cellkit.registry import registry

    found = {}
    for name, (declared, *others) in registry.declarations().items():
        if others:
            raise PluginError(f"The cell {name!r} is declared more than once.")
        if is_own(declared.distribution):
            found[name] = (declared.target, facts.read(name))
    if not found:
        raise PluginError("No cell is installed: run `pip install -e .`")
    return found


def families() -> dict[str, list[str]]:
    """Return the names of the cells by family, in the order of the families."""
    from cellkit.registry import FAMILIES

    found: dict[str, list[str]] = {family: [] for family in FAMILIES}
    for name, (_, facts) in cells().items():
        found.setdefault(facts["family"] or "others", []).append(name)
    return {family: names for family, names in found.items() if names}


# --- a page -------------------------------------------------------------------------------------


def page(name: str) -> str:
    """Return the page of a cell in Markdown."""
    from cellkit.registry.guide import title

    target, facts = cells()[name]
    first, before, after = _docstring(facts["docstring"])
    family = facts["family"] or "others"
    tags = "".join(
        f'<a class="tag" href="../which-cell.html#{_slug(tag)}">{escape(tag)}</a>'
        for tag in facts["tags"] or ()
    )
    parts = [
        f"---\ntitle: {name}\ndescription: {json.dumps(first)}\n---\n",
        f"# `{name}`\n\n{first}\n",
        f'<p class="guide">{escape(facts["use_when"] or "")}</p>\n',
        f'<p class="tags"><a class="tag family" href="../cells.html#{_slug(family)}">'
        f"Family: {escape(title(family))}</a>{tags}</p>\n",
        picture(target, facts, before),
        f"{after}\n" if after else "",
        "## Use\n\n```python\n" + facts["example"].rstrip() + "\n```\n",
        f"```python\n{_folded(facts['signature'])}\n```\n\n"
        f"The class is `{target.replace(':', '.')}`; "
        f'`cellkit.create("{name}", ...)` makes it too.\n',
        _arguments(facts),
        "## Shapes\n\n" + _shapes(facts),
        "## Parameters\n\n" + _parameters(facts),
        "## Confirmed by\n\n" + _confirmed(name),
        "## Traits\n\n" + _traits(facts),
        "## Speed\n\n" + _speed(name),
        _departures(facts),
        _paper(facts),
    ]
    return "\n".join(part for part in parts if part)


def _docstring(text: str) -> tuple[str, str, str]:
    """Return the first line, and what stands before and behind the equations.

    Paper and departures are left out, which have places of their own on a page. A block behind the
    equations is a part of the text around it.
    """
    first, _, rest = text.partition("\n\n")
    parts = re.split(r"(?m)^```\n.*?^```$", rest, maxsplit=1, flags=re.DOTALL)
    before, after = parts if len(parts) == 2 else ("", rest)

    def kept(text: str) -> str:
        paragraphs = re.split(r"\n\s*\n(?=\S)", text.strip())
        named = re.compile(r"Papers?:|Departures?:")
        return "\n\n".join(p for p in paragraphs if p and not named.match(p))

    return " ".join(first.split()), kept(before), kept(after)


def _folded(signature: str, width: int = 84) -> str:
    """Return a signature, in several lines where one is too short for it."""
    if len(signature) <= width:
        return signature
    name, _, inner = signature.removesuffix(")").partition("(")
    lines = textwrap.wrap(inner, width - 4, break_long_words=False, break_on_hyphens=False)
    return f"{name}(\n" + "".join(f"    {line}\n" for line in lines) + ")"


def picture(target: str, facts: dict[str, Any], before: str = "") -> str:
    """Return the drawing and the typeset equations of a cell, and their text.

    Args:
        target: Where the cell is declared.
        facts: Its facts.
        before: What its docstring says before the equations.
    """
    from cellkit.equations.declare import declare
    from cellkit.equations.parse import parse
    from cellkit.equations.typeset import mathml

    text = facts["equations"]
    if not text:
        return ""
    parts = [f"{before}\n"] if before else []
    try:
        declared = declare(target.partition(":")[2], text, **_declared(target))
        drawn, width, shown = _drawn(declared)
        parts.append(f'<div class="cell-picture" style="--width: {width}px">{drawn}</div>\n')
        parts.append(f'<div class="cell-equations">{mathml(declared.text)}</div>\n')
        parts.append(
            '<p class="legend">Old states and inputs enter on the left; new states and the output '
            "leave on the right. A prime marks what is new, ⊙ is a product of elements, and • what "
            f"enters a box.{shown}</p>\n"
        )
        summary = "The same as text"
    except ValueError:
        summary = ""  # equations of matrices, images or complex numbers
        try:
            parts.append(f'<div class="cell-equations">{mathml(parse(text))}</div>\n')
            summary = "The same as text"
        except ValueError:
            pass
    block = f"```text\n{text}\n```\n"
    if summary:
        indented = "".join(f"    {line}\n" for line in block.splitlines())
        block = f'??? note "{summary}"\n\n{indented}'
    return "## Equations\n\n" + "\n".join(parts) + "\n" + block


def _drawn(declared: Any) -> tuple[str, int, str]:
    """Return the drawing of a cell, its width, and what to say of the variant that it shows.

    Where the default's is too wide to be read, it is the narrowest one, which repeats nothing.
    """
    from cellkit.equations.analyse import analyse
    from cellkit.equations.draw import svg

    def draw(options: dict[str, Any], numbers: dict[str, Any]) -> tuple[str, int]:
        drawn = svg(analyse(declared, options, numbers)).strip()
        return drawn, int(re.findall(r' width="(\d+)"', drawn)[0])

    drawn, width = draw({}, {})
    variants = declared.options
    if width <= WIDEST:
        return drawn, width, " Of the variants it shows the first." if variants else ""
    once = dict.fromkeys(declared.counts, 1)
    choices = [dict(zip(variants, values, strict=True)) for values in product(*variants.values())]
    chosen = min(choices, key=lambda options: draw(options, once)[1])
    shown = ", ".join(f"<code>{name}={value!r}</code>" for name, value in (chosen | once).items())
    return *draw(chosen, once), f" The drawing is that of {shown}: the default's is too wide."


def _declared(target: str) -> dict[str, Any]:
    """Return what a class declares beside its equations: its source is read, not run."""
    package, _, name = target.partition(":")
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise PluginError(f"{package} can't be found.")
    for file in sorted(Path(found.origin).parent.glob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return {
                    k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg in DECLARED
                }
    raise PluginError(f"{target} can't be found in the files of {package}.")


def _arguments(facts: dict[str, Any]) -> str:
    """Return the arguments as a table, and those that all cells have behind it."""
    rows = []
    for name, said in facts["arguments"].items():
        default = said.partition(". ")[0]
        shown = "" if said.startswith("has to be given") else f"`{default.rstrip('.')}`"
        rows.append(f"| `{name}` | {shown} | {_inline(facts['documented'].get(name, ''))} |")
    options = ", ".join(f"`{name}={value}`" for name, value in facts["options"].items())
    return (
        "## Arguments\n\n| Argument | Default | Meaning |\n|---|---|---|\n"
        + "\n".join(rows)
        + '\n\n??? note "Options of every cell, with the defaults of this one"\n\n'
        + f"    {options}\n"
    )


def _inline(text: str) -> str:
    return text.replace("|", "\\|")


def _shapes(facts: dict[str, Any]) -> str:
    if facts["shapes"]:
        return facts["shapes"] + "\n"
    return f"Inputs: `{facts['inputs']}`, without batch and time. States: `{facts['states']}`.\n"


def _parameters(facts: dict[str, Any]) -> str:
    found = facts["parameters"]
    if not found:
        return "No polynomial of the sizes counts them; `cell.count_params()` does.\n"
    sizes = ", ".join(f"*{letter}* = `{size}`" for letter, size in found["letters"].items())
    held = ", ".join(f"`{name}={value}`" for name, value in (found["held"] or {}).items())
    text = _formula(found["formula"])
    if "trained" in found:
        text += f", of which {_formula(found['trained'])} are trained"
    said = f"{text}\n\nwith {' and '.join(filter(None, (sizes, held)))}"
    if found.get("apart"):
        said += ", for inputs of another width than `units`"
    return said + ".\n"


def _formula(text: str) -> str:
    """Return a formula as HTML."""
    text = re.sub(r"\b([A-Z])\b", r"<i>\1</i>", text)
    text = re.sub(r"\^(\d)", r"<sup>\1</sup>", text).replace(" - ", " − ")
    return f'<span class="formula">{text}</span>'


def _confirmed(name: str) -> str:
    """Return who confirms a cell, from the table of all cells."""
    rows = TABLE.read_text(encoding="utf-8").splitlines()
    row = next((r for r in rows if re.match(rf"\| (?:\[)?`{re.escape(name)}`", r)), None)
    if row is None:
        raise PluginError(f"{TABLE.name} lacks {name!r}: run `python tools/cell_table.py`")
    said = row.strip("| ").split(" | ")[-1]
    if "reference only" in said:
        return (
            "No implementation by other authors: the cell stands against a NumPy reference that "
            "was written from its paper, as all the others do too.\n"
        )
    lines = [f"- {entry}" for entry in said.split("<br>")]
    return (
        "\n".join(lines)
        + "\n\nThe number is the largest difference in outputs and states, relative to the "
        "largest magnitude, on the same weights, inputs and initial states; in float64 unless it "
        "says otherwise. [All cells](../cells.md)\n"
    )


def _traits(facts: dict[str, Any]) -> str:
    from cellkit.registry import TRAITS

    lines = [f"- `{t}`: {TRAITS.get(t, _kind(t))}" for t in facts["traits"]]
    return (
        "The [conformance suite](../conformance.md) verifies what is claimed here, and that what "
        "is not claimed is not there.\n\n" + "\n".join(lines) + "\n"
    )


def _kind(trait: str) -> str:
    kind, _, detail = trait.partition(":")
    return {
        "equiv": f"weights and numbers of Keras' `{detail}`",
        "rank": f"inputs have {detail} axes, batch and time included",
    }.get(kind, "")


@functools.cache
def _results() -> dict[str, Any]:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def _speed(name: str) -> str:
    """Return the times of a cell on each backend, from the committed benchmark."""
    from cellkit_bench import report

    results = _results()
    ratios = {(key, rival): s.median for key, rival, s in report.compare(results)}
    rows = []
    for key, entries in report.group(results).items():
        backend, cell, (batch, length, width), mode = key
        if cell != name or mode == "stream" or (batch, length, width) != (32, 100, 128):
            continue
        ours = entries.get(report.CELLKIT)
        if ours is None:
            continue
        rival = next((r for r in entries if r == "keras.layers.RNN"), None)
        ratio = f"{ratios[key, rival]:.2f}" if rival and (key, rival) in ratios else ""
        time = report.duration(ours["seconds"]["median"])
        rows.append(f"| {backend} | {mode} | {time} | `{ours['engine']}` | {ratio} |")
    if not rows:
        return (
            f"The committed benchmark does not measure this cell. `cellkit bench {name}` does, on "
            "your machine, beside what else can do the same.\n"
        )
    machine = results["machine"]
    return (
        f"Batch 32, 100 steps, width 128, on {machine['cpu']} with {machine['cpus']} CPUs. The "
        "last column is what `cellkit.RNN` takes of the time of `keras.layers.RNN`.\n\n"
        "| Backend | Run | Median | Engine | Of Keras' time |\n|---|---|---:|---|---:|\n"
        + "\n".join(rows)
        + "\n\n[Benchmarks](../benchmarks.md) has the others, and how it was measured.\n"
    )


def _departures(facts: dict[str, Any]) -> str:
    if not facts["deviations"]:
        return ""
    from cellkit.registry.guide import sentence

    lines = [f"- {sentence(text)}" for text in facts["deviations"]]
    return "## Departures from the paper\n\n" + "\n".join(lines) + "\n"


def _paper(facts: dict[str, Any]) -> str:
    said = f"[{facts['paper']}]({facts['link']})" if facts["link"] else facts["paper"]
    return f"## Paper\n\n{said}\n\n``` {{ .bibtex .wrapped }}\n{facts['bibtex']}\n```\n"


def _slug(text: str | None) -> str:
    return re.sub(r"\s+", "-", (text or "others").lower())


# --- MkDocs -------------------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    """Put the pages into the navigation, by family."""
    from cellkit.registry.guide import title

    for group in config.nav:
        if isinstance(group, dict) and WHERE in group:
            group[WHERE] += [
                {title(family): [{name: f"{FOLDER}/{name}.md"} for name in names]}
                for family, names in families().items()
            ]
            return config
    raise PluginError(f"The navigation of mkdocs.yml lacks the group {WHERE!r}.")


LIST = re.compile(r"<!-- cells (?P<how>tagged|of family) (?P<what>.+?) -->")


def listed(how: str, what: str) -> str:
    """Return the cells with a tag, or of a family, each with when to use it."""
    from cellkit.registry import check_family, check_tag

    wanted = check_tag(what) if how == "tagged" else check_family(what)
    key = "tags" if how == "tagged" else "family"
    lines = []
    for name, (_, facts) in cells().items():
        if facts[key] == wanted or (key == "tags" and wanted in (facts["tags"] or ())):
            use = (facts["use_when"] or "").removeprefix("Use it when ").rstrip(".")
            lines.append(f"- [`{name}`]({FOLDER}/{name}.md): {use}.")
    return "\n".join(lines) or "No cell of cellkit's own, so far."


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put lists of cells into pages that ask for them."""
    return LIST.sub(lambda found: listed(found["how"], found["what"]), markdown)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to the site."""
    for name in cells():
        files.append(File.generated(config, f"{FOLDER}/{name}.md", content=page(name)))
    return files
