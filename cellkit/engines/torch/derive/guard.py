"""A guard against what no record shows: values read on the host, and the number of rows.

A record holds operations. A branch on a value, or a factor that is the number of rows, leaves no
operation behind but what it decided for the rows that were made up. While a step is recorded, such
a read raises `Refused`; and since a step may catch what is raised, the guard keeps it in mind.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# They hand values of a tensor to Python, NumPy or anything else outside of PyTorch.
_HOST_READS = frozenset(
    "item tolist numpy __array__ __array_wrap__ __dlpack__ __float__ __int__ __bool__ __index__ "
    "__complex__ __repr__ __str__ __format__ __contains__ __deepcopy__ __reduce_ex__ __setstate__ "
    "data_ptr storage untyped_storage typed_storage equal allclose is_nonzero "
    "__cuda_array_interface__ nonzero argwhere unique unique_consecutive bincount histc "
    "masked_select share_memory_ to_dlpack __array_interface__".split()
)
# They tell how many numbers there are, the rows among the factors.
_COUNTS = frozenset("numel nelement __len__ nbytes".split())
# They take sizes as arguments of their own; what becomes of these is seen in the operation.
_SIZED = frozenset(
    "reshape view expand new_zeros new_ones new_empty new_full zeros ones empty full randn rand "
    "broadcast_to expand_as view_as unflatten arange narrow tile repeat".split()
)


class Refused(Exception):
    """The step does something that is not known to be row by row; the message says what."""


class Guard(TorchFunctionMode):
    """Refuses host reads, and hands out a number of rows that can't be computed with.

    Args:
        rows: The number of rows, which is the size of no other axis.

    Attributes:
        reason: The operation that was refused, in words, or None.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.reason: str | None = None
        self.rows = _rows_type(self._refuse)(rows)

    def _refuse(self, what: str) -> Any:
        self.reason = self.reason or what
        raise Refused(what)

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name == "__get__":
            name = function.__self__.__name__
        if name in _HOST_READS:
            self._refuse(f"reads values on the host, with `{name}`")
        if name in _COUNTS and self._has_rows(args[0]):
            self._refuse(f"reads the number of rows, with `{name}`")
        if name not in _SIZED:
            kind = type(self.rows)
            if any(type(a) is kind for a in (*args[1:], *kwargs.values())):
                self._refuse(f"computes with the number of rows, in `{name}`")
        result = function(*args, **kwargs)
        if type(result) is torch.Size and result and result[0] == int(self.rows.real):
            return torch.Size((self.rows, *result[1:]))
        if name == "size" and type(result) is int and self._has_rows(args[0]):
            return self.rows if result == self.rows.real else result
        return result

    def _has_rows(self, x: Any) -> bool:
        return bool(torch.is_tensor(x) and x.ndim and x.shape[0] == self.rows.real)


def _rows_type(refuse: Any) -> type:
    """Return a class of integers of which only what holds for any number of rows can be asked."""

    def refused(name: str) -> Any:
        def method(self: Any, *_: Any) -> Any:
            return refuse(f"computes with the number of rows, in `{name}`")

        return method

    def compared(name: str, beyond: bool) -> Any:
        def method(self: Any, other: Any) -> Any:
            if type(other) is type(self):
                return getattr(int, name)(self.real, other.real)
            if not isinstance(other, (int, float)):
                return NotImplemented
            if other < 1 or (other == 1 and name in ("__lt__", "__ge__")):
                return beyond  # there is a row at least
            if other == self.real and name in ("__eq__", "__ne__"):
                return name == "__eq__"  # only a tensor of these rows has the number
            return refuse(f"compares the number of rows, with `{name}`")

        return method

    def hashed(self: Any) -> int:
        # Checks of frameworks look sizes up; a step that does so depends on the number.
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.partition(".")[0] not in ("cellkit", "keras", "torch"):
            refuse("computes with the number of rows, in `__hash__`")
        return hash(self.real)

    members = {name: refused(name) for name in _ARITHMETIC}
    members |= {name: compared(name, beyond) for name, beyond in _COMPARISONS.items()}
    members["__hash__"] = hashed
    return type("_Rows", (int,), members)


_ARITHMETIC = (
    "__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __floordiv__ "
    "__rfloordiv__ __mod__ __rmod__ __divmod__ __rdivmod__ __pow__ __rpow__ __lshift__ __rlshift__ "
    "__rshift__ __rrshift__ __and__ __rand__ __or__ __ror__ __xor__ __rxor__ __neg__ __pos__ "
    "__abs__ __invert__ __float__ __int__ __round__ __trunc__ __floor__ __ceil__ __str__ __repr__ "
    "__format__ bit_length to_bytes as_integer_ratio"
).split()
_COMPARISONS = {
    "__eq__": False,
    "__ne__": True,
    "__lt__": False,
    "__le__": False,
    "__gt__": True,
    "__ge__": True,
}
