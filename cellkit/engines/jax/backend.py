"""JAX as the backend of the engines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from cellkit.cells.scope import SequenceScope
from cellkit.engines.jax import loop
from cellkit.engines.jax.one_step import CompiledStep
from cellkit.engines.jax.recurrence import recurrence
from cellkit.engines.shared.loop import Leaves, Loop
from cellkit.typing import Tensor

if TYPE_CHECKING:
    from cellkit.engines.request import Options, Request
    from cellkit.engines.shared.one_step import OneStep


class JaxBackend:
    """JAX; see `cellkit.engines.backend.Backend`."""

    name = "jax"
    block = 256
    blocks_pay = False
    compiles = True
    differentiates = True
    loop_guards_padding = True
    repeated = None
    select = staticmethod(loop.select)
    recurrence = staticmethod(recurrence)

    def run(
        self, request: Loop, inputs: Leaves, states: Leaves, mask: Tensor
    ) -> tuple[Leaves, Any, Leaves]:
        """Run a loop."""
        return loop.run(request, inputs, states, mask)

    def recomputed(self, request: Loop) -> Loop:
        """Return a loop whose chunks are single steps; see `Backend`."""
        return dataclasses.replace(request, remat=1)

    def compiled(
        self,
        body: Callable[..., Any],
        arguments: Any,
        options: Options,
        key: Any,
        scope: SequenceScope,
    ) -> Any:
        """Run `body`, compiled for eager calls; see `cellkit.engines.backend`."""
        return loop.compiled(body, arguments, options, key, scope)

    def signature(self, x: Tensor) -> tuple[Any, ...] | None:
        """Return shape and dtype; see `Backend`."""
        if not isinstance(x, jax.Array) or isinstance(x, jax.core.Tracer):
            return None
        return x.shape, x.dtype

    def own(self, x: Tensor) -> Any:
        """Return the tensor: no one can change it."""
        return x

    def copied(self, x: Tensor) -> Any:
        """Return a copy."""
        return jnp.array(x)

    def one_step(self, request: Request, step: OneStep, stock: list[Any], usual: bool) -> OneStep:
        """Return a compiled step; see `Backend`."""
        return CompiledStep(request, step)

    def traces_python(self) -> bool:
        """Return False: this backend runs the code that it traces."""
        return False

    def transformed(self, tensors: Any = ()) -> str | None:
        """Return None: every engine can be transformed."""
        return None
