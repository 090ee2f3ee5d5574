"""Finding a value that a check compared among what its recorded calls returned."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from cellkit_conformance.repro.literals import access, equal
from cellkit_conformance.subject.record import Call
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import Tree, children, difference, is_branch, paths, rebuild

RESULT = re.compile(r"RESULT<(\d+)>")
"""What stands for the result of a call in the expression of a value."""


class Finder:
    """Finds arrays among the results of calls.

    Args:
        subject: Whose calls they are.
        calls: The calls.
    """

    def __init__(self, subject: Subject, calls: Sequence[Call]) -> None:
        self.subject = subject
        self.calls = calls

    def find(self, array: np.ndarray, but_not: str | None = None) -> str | None:
        """Find an array.

        Args:
            array: The array that was compared.
            but_not: An expression that does not count.

        Returns:
            An expression in which RESULT<3> stands for the result of call 3; None where the array
            is not found.
        """
        known = [
            (_as_numpy(call, f"RESULT<{number}>{path}"), leaf, call.mask)
            for number, call in reversed(list(enumerate(self.calls)))
            for path, leaf in self.returned(call)
        ]
        for expression, leaf, _ in known:
            if leaf is array and expression != but_not:
                return expression
        if array.size == 0 or not np.any(array):
            return None  # zeros are everywhere
        for expression, leaf, mask in known:
            for suffix, cut in _cuts(leaf, mask):
                if expression + suffix != but_not and equal(cut, array):
                    return expression + suffix
        return self._find_joined(array)

    def _find_joined(self, array: np.ndarray) -> str | None:
        """Find an array as the outputs of the last few calls, one behind the other in time."""
        for first in range(len(self.calls) - 2, -1, -1):
            numbers = range(first, len(self.calls))
            if any(self.calls[n].kind == "gradient" for n in numbers):
                return None
            returned = [dict(self.returned(self.calls[n])) for n in numbers]
            for path in returned[0]:
                chunks = [leaves[path] for leaves in returned if path in leaves]
                if len(chunks) < len(returned) or any(np.ndim(chunk) < 2 for chunk in chunks):
                    continue
                if len({chunk.shape[:1] + chunk.shape[2:] for chunk in chunks}) > 1:
                    continue
                if equal(np.concatenate(chunks, axis=1), array):
                    inner = ", ".join(f"RESULT<{n}>{path}" for n in numbers)
                    joined = f"keras.ops.concatenate([{inner}], axis=1)"
                    return f"keras.ops.convert_to_numpy({joined})"
        return None

    def returned(self, call: Call) -> Iterator[tuple[str, np.ndarray]]:
        """List the arrays that a call returned, with the expression behind the result.

        Args:
            call: One of the calls.
        """
        if call.kind == "gradient":
            yield from self._gradients(call)
            return
        if call.output is None or (call.kind == "step" and call.layer is not self.subject.cell):
            return
        if call.kind == "step":
            yield from (
                (f"[0]{access(tree, path)}", leaf) for tree, path, leaf in _all(call.output)
            )
            for tree, path, leaf in _all(call.new_states):
                yield f"[1]{access(tree, path)}", leaf
            return
        first = "[0]" if call.layer.return_state else ""
        for tree, path, leaf in _all(call.output):
            yield f"{first}{access(tree, path)}", leaf
        if call.new_states is None:
            return
        whole = self.is_whole(call)
        for tree, path, leaf in _all(call.new_states):
            yield (f"[1]{access(tree, path)}" if whole else f"[1:]{access(tree, path)}"), leaf

    def _gradients(self, call: Call) -> Iterator[tuple[str, np.ndarray]]:
        """List gradients by their positions in what the program's `gradients` returns."""
        if not call.gradients:
            return
        of_inputs, of_states, of_weights = call.gradients
        order = keras.tree.flatten(_paths_in_place(call.inputs))
        yield from ((f"[0][{order.index(k)}]", g) for k, g in of_inputs.items() if g is not None)
        order = keras.tree.flatten(_paths_in_place(call.states if of_states else []))
        yield from ((f"[1][{order.index(k)}]", g) for k, g in of_states.items() if g is not None)
        for number, gradient in enumerate(of_weights.values()):
            if gradient is not None:
                yield f"[2][{number}]", gradient

    def is_whole(self, call: Call) -> bool:
        """Say whether a layer returned its states as one structure behind the output."""
        returned = list(call.returned[1:])
        return difference(self.subject.template, returned) is not None and len(returned) == 1


def _as_numpy(call: Call, expression: str) -> str:
    return expression if call.kind == "gradient" else f"keras.ops.convert_to_numpy({expression})"


def _paths_in_place(tree: Tree, prefix: str = "") -> Any:
    """Put the path of every leaf in its place; Keras flattens a dict in another order."""
    if not is_branch(tree):
        return prefix
    named = [
        _paths_in_place(child, f"{prefix}/{key}" if prefix else str(key))
        for key, child in children(tree)
    ]
    return rebuild(tree, named)


def _all(tree: Tree) -> Iterator[tuple[Tree, str, Any]]:
    return ((tree, path, leaf) for path, leaf in paths(tree))


def _cuts(leaf: np.ndarray, mask: Any) -> Iterator[tuple[str, np.ndarray]]:
    """List what checks cut out of a result: rows, steps, stretches of time."""
    yield "", leaf
    rows = leaf.shape[0] if leaf.ndim else 0
    steps = leaf.shape[1] if leaf.ndim > 1 else 0
    for row in range(rows):
        yield f"[{row}:{row + 1}]", leaf[row : row + 1]
    if rows == 3:
        yield "[[2, 0, 1]]", leaf[[2, 0, 1]]
    for step in range(min(steps, 20)):
        yield f"[:, {step}]", leaf[:, step]
    if steps > 20:
        yield "[:, -1]", leaf[:, -1]
    for step in range(1, min(steps, 20)):
        yield f"[:, :{step}]", leaf[:, :step]
        yield f"[:, {step}:]", leaf[:, step:]
    if steps:
        yield "[:, ::-1]", leaf[:, ::-1]
    for row in range(rows):
        for step in range(min(steps, 20)):
            yield f"[{row}, {step}]", leaf[row, step]
    if mask is not None and np.ndim(mask) == 2 and np.shape(mask) == leaf.shape[:2]:
        for row, keep in enumerate(np.asarray(mask, bool)):
            yield f"[{row}][{keep.tolist()}][None]", leaf[row][keep][None]
