"""Dropout masks of Keras' own cells, kept by the running call and not by the cell.

A stock cell draws its masks at the first step and keeps them on itself until someone resets it:
two calls at the same time, in two threads, would take or clear each other's masks. So a cell is
given, once and for good, methods that ask the running call of a cellkit layer first. Without such
a call, in `keras.layers.RNN` say, they do what they always did.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import keras

from cellkit import _keras_compat as compat
from cellkit.cells.scope import current_scope


def lend_masks(cell: Any) -> list[Any]:
    """Let every stock cell inside `cell`, at any depth, take its masks from the running call.

    Args:
        cell: Any cell, built or not.

    Returns:
        The cells that go on keeping masks on themselves, since their class does so in a way of
        its own.
    """
    keeping = []
    for part in compat.dropout_caches(cell):
        if not _is_stock(part):
            keeping.append(part)
        elif "get_dropout_mask" not in vars(part):
            # Past Keras' tracking of attributes, and idempotent: threads may do it at once.
            vars(part).update({name: types.MethodType(f, part) for name, f in _METHODS.items()})
    return keeping


def _is_stock(cell: Any) -> bool:
    """Tell whether a cell caches masks by Keras' own methods, not by those of a subclass."""
    mixin, own = compat.dropout_mixin(), vars(cell)
    if not isinstance(cell, mixin):
        return False
    return all(
        getattr(type(cell), name) is getattr(mixin, name)
        and (name not in own or getattr(own[name], "__func__", None) is method)
        for name, method in _METHODS.items()
    )


def _getter(kind: str) -> Callable[[Any, Any], Any]:
    def get(cell: Any, step_input: Any) -> Any:
        scope = current_scope()
        if scope is None:
            return getattr(type(cell), f"get_{kind}_mask")(cell, step_input)
        rate = getattr(cell, kind)
        # `SimpleRNNCell` asks for masks at inference as well, and then ignores them.
        idle = not scope.training and type(cell) is keras.layers.SimpleRNNCell
        if idle or not rate > 0:
            return None
        rows, *shape = step_input.shape
        dtype = keras.backend.standardize_dtype(step_input.dtype)

        def recipe(batch: Any) -> Any:
            # A cell inside another one may be given other rows than those of the batch.
            ones = keras.ops.ones((rows if isinstance(rows, int) else batch, *shape), dtype=dtype)
            return compat.draw_dropout_mask(cell, ones, rate)

        return scope.mask((id(cell), kind), recipe)

    return get


def _resetter(kind: str) -> Callable[[Any], None]:
    def reset(cell: Any) -> None:
        scope = current_scope()
        if scope is None:
            getattr(type(cell), f"reset_{kind}_mask")(cell)
        else:
            scope.drop((id(cell), kind))

    return reset


_KINDS = ("dropout", "recurrent_dropout")
_METHODS: dict[str, Callable[..., Any]] = {
    **{f"get_{kind}_mask": _getter(kind) for kind in _KINDS},
    **{f"reset_{kind}_mask": _resetter(kind) for kind in _KINDS},
}
