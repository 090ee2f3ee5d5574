"""Cells with constants, as the suite checks them: with the constants as inputs of every step.

What a cell is handed at every step beside its inputs is, for one step, an input like another. So
all checks apply: a subclass takes the constants from its inputs, and the reference likewise. The
data that are drawn may change from step to step, which is more than a layer would ask. That a layer
hands constants on as they are is tested with the layer.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import keras

from cellkit import CellSpec
from cellkit_conformance.trees import leaves

__all__ = ["fed", "fed_spec", "is_fed"]

PACKAGE = "cellkit_conformance_constants"


def fed(cls: Any, spec: CellSpec) -> Any:
    """Return a subclass that takes the constants of `spec` behind its inputs.

    Args:
        cls: A class of cells whose `call` takes `constants`.
        spec: Its spec, which declares them.
    """
    parameters = inspect.signature(cls.call).parameters
    trains = "training" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    pack = _packer(spec.constants)

    def call(self: Any, inputs: Any, states: Any, training: bool = False) -> Any:
        x, *constants = inputs
        extra = {"training": training} if trains else {}
        return cls.call(self, x, states, constants=pack(constants), **extra)

    def build(self: Any, input_shape: Any) -> None:
        if hasattr(self, "expect"):
            # What a layer tells its cell of the constants; here they are among the inputs.
            self.expect(None, pack([keras.KerasTensor(shape) for shape in input_shape[1:]]))
        cls.build(self, input_shape[0])

    body: dict[str, Any] = {"call": call, "fed_from": cls, "__module__": cls.__module__}
    if getattr(cls, "build", None) not in (None, keras.layers.Layer.build):
        body["build"] = build
    made = type(cls.__name__, (cls,), {**body, "__doc__": cls.__doc__})
    if not issubclass(cls, keras.layers.Layer):
        return made
    return keras.saving.register_keras_serializable(package=PACKAGE)(made)


def is_fed(cls: Any) -> bool:
    """Tell whether a class takes its constants as inputs."""
    return "fed_from" in vars(cls)


def fed_spec(spec: CellSpec) -> CellSpec:
    """Return the spec of what `fed` returns."""
    pack = _packer(spec.constants)
    reference: Callable[..., Any] | None = None
    if spec.reference is not None:
        own = spec.reference

        def reference(w: Any, inputs: Any, states: Any, config: Any) -> Any:
            return own(w, inputs[0], states, config, pack(inputs[1:]))

    draw, draw_constants = spec.draw_inputs, spec.draw_constants

    def drawn(inputs: Any) -> list[Any]:
        x, *constants = inputs
        if draw_constants is not None:
            constants = leaves(draw_constants(pack(constants)))
        return [x if draw is None else draw(x), *constants]

    return dataclasses.replace(
        spec,
        inputs=[spec.inputs, *_shapes(spec.constants)],
        constants=None,
        reference=reference,
        draw_inputs=None if draw is None and draw_constants is None else drawn,
        draw_constants=None,
    )


def _shapes(structure: Any) -> list[Any]:
    """Return the shapes in a structure of constants, one after the other."""
    if isinstance(structure, tuple) and all(isinstance(n, (int, str)) for n in structure):
        return [structure]
    children = structure.values() if isinstance(structure, dict) else structure
    return [shape for child in children for shape in _shapes(child)]


def _packer(structure: Any) -> Callable[[Any], Any]:
    """Return what puts constants into their structure; a single one is handed on in a list."""
    if isinstance(structure, tuple) and all(isinstance(n, (int, str)) for n in structure):
        return list

    def pack(leaves: Any) -> Any:
        left = list(leaves)

        def fill(node: Any) -> Any:
            if isinstance(node, tuple) and all(isinstance(n, (int, str)) for n in node):
                return left.pop(0)
            if isinstance(node, dict):
                return {key: fill(child) for key, child in node.items()}
            return type(node)(fill(child) for child in node)

        return fill(structure)

    return pack
