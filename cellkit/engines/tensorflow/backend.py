"""TensorFlow as the backend of the engines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from cellkit.cells.scope import SequenceScope
from cellkit.engines.shared.loop import Leaves, Loop
from cellkit.engines.tensorflow import loop, repeated
from cellkit.engines.tensorflow.one_step import GraphStep
from cellkit.engines.tensorflow.recurrence import recurrence
from cellkit.typing import Tensor

if TYPE_CHECKING:
    from cellkit.engines.request import Options, Request
    from cellkit.engines.shared.one_step import OneStep


class TensorFlowBackend:
    """TensorFlow; see `cellkit.engines.backend.Backend`."""

    name = "tensorflow"
    block = 128
    blocks_pay = True
    compiles = False
    differentiates = True
    loop_guards_padding = False
    repeated = staticmethod(repeated.run)
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
        """Run `body` as it stands: nothing is compiled."""
        return body(*arguments)

    def signature(self, x: Tensor) -> tuple[Any, ...] | None:
        """Return shape and dtype; see `Backend`."""
        if not isinstance(x, tf.Tensor) or not hasattr(x, "numpy") or not tf.executing_eagerly():
            return None
        return tuple(x.shape.as_list()), x.dtype

    def own(self, x: Tensor) -> Any:
        """Return the tensor: no one can change it."""
        return x

    def copied(self, x: Tensor) -> Any:
        """Return the tensor: no one can change it."""
        return tf.stop_gradient(x)

    def one_step(self, request: Request, step: OneStep, stock: list[Any], usual: bool) -> OneStep:
        """Return a step as a graph; see `Backend`."""
        return GraphStep(request, step)

    def traces_python(self) -> bool:
        """Return False: this backend runs the code that it traces."""
        return False

    def transformed(self, tensors: Any = ()) -> str | None:
        """Return None: every engine can be transformed."""
        return None
