"""Transformations that PyTorch applies to the operations of a call beside running them.

Functions with a gradient of their own, and operations that write into memory they are given, are
right where operations are run one by one and differentiated backwards. Tracers, other modes and
transforms see through neither. There the engines step back to operations that all of PyTorch knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.utils._device import DeviceContext

_USUAL = (torch.Tensor, torch.nn.Parameter)


def transformed() -> str | None:
    """Return which transformation of PyTorch the call is in, where it is in one."""
    if torch.compiler.is_compiling():
        return "torch.compile traces the plain loop"
    if torch._C._is_any_autocast_enabled():
        return "torch.autocast is on"
    return seen_through()


def seen_through() -> str | None:
    """Return what sees every operation of the call and must be able to tell what it does."""
    if in_torch_func():
        return "a transform of torch.func is active"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit traces the plain loop"
    if forward_ad._current_level >= 0:
        return "torch.autograd.forward_ad is active"
    if torch._C._len_torch_dispatch_stack():
        return "a mode of PyTorch's dispatcher is active"
    for index in range(torch._C._len_torch_function_stack()):
        mode = torch._C._get_function_stack_at(index)
        if not isinstance(mode, DeviceContext):
            return f"a mode for PyTorch's functions is active, {type(mode).__name__}"
    return None


def in_torch_func() -> bool:
    """True if a transform of `torch.func`, such as `vmap`, is at work."""
    return bool(torch._C._are_functorch_transforms_active())


def batched(gradients: Iterable[Any]) -> bool:
    """True if many gradients come at once, from `is_grads_batched` or a `vmap` over a backward."""
    if in_torch_func():
        return True
    return any(torch._C._functorch.is_legacy_batchedtensor(g) for g in gradients if g is not None)


def unusual(tensors: Iterable[Any]) -> str | None:
    """Return why tensors are none whose memory an engine may work on, or None."""
    for x in tensors:
        if type(x) not in _USUAL:
            return f"there is a tensor of the type {type(x).__name__}"
        if x.device.type == "meta" or x.layout is not torch.strided:
            return "there is a tensor without values, or with another layout than strides"
    return None
