"""Nested structures without Keras: what the oracle, the strategies and the parent process share.

A structure is a leaf or a list, tuple, namedtuple or dict of structures. Dicts are matched by key,
everything else by position; a list and a tuple of the same length match each other, because a
layer may return either where Keras' signature says "a sequence".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Tree = Any


def is_branch(node: Tree) -> bool:
    """Say whether a node is a list, tuple, namedtuple or dict, and so not a leaf."""
    return isinstance(node, (list, tuple, dict))


def children(node: Tree) -> list[tuple[Any, Tree]]:
    """List the (key, child) pairs of a branch, in its own order."""
    return list(node.items()) if isinstance(node, dict) else list(enumerate(node))


def rebuild(node: Tree, values: list[Tree]) -> Tree:
    """Make a branch of the same type and keys as `node` that holds other children."""
    if isinstance(node, dict):
        return dict(zip(node, values, strict=True))
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*values)
    return type(node)(values)


def paths(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf with a readable path, such as `("states/0/memory", leaf)`."""
    if not is_branch(tree):
        yield prefix, tree
        return
    for key, child in children(tree):
        yield from paths(child, f"{prefix}/{key}" if prefix else str(key))


def leaves(tree: Tree) -> list[Any]:
    """List the leaves, depth first."""
    return [leaf for _, leaf in paths(tree)]


def map_trees(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply a function leaf by leaf to trees of one structure.

    Args:
        function: Called with one leaf of every tree.
        tree: The tree whose container types the result takes.
        *others: Trees of the same structure.

    Returns:
        The tree of results.

    Raises:
        ValueError: The trees differ in structure.

    Example:
        >>> map_trees(lambda a, b: a + b, {"h": 1, "c": 2}, {"c": 20, "h": 10})
        {'h': 11, 'c': 22}
    """
    for other in others:
        require_same(tree, other)
    return _map(function, tree, others)


def _map(function: Callable[..., Any], tree: Tree, others: tuple[Tree, ...]) -> Tree:
    if not is_branch(tree):
        return function(tree, *others)
    return rebuild(
        tree,
        [_map(function, child, tuple(o[key] for o in others)) for key, child in children(tree)],
    )


def pair_leaves(tree: Tree, other: Tree) -> list[tuple[Any, Any]]:
    """List the leaves of two trees of one structure in pairs, dicts matched by key.

    Args:
        tree: The tree whose order the pairs have.
        other: A tree of the same structure.

    Raises:
        ValueError: The trees differ in structure.
    """
    pairs: list[tuple[Any, Any]] = []
    map_trees(lambda a, b: pairs.append((a, b)), tree, other)
    return pairs


def difference(left: Tree, right: Tree, where: str = "") -> str | None:
    """Say where two structures differ, or return None when they match.

    Args:
        left: A structure; the sentence calls it the first.
        right: A structure; the sentence calls it the second.
        where: The path of the two nodes, for the sentence.
    """
    at = f" at {where!r}" if where else ""
    if is_branch(left) != is_branch(right):
        return f"one is a leaf and the other is not{at}"
    if not is_branch(left):
        return None
    if isinstance(left, dict) != isinstance(right, dict):
        return f"{type(left).__name__} and {type(right).__name__}{at}"
    keys, other_keys = [k for k, _ in children(left)], [k for k, _ in children(right)]
    if set(keys) != set(other_keys):
        return f"{len(keys)} entries {keys} and {len(other_keys)} entries {other_keys}{at}"
    for key, child in children(left):
        found = difference(child, right[key], f"{where}/{key}" if where else str(key))
        if found:
            return found
    return None


def require_same(left: Tree, right: Tree) -> None:
    """Raise `ValueError` when two trees differ in structure.

    Args:
        left: A structure.
        right: Another one.

    Raises:
        ValueError: They differ; the text says where.
    """
    found = difference(left, right)
    if found:
        raise ValueError(f"The two structures differ: {found}.")


def is_shape(node: Tree) -> bool:
    """Say whether a node of `inputs` is a shape: a tuple of ints and names of dimensions."""
    return isinstance(node, tuple) and all(isinstance(dim, (int, str)) for dim in node)


def map_shapes(function: Callable[[tuple[Any, ...]], Any], tree: Tree) -> Tree:
    """Apply a function to every shape tuple of a structure such as a spec's `inputs`."""
    if is_shape(tree) and not hasattr(tree, "_fields"):
        return function(tree)
    return rebuild(tree, [map_shapes(function, child) for _, child in children(tree)])
