"""Randomness that belongs to one sequence: dropout masks drawn once per call of a layer.

A mask that is constant over time must be drawn once, however often a backend traces or runs the
step, and must be gone when the call ends, also when it ends with an exception. So masks live in a
`SequenceScope`, opened by the layer for one call, and never on a cell.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras

from cellkit import _keras_compat as compat


class _Current(threading.local):
    """The scope of the running call in each thread: `torch.compile` sees through no ContextVar."""

    def __init__(self) -> None:
        self.scope: SequenceScope | None = None


_current = _Current()


class SequenceScope:
    """Things that belong to one call of a recurrent layer, its random masks above all.

    Args:
        batch: Size of the batch: an int, or a scalar tensor where it is not known.
        constants: The keyword arguments that the cell is handed at every step.
        one_step: True if the call is a single step of a stream.
        resets: Boolean tensor of shape `(batch, time)`, True where a new sequence begins, or None.
    """

    def __init__(
        self,
        batch: Any,
        constants: dict[str, Any] | None = None,
        one_step: bool = False,
        resets: Any = None,
    ) -> None:
        self.batch = batch
        self.resets = resets
        self.constants = constants or {}
        self.one_step = one_step
        self.training = False
        self.stock: list[Any] = []
        self._masks: dict[Any, Any] = {}
        self._recipes: dict[Any, Callable[[Any], Any]] = {}
        self._expand: Callable[[Any], Any] | None = None

    def mask(self, key: Any, recipe: Callable[[Any], Any]) -> Any:
        """Return the mask `key`, drawn by ``recipe(batch)`` at its first use in this call."""
        if key not in self._masks:
            self._recipes[key] = recipe
            self._masks[key] = recipe(self.batch)
        mask = self._masks[key]
        return mask if self._expand is None else keras.tree.map_structure(self._expand, mask)

    def drop(self, key: Any) -> None:
        """Forget the mask `key`: the next one to ask for it gets another."""
        self._masks.pop(key, None)
        self._recipes.pop(key, None)

    @contextlib.contextmanager
    def expanded(self, expand: Callable[[Any], Any]) -> Iterator[None]:
        """Return masks in here through `expand`, for the steps of a sequence as so many rows."""
        self._expand = expand
        try:
            yield
        finally:
            self._expand = None

    def drawn(self) -> dict[Any, Any]:
        """Return the masks that are drawn and not settled, by key."""
        return {key: self._masks[key] for key in self._recipes}

    @contextlib.contextmanager
    def substituted(self, masks: dict[Any, Any]) -> Iterator[None]:
        """Return these masks in here, where a compiled step takes them as its arguments."""
        own, self._masks = self._masks, {**self._masks, **masks}
        try:
            yield
        finally:
            self._masks = own

    @contextlib.contextmanager
    def narrowed(self, stock: list[Any]) -> Iterator[None]:
        """Leave only the stock cells `stock` to what runs in here."""
        outer, self.stock = self.stock, stock
        try:
            yield
        finally:
            self.stock = outer

    def settle(self) -> None:
        """Keep the masks drawn so far to the end of the call: `redraw` spares them."""
        self._recipes = {}

    def forget(self) -> None:
        """Throw away every mask drawn so far."""
        self._masks, self._recipes = {}, {}
        _reset_stock(self.stock)

    def redraw(self) -> None:
        """Draw every mask asked for so far once more.

        A compiled loop runs its body in a graph of its own: a mask drawn there would be fresh at
        every step. The loop therefore traces one step to learn which masks it needs, and calls
        this outside its body.
        """
        for key, recipe in self._recipes.items():
            self._masks[key] = recipe(self.batch)
        _redraw_stock(self.stock, self.batch)


@contextlib.contextmanager
def sequence_scope(
    scope: SequenceScope, stock: list[Any], training: bool = False
) -> Iterator[SequenceScope]:
    """Open `scope` for one call of a layer; what is drawn in it is gone afterwards.

    Args:
        scope: The scope.
        stock: Cells that keep masks on themselves, as `lend_masks` returns them: they are cleared
            before and after.
        training: True if the call is one of training.
    """
    scope.stock, scope.training = stock, training
    _reset_stock(scope.stock)
    outer, _current.scope = _current.scope, scope
    try:
        yield scope
    finally:
        _current.scope = outer
        _reset_stock(scope.stock)


@contextlib.contextmanager
def reopened(scope: SequenceScope, drawn: list[Any]) -> Iterator[None]:
    """Open a scope once more, with the masks that it had, to repeat a part of its call.

    Args:
        scope: The scope.
        drawn: The results of `compat.cached_dropout_masks` for its stock cells.
    """
    outer, _current.scope = _current.scope, scope
    for cell, masks in zip(scope.stock, drawn, strict=True):
        compat.restore_dropout_masks(cell, masks)
    try:
        yield
    finally:
        _current.scope = outer
        _reset_stock(scope.stock)


def current_scope() -> SequenceScope | None:
    """Return the scope of the running call, or None when a cell is called by itself."""
    return _current.scope


def _reset_stock(cells: list[Any]) -> None:
    for cell in cells:
        cell.reset_dropout_mask()
        if hasattr(cell, "reset_recurrent_dropout_mask"):
            cell.reset_recurrent_dropout_mask()


def _redraw_stock(cells: list[Any], batch: Any) -> None:

    def like(mask: Any) -> Any:
        one = mask[0] if isinstance(mask, list) else mask
        return keras.ops.ones((batch, *one.shape[1:]), dtype=one.dtype)

    for cell in cells:
        inputs, recurrent = compat.cached_dropout_masks(cell)
        if inputs is not None:
            cell.reset_dropout_mask()
            cell.get_dropout_mask(like(inputs))
        if recurrent is not None:
            cell.reset_recurrent_dropout_mask()
            cell.get_recurrent_dropout_mask(like(recurrent))
