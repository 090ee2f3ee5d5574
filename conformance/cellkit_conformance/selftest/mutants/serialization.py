"""SER: broken cells and layers that come back from a file or a config as something else."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from cellkit_conformance.selftest.mutants.base import BrokenLayer, breaks, forget
from cellkit_conformance.subject.canaries import PlainCanary


@breaks("SER-01", "SER-02")
class LostArgument(PlainCanary):
    """The config forgets the activation."""

    def get_config(self) -> dict[str, Any]:
        """Return most of the constructor arguments."""
        config = super().get_config()
        del config["activation"]
        return config


LostArgument.spec = dataclasses.replace(
    PlainCanary.spec, cases={"linear": {"units": 3, "activation": "linear"}, "tanh": {"units": 4}}
)


@breaks("SER-03")
class Nowhere(PlainCanary):
    """The class has another name than the one under which its module has it."""


Nowhere.__name__ = "Elsewhere"


@breaks("SER-04")
class OtherWeightOrder(PlainCanary):
    """The weights are stored in another order."""

    def build(self, input_shape: Any) -> None:
        """Create the weights, a bias before all others."""
        first = self.add_weight(shape=(self.units + 1,), initializer="zeros", name="first")
        super().build(input_shape)
        forget(self, self.q)
        self.q = first


@breaks("SER-06", "SER-04")
class HiddenWeight(PlainCanary):
    """A random weight stands where Keras does not look."""

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        super().build(input_shape)
        hidden = np.random.default_rng().standard_normal(self.units + 1).astype("float32")
        object.__setattr__(self, "hidden", hidden)

    def emit(self, h: Any) -> Any:
        """Compute y."""
        return super().emit(h) + ops.convert_to_tensor(self.hidden)


@breaks("SER-06")
class UntrackedVariable(PlainCanary):
    """A variable is kept in a dict that was there before Keras looked."""

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        super().build(input_shape)
        object.__setattr__(self, "kept", {"scale": keras.Variable(np.ones(1, "float32"))})


@breaks("SER-10")
class NamesTheDefault(PlainCanary):
    """The config says tanh, whatever the activation is."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        return {**super().get_config(), "activation": "tanh"}


@breaks("SER-11")
class NeedsEveryArgument(PlainCanary):
    """A config of an older version does not load."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Make a cell."""
        return cls(config.pop("units"), config.pop("activation"), **config)


@breaks("SER-02")
class ForgetsBias(PlainCanary):
    """The config says that there are biases, whatever was given."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments, one of them wrong."""
        return {**super().get_config(), "use_bias": True}


@breaks("SER-07")
class AcceptsAnyWeights(BrokenLayer):
    """Weights of every shape are made to fit."""

    def set_weights(self, weights: Any) -> None:
        """Resize."""
        shapes = [tuple(v.shape) for v in self.weights]
        pairs = zip(weights, shapes, strict=False)
        super().set_weights([np.resize(w, s) for w, s in pairs] + list(weights[len(shapes) :]))


@breaks("SER-08")
class CopiesShare(BrokenLayer):
    """A deep copy is the layer itself."""

    def __deepcopy__(self, memo: Any) -> Any:
        return self


@breaks("SER-09")
@keras.saving.register_keras_serializable(package="cellkit_conformance")
class ForgetsDirection(BrokenLayer):
    """A layer made from a config runs the other way."""

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make a layer."""
        turned = {**config, "go_backwards": not config["go_backwards"]}
        return super().from_config(turned, custom_objects)
