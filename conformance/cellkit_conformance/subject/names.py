"""Names of weights and leaves that say nothing of the process."""

from __future__ import annotations

import re
from typing import Any

import keras

from cellkit_conformance.trees import Tree, paths


def stable_names(cell: Any) -> list[tuple[str, str]]:
    """Pair the path of every weight with a name that does not count the layers of the process.

    Keras numbers layers that nobody named, over all of the process. Inside of one cell the second
    layer of a class is still told from the first.

    Args:
        cell: A built cell.
    """
    met: dict[str, dict[str, str]] = {}
    found = []
    for variable in getattr(cell, "weights", ()):
        path = str(variable.path)
        *owners, own = path.removeprefix(f"{getattr(cell, 'name', '')}/").split("/")
        for place, owner in enumerate(owners):
            base = re.sub(r"_\d+$", "", owner)
            known = met.setdefault(base, {})
            owners[place] = known.setdefault(owner, f"{base}_{len(known)}" if known else base)
        found.append((path, "/".join([*owners, own])))
    return found


def describe_leaves(tree: Tree) -> dict[str, tuple[tuple[int, ...], str]]:
    """Give shape and dtype of every leaf by path, for messages and comparisons."""
    return {
        path: (tuple(leaf.shape), keras.backend.standardize_dtype(leaf.dtype))
        for path, leaf in paths(tree)
    }
