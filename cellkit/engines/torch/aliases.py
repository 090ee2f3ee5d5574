"""Names of operations in files: PyTorch has several for some, and readers of files know one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

ALIASES: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.absolute: torch.abs,
    torch.arccos: torch.acos,
    torch.arccosh: torch.acosh,
    torch.arcsin: torch.asin,
    torch.arcsinh: torch.asinh,
    torch.arctan: torch.atan,
    torch.arctan2: torch.atan2,
    torch.arctanh: torch.atanh,
    torch.clip: torch.clamp,
    torch.concat: torch.cat,
    torch.concatenate: torch.cat,
    torch.divide: torch.div,
    torch.fix: torch.trunc,
    torch.greater: torch.gt,
    torch.greater_equal: torch.ge,
    torch.less: torch.lt,
    torch.less_equal: torch.le,
    torch.multiply: torch.mul,
    torch.negative: torch.neg,
    torch.not_equal: torch.ne,
    torch.subtract: torch.sub,
    torch.true_divide: torch.div,
}
"""Operations that Keras or a cell may call, and the same operations by their first names."""


class FirstNames(TorchFunctionMode):
    """Calls operations by their first names, so that a trace has no others.

    `torch.jit.trace` keeps the name by which an operation was called, and OpenVINO refuses
    `aten::divide`, which is `aten::div`.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the operation."""
        return ALIASES.get(func, func)(*args, **(kwargs or {}))
