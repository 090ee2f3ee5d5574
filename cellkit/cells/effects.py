"""Runs of a cell that leave nothing behind, and say what they would have left.

An engine that wants to know what a step does must run it, once more than the loop does. What such a
run changes in Python (a counter, a list, an array, the state of a random generator, what is
printed) is put back, and the engine keeps away from such a step: it could not repeat the effects.
"""

from __future__ import annotations

import array
import collections
import copy
import random
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from cellkit.cells.watch import View, bookkeeping

# The things put back (`sys.stdout`, random states) belongs to the process: one thread at a time, or
# the first to end would leave the streams and numbers of the second behind.
_alone = threading.RLock()
# Seconds to wait for another thread. Beyond them nothing runs, and the cell is left to the loop.
_PATIENCE = 20.0


class Undone:
    """A context in which whatever can be reached from an object changes for the moment only.

    Args:
        root: A cell.

    Attributes:
        found: The change, in words, or None; known at the end. If it is known at the beginning,
            something is within reach that could not be put back, and nothing must run.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self.found: str | None = None
        self._entered = False

    def __enter__(self) -> Undone:
        if not _alone.acquire(timeout=_PATIENCE):
            self.found = "could not be tried: another thread tries a step all the time"
            return self
        try:
            self._enter()
            self._entered = True
            return self
        except BaseException:
            _alone.release()
            raise

    def __exit__(self, *_: Any) -> None:
        if not self._entered:
            return
        try:
            self._exit()
        finally:
            _alone.release()

    def _enter(self) -> Undone:
        self._view = View((self._root,))
        self.found = None if self._view.unseen is None else f"uses {self._view.unseen}"
        self._put_back = [
            *map(_entries, self._view.sized),
            *map(_content, self._view.buffers),
            *map(_closed, self._view.closures),
            *(_slots(x, names) for x, names in self._view.slotted),
            *(_space(space, names) for space, names in self._view.spaces.values()),
        ]
        self._random = _RandomStates()
        self._printed = _Printed(sys.stdout)
        sys.stdout = self._printed
        return self

    def _exit(self) -> None:
        if sys.stdout is self._printed:
            sys.stdout = self._printed.stream
        if self._printed.used:
            self.found = self.found or "prints"
        if self._random.put_back():
            self.found = self.found or "draws random numbers of Python's or NumPy's"
        self._put_cell_back()

    def _put_cell_back(self) -> None:
        if not self._view.same() and not View((self._root,)).equals(self._view):
            self.found = self.found or "changes what it computes with, or counts"
            for put_back in self._put_back:
                put_back()


class _Printed:
    """A stream that takes what one thread prints, and leaves the rest to another stream."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.used = stream, False
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        """Take a text."""
        if threading.get_ident() != self._thread:
            return int(self.stream.write(text))
        self.used = True
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _RandomStates:
    """The states of the generators that the process shares."""

    def __init__(self) -> None:
        self._python, self._numpy = random.getstate(), np.random.get_state()
        torch = sys.modules.get("torch")
        self._torch: Any = None
        if torch is not None:
            with _without_modes():
                self._torch = torch.random.get_rng_state()

    def put_back(self) -> bool:
        """Restore them, and tell whether one of Python's or NumPy's had changed."""
        changed = random.getstate() != self._python
        now = np.random.get_state()
        changed |= any(not np.array_equal(a, b) for a, b in zip(now, self._numpy, strict=True))
        if changed:
            random.setstate(self._python)
            np.random.set_state(self._numpy)
        torch = sys.modules.get("torch")
        if torch is not None and self._torch is not None:
            with _without_modes():
                if not torch.equal(torch.random.get_rng_state(), self._torch):
                    torch.random.set_rng_state(self._torch)
        return changed


def _without_modes() -> Any:
    """Return a context in which PyTorch's tensors have values, whatever traces the call."""
    from torch.utils import _python_dispatch

    return _python_dispatch._disable_current_modes()


def _entries(x: Any) -> Callable[[], None]:
    """Return what gives a container the entries that it has now."""
    if isinstance(x, dict):
        return _dict_entries(x)
    if isinstance(x, list):
        items = list(x)
        return lambda: list.__setitem__(x, slice(None), items)
    if isinstance(x, collections.deque):
        kept = list(x)
        return lambda: _refill(x.clear, x.extend, kept)
    if isinstance(x, set):
        members = set(x)
        return lambda: _refill(x.clear, x.update, members)
    return lambda: None  # it cannot be changed


def _refill(clear: Any, fill: Any, content: Any) -> None:
    clear()
    fill(content)


def _dict_entries(x: dict[Any, Any]) -> Callable[[], None]:
    entries = dict(x)

    def put_back() -> None:
        # Things that Keras keeps for itself stay, and so do weights and layers made meanwhile.
        own = bookkeeping() if "_tracker" in x else frozenset()
        for name in [n for n in x if n not in entries and n not in own]:
            if not isinstance(x[name], (keras.Variable, keras.layers.Layer)):
                dict.__delitem__(x, name)
        for name, value in entries.items():
            if name not in own and (name not in x or x[name] is not value):
                dict.__setitem__(x, name, value)

    return put_back


def _content(x: Any) -> Callable[[], None]:
    """Return what gives an array, a tensor or a generator the content that it has now."""
    if isinstance(x, np.ndarray):
        values = x.copy()
        return lambda: np.copyto(x, values) if x.flags.writeable else None
    if isinstance(x, (bytearray, array.array)):
        kept: Any = x[:]
        return lambda: x.__setitem__(slice(None), kept)
    if isinstance(x, random.Random):
        state = x.getstate()
        return lambda: x.setstate(state)
    if isinstance(x, np.random.RandomState):
        old = x.get_state()
        return lambda: x.set_state(old)
    if isinstance(x, np.random.Generator):
        generator = copy.deepcopy(x.bit_generator.state)
        return lambda: setattr(x.bit_generator, "state", generator)
    if hasattr(x, "detach"):
        tensor, version = x.detach().clone(), None if x.is_inference() else x._version
        return lambda: _fill(x, tensor, version)
    return lambda: None


def _fill(x: Any, values: Any, version: int | None) -> None:
    if version is None or x._version != version:
        x.data.copy_(values)


def _closed(cell: types.CellType) -> Callable[[], None]:
    try:
        value = cell.cell_contents
    except ValueError:  # it is empty
        return lambda: None
    return lambda: setattr(cell, "cell_contents", value)


def _slots(x: Any, names: list[str]) -> Callable[[], None]:
    values = {name: getattr(x, name) for name in names if hasattr(x, name)}

    def put_back() -> None:
        for name, value in values.items():
            if getattr(x, name, None) is not value:
                object.__setattr__(x, name, value)

    return put_back


def _space(space: dict[str, Any], names: Any) -> Callable[[], None]:
    values = {name: space[name] for name in names if name in space}
    return lambda: space.update(values)
