"""The backend of this process, as an object: all that differs between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from cellkit._backends import running
from cellkit.cells.scope import SequenceScope
from cellkit.engines.shared.loop import Leaves, Loop
from cellkit.typing import Tensor

if TYPE_CHECKING:
    from cellkit.engines.request import Options, Request
    from cellkit.engines.shared.one_step import OneStep


Result = tuple[Leaves, Any, Leaves]
Repeated = Callable[["Request", str, Callable[["Request"], Result]], Result]


class Backend(Protocol):
    """The interface of a backend, for the engines and the layer.

    Attributes:
        name: Keras' name of the backend.
        block: Steps that are scanned at a time, where blocks pay, and at inference without
            sequences.
        blocks_pay: True if a scan over blocks is faster. PyTorch and TensorFlow write every
            intermediate result to memory: those of a block stay in the caches. XLA fuses the
            operations of a whole sequence, and was slower with blocks.
        compiles: True if eager calls are compiled; see `compiled`.
        differentiates: True if there are gradients; without, nothing is trained.
        loop_guards_padding: True if the loop takes inputs of masked steps that are not finite.
    """

    name: str
    block: int
    blocks_pay: bool
    compiles: bool
    differentiates: bool
    loop_guards_padding: bool

    @property
    def repeated(self) -> Repeated | None:
        """The function that runs eager calls for which there is a plan, None if none differs.

        It takes a request, the name of its engine, and the function that runs it by that engine.
        """

    def run(
        self, loop: Loop, inputs: Leaves, states: Leaves, mask: Tensor
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

    def recomputed(self, loop: Loop) -> Loop:
        """Return a loop of which the backward pass computes every step again.

        Args:
            loop: A loop whose step draws no random numbers, writes no variables and adds no losses.
        """

    def select(self, keep: Tensor, new: Tensor, old: Tensor) -> Any:
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
            key: Values that tell compiled functions apart besides shapes and dtypes: first the
                edition of the layer. Only functions of the last one are kept.
            scope: Masks that are drawn once per sequence.
        """

    def recurrence(self, a: Tensor, b: Tensor, h: Tensor, cuts: bool = False) -> Any:
        """Return the states of ``h' = a * h + b`` after every step.

        Args:
            a: Factors, `(batch, time, ...)`; each axis may have size 1.
            b: Terms, `(batch, time, ...)`.
            h: State before the first step, `(batch, ...)`.
            cuts: True if a zero of `a` lets nothing through, neither NaN nor infinity, and no
                gradient.
        """

    def signature(self, x: Tensor) -> tuple[Any, ...] | None:
        """Return what a plan depends on of an eager tensor: shape, dtype, and the like.

        None for all that is not an ordinary tensor whose values are known, and where a compiler or
        a transformation is at work.
        """

    def own(self, x: Tensor) -> Any:
        """Return a tensor with the values of `x` that no one else can change in place."""

    def copied(self, x: Tensor) -> Any:
        """Return a copy of a tensor that carries no gradient."""

    def one_step(self, request: Request, step: OneStep, stock: list[Any], usual: bool) -> OneStep:
        """Return a step that is compiled, or recorded, at inference.

        Args:
            request: A request for one step: `(batch, 1, ...)`.
            step: The cell's own step.
            stock: Cells that keep masks on themselves.
            usual: True if the layer computes in the dtype of its variables.
        """

    def traces_python(self) -> bool:
        """Tell whether a compiler reads the Python code of the call, as `torch.compile` does."""

    def transformed(self, tensors: Iterable[Any] = ()) -> str | None:
        """Return the transformation at work that can't see through an opaque engine, or None.

        Args:
            tensors: The tensors of the call: they may be of a kind that has its own operations.
        """


def _backend_of(name: str) -> Backend:
    if name == "torch":
        from cellkit.engines.torch.backend import TorchBackend

        return TorchBackend()
    if name == "jax":
        from cellkit.engines.jax.backend import JaxBackend

        return JaxBackend()
    if name == "numpy":
        from cellkit.engines.numpy.backend import NumpyBackend

        return NumpyBackend()
    if name == "openvino":
        from cellkit.engines.openvino.backend import OpenVinoBackend

        return OpenVinoBackend()
    from cellkit.engines.tensorflow.backend import TensorFlowBackend

    return TensorFlowBackend()


backend = _backend_of(running())
"""The backend of this process: Keras has one."""
