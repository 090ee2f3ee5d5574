"""Cells of other packages behind a thin adapter: the step is theirs, the weights are Keras'."""

from __future__ import annotations

import importlib
import threading
from typing import Any

import keras
import numpy as np

TURN = threading.Lock()
"""Held while a module of PyTorch computes: its parameters are exchanged for the time."""


class _Adapted(keras.layers.Layer):
    """Parts that the adapters have in common.

    Args:
        units: Width of every state.
        name_of_cell: The class in the other package.
        states: Number of its states; of one it takes and returns the tensor alone.
        **kwargs: Of the Keras layer.
    """

    def __init__(self, units: int, name_of_cell: str, states: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.name_of_cell, self.states = units, name_of_cell, states
        self.state_size = [units] * states
        self.output_size = units

    def weight_like(self, name: str, value: Any) -> Any:
        """Make a weight that starts from a value."""
        value = np.asarray(value)
        start = keras.initializers.Constant(value) if value.ndim == 0 else lambda *_, **__: value
        return self.add_weight(shape=value.shape, initializer=start, name=name)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        own = {"units": self.units, "name_of_cell": self.name_of_cell, "states": self.states}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="cellkit_others")
class TorchRecurrentCell(_Adapted):
    """A cell of torchrecurrent, which is a `torch.nn.Module`."""

    def build(self, input_shape: Any) -> None:
        """Make the module, and weights that start as its own do."""
        package = importlib.import_module("torchrecurrent")
        module = getattr(package, self.name_of_cell)(input_shape[-1], self.units)
        self.inner = (module,)  # in a tuple PyTorch does not see it
        self.parts = {
            name: self.weight_like(name, parameter.detach().cpu().numpy())
            for name, parameter in module.named_parameters()
        }
        self.built = True

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        torch = importlib.import_module("torch")
        parts = {name: variable.value for name, variable in self.parts.items()}
        given = (inputs, states[0] if self.states == 1 else tuple(states))
        with TURN:
            new = torch.func.functional_call(self.inner[0], parts, given)
        return (new, [new]) if self.states == 1 else (new[0], list(new))


@keras.saving.register_keras_serializable(package="cellkit_others")
class FlaxCell(_Adapted):
    """A cell of `flax.linen`."""

    def build(self, input_shape: Any) -> None:
        """Make weights that start as those of the module do."""
        jax, linen = importlib.import_module("jax"), importlib.import_module("flax.linen")
        module = getattr(linen, self.name_of_cell)(self.units)
        key = jax.random.key(int(np.random.default_rng(0).integers(2**31)))
        x = np.zeros((1, input_shape[-1]), "float32")
        state = np.zeros((1, self.units), "float32")
        carry = state if self.states == 1 else (state,) * self.states
        found, self.tree = jax.tree_util.tree_flatten_with_path(module.init(key, carry, x))
        names = ["_".join(str(part.key) for part in path) for path, _ in found]
        values = [value for _, value in found]
        self.parts = [self.weight_like(n, v) for n, v in zip(names, values, strict=True)]
        self.built = True

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Advance one step."""
        jax, linen = importlib.import_module("jax"), importlib.import_module("flax.linen")
        module = getattr(linen, self.name_of_cell)(self.units)
        variables = jax.tree_util.tree_unflatten(self.tree, [v.value for v in self.parts])
        carry = states[0] if self.states == 1 else tuple(states)
        carry, output = module.apply(variables, carry, inputs)
        return output, [carry] if self.states == 1 else list(carry)
