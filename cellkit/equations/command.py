"""`cellkit define`: what a text of equations was understood to say, and the proof of its cell."""

from __future__ import annotations

import datetime
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cellkit._terminal import plain, show, table
from cellkit.equations.analyse import Analysis, check_all
from cellkit.equations.declare import Declaration, declare
from cellkit.equations.layout import layout_of
from cellkit.equations.source import module_source
from cellkit.errors import problem

__all__ = ["class_name", "declared_by", "facts", "prove", "read", "show_facts", "understood"]


def class_name(file: Path) -> str:
    """Make the name of a class from that of a file: ``li_gru.txt`` gives ``LiGruCell``."""
    words = [w for w in file.stem.replace("-", "_").split("_") if w and w.lower() != "cell"]
    name = "".join(word[0].upper() + word[1:] for word in words) + "Cell"
    return name if name.isidentifier() else "MyCell"


def read(file: Path) -> str:
    """Read a text of equations.

    Raises:
        ValueError: There is no such file, or it holds no text.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise problem(
            "The equations can't be read.",
            received=f"{file}: {error}",
            expected="a file with a text of equations, in UTF-8",
            fix="write the equations into a file, one definition a line",
        ) from error


def declared_by(
    inputs: str | None,
    states: str | None,
    output: str | None,
    sizes: Sequence[str],
    numbers: Sequence[str],
) -> dict[str, Any]:
    """Return what the options of the command line declare beside a text."""
    found: dict[str, Any] = {
        "inputs": tuple(inputs.split(",")) if inputs else "x",
        "states": tuple(states.split(",")) if states else None,
        "output": output,
        "sizes": {k: int(v) if v.isdigit() else v for k, v in _pairs("--size", sizes)},
        "numbers": {k: _number(k, v) for k, v in _pairs("--number", numbers)},
    }
    return found


def _pairs(option: str, given: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for text in given:
        name, sign, value = text.partition("=")
        if not (sign and name and value):
            raise problem(
                f"{option} takes a name and a value.",
                received=repr(text),
                expected="NAME=VALUE",
                fix=f"write for example {option} "
                + ("P=projection_units" if option == "--size" else "leaky=1.0"),
            )
        found.append((name, value))
    return found


def _number(name: str, text: str) -> float | int:
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError as error:
        raise problem(
            "--number takes a number.",
            received=f"{name}={text}",
            expected="a number such as 1.0 or 1e-5",
            fix=f"write for example --number {name}=1.0",
        ) from error


def facts(declaration: Declaration, analyses: Sequence[Analysis]) -> dict[str, Any]:
    """Return what a text was understood to say.

    Args:
        declaration: The text.
        analyses: Its analyses, for every choice of its options, the default first.
    """
    first = analyses[0]
    linear = [analysis.linear is not None for analysis in analyses]
    return {
        "name": declaration.name,
        "inputs": {name: str(first.size(node)) for name, node in first.inputs.items()},
        "states": {name: str(first.size(node)) for name, node in first.old.items()},
        "output": {first.output_name: str(first.size(first.output))},
        "options": {name: list(values) for name, values in declaration.options.items()},
        "numbers": dict(declaration.numbers),
        "sizes": list(declaration.size_names),
        "linear": all(linear),
        "recurrent_dropout": list(first.drops),
        "variants": [
            {
                "options": dict(analysis.options),
                "weights": weights(analysis),
                "parameters": parameters(analysis),
            }
            for analysis in analyses
        ],
    }


def show_facts(found: Mapping[str, Any]) -> None:
    """Print what a text was understood to say."""
    print(f"{found['name']}\n{'=' * len(found['name'])}\n")
    shown = table()
    for key in ("inputs", "states", "output", "numbers"):
        wide = ", ".join(f"{name} ({size})" for name, size in found[key].items())
        shown.add_row(f"[bold]{key}[/bold]", plain(wide or "none"))
    for option, values in found["options"].items():
        shown.add_row(f"[bold]{plain(option)}[/bold]", plain(", ".join(map(repr, values))))
    linear = "yes: a layer scans over time in parallel" if found["linear"] else "no"
    shown.add_row("[bold]linear[/bold]", linear)
    drops = ", ".join(found["recurrent_dropout"]) or "nothing to drop"
    shown.add_row("[bold]recurrent dropout[/bold]", plain(drops))
    show(shown)
    for variant in found["variants"]:
        chosen = ", ".join(f"{name}={value!r}" for name, value in variant["options"].items())
        rows = table("Letter", "Role", "Shape", "Weight")
        for row in variant["weights"]:
            cells = [row["letter"], row["role"], f"({', '.join(row['shape'])})", row["weight"]]
            rows.add_row(*map(plain, cells))
        print(f"\nWeights{f' with {chosen}' if chosen else ''}: {variant['parameters']} parameters")
        show(rows)


def weights(analysis: Analysis) -> list[dict[str, Any]]:
    """Return the weights of a text: letter, role, shape, and the variable that holds it."""
    layout = layout_of(analysis)
    found = []
    for name, parameter in analysis.parameters.items():
        index, block = layout.where[name]
        weight = layout.weights[index]
        alone = len(weight.parameters) == 1
        found.append(
            {
                "letter": name,
                "role": parameter.role,
                "shape": [str(size) for size in parameter.shape],
                "weight": weight.name if alone else f"{weight.name}, block {block}",
            }
        )
    return found


def parameters(analysis: Analysis) -> str:
    """Return the number of a text's parameters, as a sum of products of sizes."""
    shapes = Counter(
        " * ".join(f"({s})" if "+" in str(s) else str(s) for s in parameter.shape) or "1"
        for parameter in analysis.parameters.values()
    )
    terms = [shape if count == 1 else f"{count} * {shape}" for shape, count in shapes.items()]
    return " + ".join(terms) or "0"


def prove(
    name: str,
    text: str,
    declared: Mapping[str, Any],
    backend: str,
    profile: str,
    run: Callable[[list[str]], int],
) -> int:
    """Prove the cell of a text on the backends, with the conformance suite.

    Args:
        name: Of the class.
        text: The equations.
        declared: The declarations beside it.
        backend: The backends, as `cellkit conform` takes them.
        profile: The profile of the checks, likewise.
        run: Runs a command line.

    Returns:
        The exit code of `cellkit conform`.
    """
    year = datetime.date.today().year
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "defined_cell.py"
        source = module_source(name, "defined_cell", text, year, declared)
        file.write_text(source, encoding="utf-8")
        words = ["conform", f"{file}:{name}", "--backend", backend, "--profile", profile]
        return run(words)


def understood(
    name: str, text: str, declared: Mapping[str, Any]
) -> tuple[Declaration, list[Analysis]]:
    """Parse and analyse a text, for every choice of its options."""
    declaration = declare(name, text, **declared)
    return declaration, check_all(declaration)
