"""Parts that spiking cells share: a current from inputs and spikes, and the surrogate."""

from __future__ import annotations

from typing import Any

from cellkit.cells import Cell, as_dtype, choice, matmul, plus, positive_number
from cellkit.errors import problem
from cellkit_spiking._surrogate import SURROGATES, spike


class SpikingCell(Cell):
    """A cell of neurons that take a current from inputs and from the spikes of the step before.

    Args:
        units: Number of neurons H.
        recurrent: True where spikes come back through a matrix V.
        surrogate: The smooth step in the place of a spike, for gradients.
        slope: Steepness of the surrogate.
        **kwargs: Options of `cellkit.Cell`.
    """

    def __init__(
        self, units: int, *, recurrent: bool, surrogate: str, slope: float, **kwargs: Any
    ) -> None:
        super().__init__(units, **kwargs)
        self.recurrent = bool(recurrent)
        self.surrogate = choice(type(self), "surrogate", surrogate, SURROGATES)
        self.slope = positive_number(type(self), "slope", slope)
        if self.recurrent_dropout and not self.recurrent:
            raise problem(
                f"{type(self).__name__} has no recurrent product to drop spikes from.",
                received=f"recurrent_dropout={self.recurrent_dropout}, recurrent=False",
                expected="recurrent_dropout=0.0, or recurrent=True",
                fix="use `dropout`, which drops inputs",
            )

    @property
    def output_size(self) -> int:
        """Width of the output: `units`."""
        return int(self.units)

    def build_current(self, features: int | None) -> None:
        """Create `kernel` and `bias` for the current, and `recurrent_kernel` for the spikes.

        Args:
            features: Width of the inputs, or None where they are the current.
        """
        weights = features is not None
        self.kernel = self.add_kernel((features, self.units)) if weights else None
        self.bias = self.add_bias((self.units,)) if weights else None
        self.recurrent_kernel = (
            self.add_recurrent_kernel((self.units, self.units)) if self.recurrent else None
        )

    def project(self, inputs: Any) -> Any:
        """Return the current that the inputs bring."""
        if self.kernel is None:
            return inputs
        return plus(matmul(inputs, self.kernel), self.bias)

    def with_spikes(self, current: Any, spikes: Any) -> Any:
        """Return the current with what the spikes of the step before bring, in a wide dtype."""
        if self.recurrent_kernel is not None:
            dropped = self.drop(as_dtype(spikes, self.compute_dtype))
            current = current + matmul(dropped, self.recurrent_kernel)
        return as_dtype(current, self.accumulator_dtype)

    def spikes(self, v: Any) -> Any:
        """Return 1 where v is above zero, else 0, with the gradient of the surrogate."""
        return spike(v, self.surrogate, self.slope)
