"""Texts that say the standard LSTM or GRU, for which frameworks have kernels.

A text is compared with the standard one by its dataflow, so letters, the order of lines, terms and
factors, and the names of gates make no difference.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from cellkit.equations.analyse import Analysis, analyse
from cellkit.equations.declare import declare
from cellkit.equations.graph import Graph

__all__ = ["standard_letters"]

_TEXTS = {
    "lstm": """
        i, f, o = s(W @ x + U @ h + b)
        g = tanh(W_g @ x + U_g @ h + b_g)
        c' = f * c + i * g
        h' = o * tanh(c')
    """,
    "gru": """
        z, r = s(W @ x + U @ h + b)
        n = tanh(W_n @ x + b_n + r * (U_n @ h + b_hn))
        h' = z * h + (1 - z) * n
    """,
}


def standard_letters(analysis: Analysis) -> tuple[str, Mapping[str, str]] | None:
    """Return which standard cell a text says, and its own letters for those of the standard one.

    Args:
        analysis: The analysis of the text.

    Returns:
        "lstm" or "gru" with a map from ``W_i`` and so on to the text's letters, or None.
    """
    for kind, text in _TEXTS.items():
        known = _standard(text)
        if analysis.states != known.states or analysis.output != analysis.new["h"]:
            continue
        letters: dict[str, str] = {}
        for state in known.states:
            form, theirs = _form(known, known.new[state])
            own_form, own = _form(analysis, analysis.new[state])
            if form != own_form:
                break
            for standard, letter in zip(theirs, own, strict=True):
                if letters.setdefault(standard, letter) != letter:
                    return None
        else:
            shared = len(set(letters.values())) < len(letters)
            return (
                None
                if shared or set(letters.values()) != set(analysis.parameters)
                else (
                    kind,
                    letters,
                )
            )
    return None


@functools.cache
def _standard(text: str) -> Analysis:
    return analyse(declare("Standard", text))


def _form(analysis: Analysis, index: int) -> tuple[str, tuple[str, ...]]:
    """Return how a node is computed, without letters, and the letters in the order of that."""
    graph: Graph = analysis.graph
    known: dict[int, tuple[str, tuple[str, ...]]] = {}
    for at in sorted(graph.below([index])):
        node = graph.nodes[at]
        if node.op == "parameter":
            known[at] = (analysis.parameters[node.value].role, (node.value,))
            continue
        if node.op == "add":
            parts = [known[i] for i in graph.terms(at)]
        else:
            parts = [known[i] for i in node.args]
        if node.op in ("add", "multiply"):
            parts = sorted(parts, key=lambda part: part[0])
        letters = tuple(letter for part in parts for letter in part[1])
        value = "" if node.op == "product" else f":{node.value}"
        if node.op == "product":
            letters = (str(node.value), *letters)
        form = f"{node.op}{value}({','.join(part[0] for part in parts)})"
        known[at] = (form if len(form) < 2000 else f"#{hash(form)}", letters)
    return known[index]
