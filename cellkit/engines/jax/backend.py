"""JAX as the backend of the engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from cellkit.cells.scope import SequenceScope
from cellkit.engines.jax import loop
from cellkit.engines.jax.recurrence import recurrence
from cellkit.engines.shared.loop import Leaves, Loop

if TYPE_CHECKING:
    from cellkit.engines.request import Options


class JaxBackend:
    """JAX; see `cellkit.engines.backend.Backend`."""

    name = "jax"
    block = 256
    blocks_pay = False
    compiles = True
    lasting = True
    loop_guards_padding = True
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
        """Run `body`, compiled for eager calls; see `cellkit.engines.backend`."""
        return loop.compiled(body, arguments, options, key, scope)

    def signature(self, x: Any) -> tuple[Any, ...] | None:
        """Return shape and dtype; see `Backend`."""
        if not isinstance(x, jax.Array) or isinstance(x, jax.core.Tracer):
            return None
        return x.shape, x.dtype

    def traces_python(self) -> bool:
        """Return False: this backend runs the code that it traces."""
        return False

    def transformed(self, tensors: Any = ()) -> str | None:
        """Return None: every engine can be transformed."""
        return None
