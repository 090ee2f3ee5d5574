"""PyTorch as the backend of the engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from cellkit.cells.scope import SequenceScope
from cellkit.engines.shared.loop import Leaves, Loop
from cellkit.engines.torch import loop, transformations
from cellkit.engines.torch.recurrence import recurrence
from cellkit.typing import Tensor

if TYPE_CHECKING:
    from cellkit.engines.request import Options, Request
    from cellkit.engines.shared.one_step import OneStep


class TorchBackend:
    """PyTorch; see `cellkit.engines.backend.Backend`."""

    name = "torch"
    block = 256
    blocks_pay = True
    compiles = False
    differentiates = True
    loop_guards_padding = False
    repeated = None
    select = staticmethod(loop.select)
    recurrence = staticmethod(recurrence)

    def run(
        self, request: Loop, inputs: Leaves, states: Leaves, mask: Tensor
    ) -> tuple[Leaves, Any, Leaves]:
        """Run a loop."""
        return loop.run(request, inputs, states, mask)

    def recomputed(self, request: Loop) -> Loop:
        """Return a loop with checkpoints, unless it is one of a chunk already; see `Backend`."""
        return request if request.remat else loop.recomputed(request)

    def compiled(
        self,
        body: Callable[..., Any],
        arguments: Any,
        options: Options,
        key: Any,
        scope: SequenceScope,
    ) -> Any:
        """Run `body` as it stands: nothing is compiled."""
        return body(*arguments)

    def signature(self, x: Tensor) -> tuple[Any, ...] | None:
        """Return shape, dtype, device and whether gradients are wanted; see `Backend`."""
        if type(x) is not torch.Tensor or transformations.transformed():
            return None
        return x.shape, x.dtype, x.device, torch.is_grad_enabled()

    def own(self, x: Tensor) -> Any:
        """Return a copy."""
        return x.clone()

    def copied(self, x: Tensor) -> Any:
        """Return a copy without a gradient."""
        return x.detach().clone()

    def one_step(self, request: Request, step: OneStep, stock: list[Any], usual: bool) -> OneStep:
        """Return the operations of a step in a row; see `Backend`."""
        from cellkit.engines.torch.one_step import one_step  # which needs this object

        return one_step(request, step, stock, usual)

    def traces_python(self) -> bool:
        """Tell whether `torch.compile` reads the code of the call."""
        return bool(torch.compiler.is_compiling())

    def transformed(self, tensors: Iterable[Any] = ()) -> str | None:
        """Return the transformation of PyTorch at work, or None."""
        return transformations.transformed() or transformations.unusual(tensors)
