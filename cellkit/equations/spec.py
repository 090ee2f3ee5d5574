"""The `CellSpec` that equations make: reference, inputs, cases, symbols, traits."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import numpy as np

from cellkit.equations.analyse import Analysis, analyse
from cellkit.equations.declare import Declaration
from cellkit.equations.layout import Layout, layout_of
from cellkit.equations.reference import reference_of
from cellkit.registry import CellSpec, Paper, WeightMap, custom
from cellkit.registry.paper import paper_of

__all__ = ["spec_of"]


def spec_of(cls: Any, analyses: list[Analysis]) -> CellSpec:
    """Return the spec of a class that is made from equations.

    Args:
        cls: The class.
        analyses: The analyses of its text, for every choice of its options.
    """
    declaration: Declaration = cls.declaration
    first = analyses[0]
    paper = (
        cls.paper
        or paper_of(vars(cls).get("__doc__"))
        or Paper(
            "Unpublished", datetime.date.today().year, cls.__name__, f"equations:{cls.__name__}"
        )
    )
    traits = {"masking", "stateful", "dropout", "zoneout"}
    if all(analysis.drops for analysis in analyses):
        traits.add("recurrent_dropout")
    if all(analysis.linear is not None for analysis in analyses):
        traits |= {"linear", "fp32_state"}
    return CellSpec(
        reference=reference_of(declaration),
        inputs=_inputs(first, declaration.inputs),
        cases=_cases(declaration, analyses),
        paper=paper,
        symbols=symbols_of(declaration),
        traits=frozenset(traits),
        states=first.states,
        configure=_configure(declaration),
        guide=cls.guide,
        deviations=vars(cls).get("deviations", ()),
        aliases=vars(cls).get("aliases", {}),
    )


def _inputs(analysis: Analysis, structure: Any) -> Any:
    """Return the shapes of a step's inputs, with names for the sizes that are free."""
    if isinstance(structure, str):
        size = analysis.size(analysis.inputs[structure])
        if size.number is not None:
            return (int(size.number),)
        return (str(size),) if str(size) != "units" else (UNITS,)
    if isinstance(structure, Mapping):
        return {key: _inputs(analysis, inner) for key, inner in structure.items()}
    return [_inputs(analysis, inner) for inner in structure]


UNITS = 4  # in cases; where inputs are as wide as a state, both have so many


def _cases(declaration: Declaration, analyses: list[Analysis]) -> dict[str, dict[str, Any]]:
    """Return constructor arguments that show what a cell can do."""
    first = analyses[0]
    base: dict[str, Any] = {
        "units": UNITS,
        **{name: 2 for name, value in declaration.numbers.items() if value is None},
        **{name: 3 + i for i, name in enumerate(declaration.size_names)},
    }
    fixed = any(str(first.size(i)) == "units" for i in first.inputs.values())
    smaller = {} if fixed else {"units": _fitting(analyses, base)}
    cases = {"default": dict(base)}
    for analysis in analyses[1:]:
        chosen = {
            name: value for name, value in analysis.options.items() if value != first.options[name]
        }
        label = "_".join(
            name if value is True else f"no_{name}" if value is False else str(value)
            for name, value in chosen.items()
        )
        cases[_label(label)] = {**base, **chosen}
    if any(p.role == "bias" for a in analyses for p in a.parameters.values()):
        cases["no_bias"] = {**base, **smaller, "use_bias": False}
    applied = {node.value for a in analyses for node in a.graph.nodes if node.op == "call"}
    other = {}
    if "tanh" in applied:
        other["activation"] = "softsign"
    if "s" in applied:
        other["recurrent_activation"] = "hard_sigmoid"
    if other:
        cases["activations"] = {**base, **smaller, **other}
    dropout = {"dropout": 0.4, "seed": 1}
    if all(analysis.drops for analysis in analyses):
        dropout["recurrent_dropout"] = 0.3
    cases["dropout"] = {**base, **dropout}
    return cases


def _fitting(analyses: list[Analysis], base: Mapping[str, Any]) -> int:
    """Return another number of units for which all sizes are whole."""
    for units in (3, 6, 2, 8):
        values = {**base, "units": units}
        sizes = [s for a in analyses for s in a.graph.sizes if s is not None]
        known = [s for s in sizes if all(isinstance(values.get(n), int) for n in s.names)]
        if all(s.at(values).denominator == 1 for s in known):
            return units
    return UNITS


def _label(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text) or "variant"


