"""Record of a check for a reproduction script: the calls it made, and what it compared."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cellkit_conformance.trees import Tree

KEPT = 24
"""Calls that are kept of one example."""

_clock = itertools.count()


@dataclass
class Call:
    """One call of a layer, of the cell itself, or of a layer's gradient.

    Attributes:
        kind: "layer", "step" or "gradient".
        layer: The layer, or the cell for a step.
        inputs: NumPy arrays.
        states: NumPy arrays, or None.
        mask: An array, or None.
        training: The flag, or None.
        which: The results that a gradient was taken of: "all", "outputs", "last" or "states".
        stored: The states of a stateful layer before the call, or None.
        output: In NumPy, once the call has returned.
        new_states: In NumPy, or None.
        returned: The return value of the layer, as it was.
        graph: True if TensorFlow ran it in a graph.
        gradients: Of a "gradient" call, once it has returned: by inputs, by states, by weights.
        number: Grows from call to call, over all subjects.
    """

    kind: str
    layer: Any
    inputs: Tree
    states: Tree | None = None
    mask: Any = None
    training: bool | None = None
    which: str = "all"
    stored: list[np.ndarray] | None = None
    output: Tree = None
    new_states: Tree | None = None
    returned: Any = None
    graph: bool = False
    gradients: tuple[Mapping[str, np.ndarray | None], ...] = ()
    number: int = field(default_factory=lambda: next(_clock))


@dataclass(frozen=True)
class Values:
    """A comparison of two arrays that failed.

    Attributes:
        got: The computed values.
        want: The expected values.
        limit: The tolerance for a magnitude of up to `unit`, in units of it, growing with the
            expected magnitude beyond; 0 where the values must be equal.
        unit: A number that values were divided by before they were compared.
    """

    got: np.ndarray
    want: np.ndarray
    limit: float = 0.0
    unit: float = 1.0


@dataclass(frozen=True)
class Refusal:
    """A call that was to raise a `ValueError` and did not, or with another text.

    Attributes:
        what: The deed.
        fragments: Words that the text must contain, in whatever case.
    """

    what: str
    fragments: tuple[str, ...]


@dataclass(frozen=True)
class Claim:
    """Something that must be true of arrays that recorded calls gave, and is not.

    Attributes:
        kind: "zero" or "finite" of all entries, "moves" where any must not be zero, "differ" where
            any of the arrays must not equal its counterpart.
        arrays: The arrays.
        others: Their counterparts.
        at: The index of what counts of each, or None for the whole.
    """

    kind: str
    arrays: Sequence[np.ndarray]
    others: Sequence[np.ndarray] = ()
    at: tuple[Any, ...] | None = None


Finding = Values | Refusal | Claim
"""What a check that fails leaves for the program that shows it."""


def calls() -> deque[Call]:
    """Make an empty record of calls."""
    return deque(maxlen=KEPT)
