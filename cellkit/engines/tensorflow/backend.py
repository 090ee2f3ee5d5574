"""TensorFlow as the backend of the engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from cellkit.cells.scope import SequenceScope
from cellkit.engines.shared.loop import Leaves, Loop
from cellkit.engines.tensorflow import loop
from cellkit.engines.tensorflow.recurrence import recurrence

if TYPE_CHECKING:
    from cellkit.engines.request import Options


class TensorFlowBackend:
    """TensorFlow; see `cellkit.engines.backend.Backend`."""

    name = "tensorflow"
    block = 128
    blocks_pay = True
    compiles = False
    lasting = True
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
        """Return shape and dtype; see `Backend`."""
        if not isinstance(x, tf.Tensor) or not hasattr(x, "numpy") or not tf.executing_eagerly():
            return None
        return tuple(x.shape), x.dtype

    def traces_python(self) -> bool:
        """Return False: this backend runs the code that it traces."""
        return False

    def transformed(self, tensors: Any = ()) -> str | None:
        """Return None: every engine can be transformed."""
        return None