def symbols_of(declaration: Declaration) -> WeightMap:
    """Return the map between the letters of a text and the weights of its cell.

    A weight that a split shares among names may be given by its parts as well: ``W_i, W_f`` for
    ``i, f = split(W @ x)``.
    """

    def known(config: Mapping[str, Any]) -> tuple[Analysis, Layout]:
        options = {
            name: config.get(name, values[0]) for name, values in declaration.options.items()
        }
        numbers = {name: config.get(name, value) for name, value in declaration.numbers.items()}
        analysis = analyse(declaration, options, numbers)
        return analysis, layout_of(analysis)

    def to_symbols(weights: Any, config: Mapping[str, Any]) -> dict[str, Any]:
        _, layout = known(config)
        values = _values(declaration, config, layout, weights)
        found: dict[str, Any] = {}
        for weight in layout.weights:
            widths = [int(size.at(values)) for size in weight.widths]
            if weight.role == "bias" and not config.get("use_bias", True):
                dtype = next((weights[n].dtype for n in weights), np.dtype("float32"))
                whole = np.zeros(sum(widths), dtype)
            else:
                whole = weights[weight.name]
            if weight.role == "scalar":
                found[weight.parameters[0]] = whole
                continue
            pieces = np.split(whole, np.cumsum(widths)[:-1], axis=-1)
            found.update(zip(weight.parameters, pieces, strict=True))
        return found

    def from_symbols(symbols: Any, config: Mapping[str, Any]) -> dict[str, Any]:
        analysis, layout = known(config)
        found: dict[str, Any] = {}
        for weight in layout.weights:
            if weight.role == "bias" and not config.get("use_bias", True):
                for name in weight.parameters:
                    symbols.get(name)  # taken, for the map to refuse it where it is not zero
                continue
            pieces = []
            for name in weight.parameters:
                parts = analysis.parameters[name].parts
                if name in symbols or not parts:
                    pieces.append(symbols[name])
                else:
                    pieces.extend(symbols[f"{name}_{part}"] for part in parts)
            joined = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=-1)
            found[weight.name] = joined
        return found

    return custom(to_symbols=to_symbols, from_symbols=from_symbols)


def _values(
    declaration: Declaration, config: Mapping[str, Any], layout: Layout, weights: Any
) -> dict[str, int]:
    """Return the numbers behind the named sizes of a built cell, from its weights' shapes."""
    units = int(config["units"])
    values = {"units": units}
    for name in declaration.size_names:
        values[name] = int(config.get(name) or units)
    for weight in layout.weights:
        if weight.rows is None or weight.name not in weights:
            continue
        rows = weights[weight.name].shape[0]
        free = [name for name in weight.rows.names if name not in values]
        if len(free) == 1:
            coefficient = dict(weight.rows.terms)[free[0]]
            rest = weight.rows.at({**values, free[0]: 0})
            values[free[0]] = int((rows - rest) / coefficient)
    return values


def _configure(declaration: Declaration) -> Any:
    """Return what reads the constructor arguments of a frozen file."""

    def configure(hyper: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        found = {name: hyper[name] for name in declaration.numbers if name in hyper}
        found.update({n: hyper[n] for n in declaration.options if n in hyper})
        analysis = analyse(
            declaration,
            {n: found[n] for n in declaration.options if n in found},
            {n: found[n] for n in declaration.numbers if n in found},
        )
        found["units"] = _units(analysis, arrays)
        for name in declaration.size_names:
            width = hyper.get(name, _width(analysis, name, arrays))
            if width is not None:
                found[name] = int(width)
        return found

    return configure


def _width(analysis: Analysis, name: str, arrays: Mapping[str, Any]) -> int | None:
    """Return the number behind a named size from the weights of a frozen file."""
    for parameter in analysis.parameters.values():
        if f"w.{parameter.name}" in arrays and parameter.shape:
            if str(parameter.shape[-1]) == name:
                return int(arrays[f"w.{parameter.name}"].shape[-1])
    return None


def _units(analysis: Analysis, arrays: Mapping[str, Any]) -> int:
    """Return the number of units from a state, the output, or a weight of a frozen file."""
    shapes = [(f"state0.{name}", node) for name, node in analysis.old.items()]
    for key, node in [*shapes, ("y", analysis.output)]:
        size = analysis.size(node)
        if key in arrays and str(size) == "units":
            return int(arrays[key].shape[-1])
    for name, parameter in analysis.parameters.items():
        if f"w.{name}" in arrays and parameter.shape and str(parameter.shape[-1]) == "units":
            return int(arrays[f"w.{name}"].shape[-1])
    return int(arrays["y"].shape[-1])
