"""The contents of a cell's drawing: the dataflow of a step in the shapes that people draw.

The graph of an analysis has a node for each operation. A drawing joins what belongs together: an
activation of a sum of products is one *gate*, with the matrices at its incoming lines and the bias
below it; what depends on weights and numbers alone is a label; sums and products of several terms
are one circle.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from cellkit.equations.analyse import Analysis
from cellkit.equations.graph import WEIGHTS, Node

__all__ = ["Element", "Flow", "Line", "flow_of"]

_SIGNS = {"multiply": "×", "add": "+", "subtract": "−", "divide": "÷"}
_INFIX = {**_SIGNS, "power": "^", "multiply": "·", "divide": "/"}
_COMPARISONS = {"<": "<", "<=": "≤", ">": ">", ">=": "≥", "==": "=", "!=": "≠"}
_FUNCTIONS = {"s": "σ", "sigmoid": "σ"}
_LONGEST = 24  # of the characters of a label


@dataclasses.dataclass
class Line:
    """A line from one element to another.

    Args:
        source: Number of the element where it begins.
        target: Number of the element where it ends.
        label: The text at its end: the matrix that the value is multiplied with.
        sign: "−" where the value is subtracted, "÷" where it divides, else empty.
    """

    source: int
    target: int
    label: str = ""
    sign: str = ""


@dataclasses.dataclass
class Element:
    """Something drawn.

    Args:
        kind: "input", "state", "new", "output", "gate", "circle" or "box".
        text: The text in it.
        name: The name that the equations give to its value, or empty.
        note: The text below it, such as the name of a bias.
    """

    kind: str
    text: str
    name: str = ""
    note: str = ""


@dataclasses.dataclass
class Flow:
    """The elements of a drawing and the lines between them.

    Args:
        elements: The elements; those that others are made of stand before them.
        lines: The lines.
    """

    elements: list[Element]
    lines: list[Line]


def flow_of(analysis: Analysis) -> Flow:
    """Return what a drawing of one step shows."""
    return _Drawer(analysis).flow


class _Drawer:
    """Joins the nodes of a graph to elements."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.graph = analysis.graph
        roots = list(dict.fromkeys(analysis.roots))
        self.uses = self.graph.parents(self.graph.below(roots))
        self.roots = set(roots)
        self.names = {d.node: d.name for d in reversed(analysis.definitions)}
        self.flow = Flow([], [])
        self.places: dict[int, int] = {}
        for name, node in analysis.old.items():
            self.places[node] = self._element("state", name)
        for name, node in analysis.inputs.items():
            self.places[node] = self._element("input", name)
        for name, node in analysis.new.items():
            end = self._element_after(node, "new", f"{name}'")
            if node == analysis.output:
                self.flow.elements[end].note = "output"
        if analysis.output not in analysis.new.values():
            self._element_after(analysis.output, "output", analysis.output_name)
        # A value that leaves the cell has its name at the end of its line.
        ends = {line.source: line.target for line in self.flow.lines}
        for number, element in enumerate(self.flow.elements):
            if number in ends and self.flow.elements[ends[number]].text == element.name:
                element.name = ""

    def _element(self, kind: str, text: str, name: str = "", note: str = "") -> int:
        self.flow.elements.append(Element(kind, text, name, note))
        return len(self.flow.elements) - 1

    def _element_after(self, node: int, kind: str, text: str) -> int:
        source = self._place(node)
        element = self._element(kind, text)
        self.flow.lines.append(Line(source, element))
        return element

    def _node(self, index: int) -> Node:
        return self.graph.nodes[index]

    def _through(self, index: int) -> int:
        """Pass by recurrent dropout, which a drawing leaves out."""
        while self._node(index).op == "drop":
            index = self._node(index).args[0]
        return index

    def _is_label(self, index: int) -> bool:
        return self.graph.levels[index] <= WEIGHTS and self._node(index).op != "product"

    def _joins(self, index: int) -> bool:
        """Tell whether a value is used once and stays inside the cell, so that it may be joined."""
        return len(self.uses.get(index, ())) == 1 and index not in self.roots

    def _place(self, index: int) -> int:
        """Return the element that stands for a value, which is drawn if it is not there yet."""
        index = self._through(index)
        if index not in self.places:
            self.places[index] = self._draw(index)
        return self.places[index]

    def _draw(self, index: int) -> int:
        node, name = self._node(index), self.names.get(index, "")
        if self._is_label(index):
            return self._element("box", self._formula(index), name)
        gate = self._gate(index, name)
        if gate is not None:
            return gate
        args = [self._through(a) for a in node.args]
        if node.op in ("add", "multiply"):
            return self._several(index, node.op, name)
        labels = [a for a in args if self._is_label(a)]
        values = [a for a in args if not self._is_label(a)]
        if node.op in ("subtract", "divide", "power") and labels:
            first = args[0] in labels
            text = self._formula(labels[0])
            sign = _INFIX[node.op]
            return self._made(
                "box", f"{text} {sign} •" if first else f"• {sign} {text}", name, values
            )
        if node.op in ("subtract", "divide"):
            element = self._made("circle", _SIGNS[node.op], name, values[:1])
            self.flow.lines.append(Line(self._place(values[1]), element, sign=_SIGNS[node.op]))
            return element
        return self._made("box", self._operation(node, args), name, values)

    def _made(self, kind: str, text: str, name: str, values: list[int], note: str = "") -> int:
        sources = [self._place(v) for v in values]
        element = self._element(kind, text, name, note)
        self.flow.lines += [Line(source, element) for source in dict.fromkeys(sources)]
        return element

    def _operation(self, node: Node, args: list[int]) -> str:
        names = {
            "negative": "−•",
            "normalize": "norm",
            "concatenate": "[ ; ]",
            "repeat": "repeat",
            "where": "where",
            "indicator": "1[ ]",
        }
        if node.op == "call":
            labels = [self._formula(a) for a in args if self._is_label(a)]
            function = _function(node.value)
            return f"{function}(•, {', '.join(labels)})" if labels else function
        if node.op == "part":
            return f"part {node.value[0] + 1}" if isinstance(node.value, tuple) else "part"
        if node.op == "product":
            return str(node.value)
        others = [self._formula(a) for a in args if self._is_label(a)]
        if others and len(args) == 2 and node.op not in names:
            first = self._is_label(args[0])
            sign = _COMPARISONS.get(node.op, node.op)
            return f"{others[0]} {sign} •" if first else f"• {sign} {others[0]}"
        return names.get(node.op, node.op)

    def _gate(self, index: int, name: str) -> int | None:
        """Draw an activation of a sum with products as one element, if it is that."""
        node, inner, text = self._node(index), index, "Σ"
        if node.op == "call" and len(node.args) == 1:
            text = _function(node.value)
            inner = self._through(node.args[0])
            if self._node(inner).op not in ("add", "product") or not self._joins(inner):
                return None
        elif node.op not in ("add", "product"):
            return None
        terms = [self._through(t) for t in self._terms(inner, "add")]
        if not any(self._node(t).op == "product" for t in terms):
            return None
        ends: list[tuple[int, str]] = []
        notes: list[str] = []
        for term in terms:
            if self._is_label(term):
                notes.append(self._formula(term))
                continue
            source, label = self._factor(term, alone=term == index)
            ends.append((self._place(source), label))
        if node.op == "product" and inner == index and len(ends) == 1:
            text = ""
        element = self._element("gate", text, name, " + ".join(notes))
        self.flow.lines += [Line(source, element, label) for source, label in ends]
        return element

    def _factor(self, term: int, alone: bool = False) -> tuple[int, str]:
        """Return the parts of a term, and the weight that it is multiplied with.

        Args:
            term: The term.
            alone: True if the element that is drawn is the term itself.
        """
        node = self._node(term)
        if node.op == "product" and (alone or self._joins(term)):
            return self._through(node.args[0]), str(node.value)
        if node.op == "multiply" and self._joins(term):
            args = [self._through(a) for a in node.args]
            labels = [a for a in args if self._is_label(a)]
            if len(labels) == 1:
                (value,) = (a for a in args if a not in labels)
                return value, f"{self._formula(labels[0])} ·"
        return term, ""

    def _terms(self, index: int, op: str) -> list[int]:
        """Return the terms of a sum, or the factors of a product, joined where they may be."""
        found: list[int] = []
        for argument in self._node(index).args if self._node(index).op == op else (index,):
            argument = self._through(argument)
            inner = self._node(argument).op == op and argument not in self.names
            if argument != index and inner and self._joins(argument):
                found += self._terms(argument, op)
            else:
                found.append(argument)
        return found

    def _several(self, index: int, op: str, name: str) -> int:
        """Draw a sum, or a product, of several values as one circle."""
        terms = self._terms(index, op)
        labels = [self._formula(t) for t in terms if self._is_label(t)]
        values = [t for t in terms if not self._is_label(t)]
        if len(values) == 1:
            sign = _INFIX[op]
            text = f" {sign} ".join(labels)
            return self._made(
                "box", f"{text} {sign} •" if op == "multiply" else f"• + {text}", name, values
            )
        note = (" + " if op == "add" else " · ").join(labels)
        ends: list[tuple[int, str]] = []
        for value in values:
            if op == "add":
                source, label = self._factor(value)
                ends.append((self._place(source), label))
            else:
                ends.append((self._place(value), ""))
        element = self._element("circle", _SIGNS[op], name, note)
        self.flow.lines += [Line(source, element, label) for source, label in ends]
        return element

    def _formula(self, index: int) -> str:
        """Return a value that depends on weights and numbers alone, as short text."""
        return _short(self._text(index))

    def _text(self, index: int) -> str:
        text = self._spelled(index)
        # A name that the equations explain says more than the beginning of a long formula.
        return self.names.get(index, text) if len(text) > _LONGEST else text

    def _spelled(self, index: int) -> str:
        node = self._node(index)
        if node.op == "constant":
            return _number(node.value)
        if node.op in ("number", "size", "parameter"):
            return str(node.value)
        args = [self._text(a) for a in node.args]
        sign = _INFIX.get(node.op) or _COMPARISONS.get(node.op)
        if sign:
            bracketed = [f"({a})" if " " in a else a for a in args]
            return f" {sign} ".join(bracketed)
        if node.op == "negative":
            return f"−{args[0]}"
        return f"{_function(node.value if node.op == 'call' else node.op)}({', '.join(args)})"


def _function(name: Any) -> str:
    """Return the name of a function in words: an underscore would make an index of the second."""
    return _FUNCTIONS.get(str(name), str(name).replace("_", " "))


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    if value == math.e:
        return "e"
    return str(int(value)) if float(value).is_integer() else f"{value:.4g}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 2] + "…"
