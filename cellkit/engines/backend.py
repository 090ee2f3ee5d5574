"""The backend of this process, as an object: all that differs between the three."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import keras

from cellkit.cells.scope import SequenceScope
from cellkit.engines.shared.loop import Leaves, Loop

if TYPE_CHECKING:
    from cellkit.engines.request import Options


class Backend(Protocol):
    """What the engines and the layer ask of a backend.

    Attributes:
        name: Keras' name of the backend.
        block: Steps that are scanned at a time, where blocks pay, and at inference without
            sequences.
        blocks_pay: Whether a scan over blocks is faster. PyTorch and TensorFlow write every
            intermediate result to memory: those of a block stay in the caches. XLA fuses the
            operations of a whole sequence, and was slower with blocks.
        compiles: Whether eager calls are compiled; see `compiled`.
        lasting: Whether no one can change a tensor in place.
        loop_guards_padding: Whether the loop takes inputs of masked steps that are not finite.
    """

    name: str
    block: int
    blocks_pay: bool
    compiles: bool
    lasting: bool
    loop_guards_padding: bool

    def run(
        self, loop: Loop, inputs: Leaves, states: Leaves, mask: Any
    ) -> tuple[Leaves, Any, Leaves]:
        """Run a loop.

        Args:
            loop: The loop.
            inputs: Leaves of shape `(batch, time, ...)`.
            states: Leaves of shape `(batch, ...)`.
            mask: Boolean tensor of shape `(batch, time)`, True where the step counts, or None. The
                inputs of masked steps must be finite, but on JAX: a NaN reaches the gradients
                through `0 * NaN` even though the step's result is discarded.

        Returns:
            The leaves of the last output, those of all outputs `(batch, time, ...)` in the order
            processed (None unless `loop.collect`), and those of the final states.
        """

    def select(self, keep: Any, new: Any, old: Any) -> Any:
        """Take `new` where `keep`, else `old`; `keep` has the leading axes of `new`."""

    def compiled(
        self,
        body: Callable[..., Any],
        arguments: Any,
        options: Options,
        key: Any,
        scope: SequenceScope,
    ) -> Any:
        """Return ``body(*arguments)``, on JAX compiled once also for eager calls.

        Args:
            body: A function of tensors.
            arguments: Its arguments, any structure of tensors and None.
            options: The options of the layer, with the compiled functions in its cache.
            key: What besides shapes and dtypes tells one compiled function from another: first the
                edition of the layer. Only functions of the last one are kept.
            scope: Masks that are drawn once per sequence.
        """

    def recurrence(self, a: Any, b: Any, h: Any) -> Any:
        """Return the states of ``h' = a * h + b`` after every step.

        Args:
            a: Factors, `(batch, time, ...)`; each axis may have size 1.
            b: Terms, `(batch, time, ...)`.
            h: State before the first step, `(batch, ...)`.
        """

    def signature(self, x: Any) -> tuple[Any, ...] | None:
        """Return what a plan depends on of an eager tensor: shape, dtype, and the like.

        None for all that is not an ordinary tensor whose values are known, and where a compiler or
        a transformation is at work.
        """

    def traces_python(self) -> bool:
        """Tell whether a compiler reads the Python code of the call, as `torch.compile` does."""

    def transformed(self, tensors: Iterable[Any] = ()) -> str | None:
        """Return the transformation at work that can't see through an opaque engine, or None.

        Args:
            tensors: What the call computes with: it may be of a kind that has its own operations.
        """


def _backend_of(name: str) -> Backend:
    if name == "torch":
        from cellkit.engines.torch.backend import TorchBackend

        return TorchBackend()
    if name == "jax":
        from cellkit.engines.jax.backend import JaxBackend

        return JaxBackend()
    from cellkit.engines.tensorflow.backend import TensorFlowBackend

    return TensorFlowBackend()


backend = _backend_of(keras.backend.backend())
"""The backend of this process: Keras has one."""
