"""PyTorch as the backend of the engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from cellkit.cells.scope import SequenceScope
from cellkit.engines.shared.loop import Leaves, Loop
from cellkit.engines.torch import loop, transformations
from cellkit.engines.torch.recurrence import recurrence

if TYPE_CHECKING:
    from cellkit.engines.request import Options


class TorchBackend:
    """PyTorch; see `cellkit.engines.backend.Backend`."""

    name = "torch"
    block = 256
    blocks_pay = True
    compiles = False
    lasting = False
    loop_guards_padding = False
    select = staticmethod(loop.select)
    recurrence = staticmethod(recurrence)

    def run(
        self, request: Loop, inputs: Leaves, states: Leaves, mask: Any
    ) -> tuple[Leaves, Any, Leaves]:
        """Run a loop."""
        return loop.run(request, inputs, states, mask)

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

    def signature(self, x: Any) -> tuple[Any, ...] | None:
        """Return shape, dtype, device and whether gradients are wanted; see `Backend`."""
        if torch.compiler.is_compiling() or type(x) is not torch.Tensor or self.transformed():
            return None
        return x.shape, x.dtype, x.device, torch.is_grad_enabled()

    def traces_python(self) -> bool:
        """Tell whether `torch.compile` reads the code of the call."""
        return bool(torch.compiler.is_compiling())

    def transformed(self, tensors: Iterable[Any] = ()) -> str | None:
        """Return the transformation of PyTorch at work, or None."""
        return transformations.transformed() or transformations.unusual(tensors)
