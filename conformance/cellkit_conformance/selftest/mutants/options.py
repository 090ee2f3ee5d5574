"""Broken cells whose constructor arguments are lost, ignored or misread."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from cellkit_conformance.selftest.mutants.base import breaks
from cellkit_conformance.subject.canaries import PlainCanary


@breaks("NUM-13")
class OwnSigmoid(PlainCanary):
    """One activation that no case shows is another function than its name says."""

    def candidate(self, x: Any, c: Any) -> Any:
        """Compute n."""
        n = super().candidate(x, c)
        return ops.minimum(n, 0.6) if self.activation is keras.activations.sigmoid else n


@keras.saving.register_keras_serializable(package="cellkit_conformance")
@breaks("STR-11")
class DeadArgument(PlainCanary):
    """A fraction is accepted, kept, and not used."""

    def __init__(self, units: int = 4, slope: float = 0.5, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.slope = slope

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        return {**super().get_config(), "slope": self.slope}


@keras.saving.register_keras_serializable(package="cellkit_conformance")
@breaks("STR-11")
class DeadFlag(PlainCanary):
    """A flag is accepted, kept, and not used."""

    def __init__(self, units: int = 4, use_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.given = use_bias

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        return {**super().get_config(), "use_bias": self.given}


@keras.saving.register_keras_serializable(package="cellkit_conformance")
@breaks("STR-11")
class CachesForAll(PlainCanary):
    """The first instance decides on the activation of all."""

    known: dict[str, Any] = {}

    def __init__(self, units: int = 4, activation: str = "tanh", **kwargs: Any) -> None:
        super().__init__(units, activation, **kwargs)
        self.given = activation
        self.activation = self.known.setdefault("activation", self.activation)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        return {**super().get_config(), "activation": self.given}


@breaks("SER-12")
class LosesAChoice(PlainCanary):
    """A cell from a config knows two activations."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Make a cell."""
        known = config["activation"] in ("tanh", "linear")
        return cls(**{**config, "activation": config["activation"] if known else "tanh"})


@breaks("SER-12")
class LosesItsName(PlainCanary):
    """The config has what the cell itself names."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of the cell alone."""
        names = ("units", "activation", "use_bias")
        return {key: value for key, value in super().get_config().items() if key in names}


class _Options(PlainCanary):
    """No mutant but what those of objects are made of: a cell with options for its output."""

    def __init__(
        self,
        units: int = 4,
        kernel_initializer: Any = "glorot_uniform",
        kernel_regularizer: Any = None,
        kernel_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)

    def given(self) -> dict[str, Any]:
        """Return what is passed on to the kernel; overridden by mutants."""
        return {
            "initializer": self.kernel_initializer,
            "regularizer": self.kernel_regularizer,
            "constraint": self.kernel_constraint,
        }

    def build(self, input_shape: Any) -> None:
        """Create the weights, and a kernel with options."""
        super().build(input_shape)
        shape = (self.units + 1, self.units + 1)
        self.out = self.add_weight(shape=shape, name="out", **self.given())

    def emit(self, h: Any) -> Any:
        """Compute y."""
        return ops.matmul(super().emit(h), self.out)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        written = {
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
        }
        return {**super().get_config(), **written}


def _without(*names: str) -> Any:
    def given(self: Any) -> dict[str, Any]:
        return {key: value for key, value in _Options.given(self).items() if key not in names}

    return given


@breaks("SER-13")
class UnusedInitializer(_Options):
    """An initializer is kept, and the kernel has another."""

    spec = None
    given = _without("initializer")


@breaks("SER-13")
class UnusedRegularizer(_Options):
    """A regularizer is kept, and no weight has it."""

    spec = None
    given = _without("regularizer")


@breaks("SER-13")
class UnusedConstraint(_Options):
    """A constraint is kept, and no weight has it."""

    spec = None
    given = _without("constraint")
