"""The part of a backend that is the same on all that neither compile nor differentiate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cellkit.cells.scope import SequenceScope
from cellkit.engines.shared.loop import Loop

if TYPE_CHECKING:
    from cellkit.engines.request import Options, Request
    from cellkit.engines.shared.one_step import OneStep


class InferenceBackend:
    """A backend for inference alone; see `cellkit.engines.backend.Backend`."""

    block = 256
    blocks_pay = False
    compiles = False
    differentiates = False
    loop_guards_padding = True
    repeated = None

    def recomputed(self, request: Loop) -> Loop:
        """Return the loop as it is: there is no backward pass."""
        return request

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

    def one_step(self, request: Request, step: OneStep, stock: list[Any], usual: bool) -> OneStep:
        """Return the step as it is: nothing is compiled or recorded."""
        return step

    def traces_python(self) -> bool:
        """Return False: there is no compiler."""
        return False

    def transformed(self, tensors: Any = ()) -> str | None:
        """Return None: there are no transformations."""
        return None
