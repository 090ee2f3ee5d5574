"""`GatedCell`: the base class of cells whose gates share their products."""

from __future__ import annotations

from typing import Any, ClassVar

from cellkit.cells.cell import Cell
from cellkit.cells.operations import matmul, plus, split
from cellkit.cells.validate import vector_size
from cellkit.registry.symbols import gate_blocks
from cellkit.typing import States, Tree


class GatedCell(Cell):
    """Base class of cells whose gates share one product with the inputs and one with the state.

    A subclass names its gates, in the order of the weights' blocks, with the attribute that holds
    each one's activation, and writes `combine`. Weights: `kernel` of shape
    `(features, gates * units)`, `recurrent_kernel` of shape `(units, gates * units)` and `bias` of
    shape `(gates * units,)`.

    Example:
    >>> class UpdateCell(GatedCell):
    ...     gates = {"z": "recurrent_activation", "n": "activation"}
    ...
    ...     def combine(self, gates, states):
    ...         h = gates["z"] * states[0] + (1 - gates["z"]) * gates["n"]
    ...         return h, [h]
    >>> cell = UpdateCell(4)
    >>> cell.build((None, 3))
    >>> tuple(cell.kernel.shape)
    (3, 8)
    """

    gates: ClassVar[dict[str, str]] = {}

    @classmethod
    def spec_defaults(cls) -> dict[str, Any]:
        """Return what a spec says by default; the letters of the weights bear the gates' names."""
        symbols = {"symbols": gate_blocks(list(cls.gates))} if cls.gates else {}
        return {**super().spec_defaults(), **symbols}

    def build(self, input_shape: Any) -> None:
        """Create `kernel`, `recurrent_kernel` and `bias`."""
        super().build(input_shape)
        features = vector_size(self, input_shape)
        width = len(self.gates) * self.units
        self.kernel = self.add_kernel((features, width))
        self.recurrent_kernel = self.add_recurrent_kernel(self.recurrent_shape)
        self.bias = self.add_bias((width,), initializer=self._gate_biases)

    @property
    def recurrent_shape(self) -> tuple[int, int]:
        """Shape of the recurrent kernel, for cells whose first state is not `units` wide."""
        return self.units, len(self.gates) * self.units

    def gate_bias_initializers(self) -> dict[str, Any]:
        """Return initializers for the biases of single gates; others use `bias_initializer`."""
        return {}

    def _gate_biases(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        return self.draw_by_gate(
            self.gates, self.gate_bias_initializers(), (self.units,), dtype=dtype
        )

    def project(self, inputs: Tree) -> Any:
        """Return ``inputs @ kernel + bias`` for all gates at once."""
        return plus(matmul(inputs, self.kernel), self.bias)

    def step(self, projected: Tree, states: States) -> tuple[Tree, States]:
        """Add the recurrent product, apply each gate's activation, and `combine`."""
        z = projected + matmul(self.drop(states[0]), self.recurrent_kernel)
        blocks = split(z, len(self.gates))
        gates = {
            name: getattr(self, activation)(block)
            for (name, activation), block in zip(self.gates.items(), blocks, strict=True)
        }
        return self.combine(gates, states)

    def combine(self, gates: dict[str, Any], states: States) -> tuple[Tree, States]:
        """Make the output and the new states from the activated gates.

        Args:
            gates: Tensors of shape `(batch, units)`, by name.
            states: The old states; the first one entered the recurrent product.

        Returns:
            The output and the new states.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `combine(gates, states)`.")
