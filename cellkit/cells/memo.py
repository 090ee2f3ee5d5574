"""Results that an object computes once and keeps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Memo:
    """Results that an object computes once and keeps: never saved, never copied, never tracked.

    Attributes:
        lock: A lock for the thread that builds the object.
    """

    def __init__(self) -> None:
        self._values: dict[Any, Any] = {}
        self.lock = threading.RLock()

    def get(self, key: Any) -> Any:
        """Return the value of `key`, or None."""
        return self._values.get(key)

    def set(self, key: Any, value: Any) -> None:
        """Keep `value` under `key`."""
        self._values[key] = value

    def memoize(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return the value of `key`, made at the first use."""
        if key not in self._values:
            # Threads that make it at once all get the one that came first.
            self._values.setdefault(key, make())
        return self._values[key]

    def current(self, key: Any, edition: int, make: Callable[[], Any]) -> Any:
        """Return the value of `key`, made anew for every edition; see `cellkit.cells.watch`."""
        kept = self._values.get(key)
        if kept is None or kept[0] != edition:
            kept = self._values[key] = (edition, make())
        return kept[1]

    def __deepcopy__(self, memo: Any) -> Memo:
        return Memo()

    def __reduce__(self) -> Any:
        return (Memo, ())
