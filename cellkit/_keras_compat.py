"""The few places where Keras offers no public way, each with its reason.

Nothing else in cellkit touches a private attribute of Keras.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import keras
import numpy as np


def keras_mask(x: Any) -> Any:
    """Return the mask that an earlier layer attached to `x`, or None.

    Keras carries implicit masks on the tensors themselves, on NumPy in a table beside the arrays,
    and has no public accessor.
    """
    if isinstance(x, np.ndarray):
        # Where it is in every Keras from 3.12 on.
        from keras.src.backend.common.masking import get_keras_mask

        return get_keras_mask(x)
    return getattr(x, "_keras_mask", None)


def take_over_conversion(layer: keras.layers.Layer) -> None:
    """Tell Keras that `layer` converts its own arguments.

    `Layer.__call__` casts every floating argument to the compute dtype. That would round a float32
    state under mixed precision, so cellkit's layers convert each argument by its own rule. Keras'
    `Functional` model switches the conversion off in the same way.
    """
    layer._convert_input_args = False
    layer._allow_non_tensor_positional_args = True


def converts_its_own(layer: keras.layers.Layer) -> bool:
    """Tell whether `take_over_conversion` was called for `layer`."""
    return not layer._convert_input_args


def is_transparent(layer: keras.layers.Layer) -> bool:
    """Tell whether `Layer.__call__` does no more than to hand on the training flag and the mask.

    It also builds, checks an input specification, regularizes outputs, recomputes under a
    `RematScope`, and places tensors on a distribution's devices.
    """
    return (
        layer.built
        and layer.activity_regularizer is None
        and layer._input_spec is None
        and not layer._remat_mode
        and layer.supports_masking
        and len(layer._call_context_args) == 1
        and keras.distribution.distribution() is None
    )


def is_quantized(layer: keras.layers.Layer) -> bool:
    """Tell whether Keras runs `layer` by a method for quantized weights."""
    return layer.quantization_mode is not None


def open_call(layer: keras.layers.Layer, training: Any) -> tuple[bool, Any]:
    """Begin a call of `layer` as `Layer.__call__` does; `close_call` must follow.

    The layers that are called inside find the training flag in the call's context, and losses of
    the last call are dropped where no other layer's call is under way.

    Args:
        layer: The layer.
        training: The flag that was passed, or None.

    Returns:
        Whether the layer was called from outside of any other, and the flag that holds for it.
    """
    context = layer._get_call_context()
    if training is None:
        training = context.get_value("training")
    training = False if training is None else training
    context.set_value("training", training)
    return context.entry_layer is layer, training


def close_call(layer: keras.layers.Layer) -> None:
    """End a call that `open_call` began."""
    layer._maybe_reset_call_context()


def pass_mask_on(layer: keras.layers.Layer, inputs: Any, outputs: Any, mask: Any) -> None:
    """Attach to the outputs of `layer` the mask that it passes on, as `Layer.__call__` does."""
    layer._set_mask_metadata(inputs, outputs, mask)


def raise_from_call(
    layer: keras.layers.Layer, error: Exception, inputs: Any, arguments: dict[str, Any]
) -> NoReturn:
    """Raise an error of a layer's `call` as Keras does, with the arguments of the call in its text.

    Keras adds them in `Operation.__call__`, which an operation that does nothing but fail goes
    through.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        raise error

    call.__signature__ = inspect.signature(type(layer).call)  # type: ignore[attr-defined]
    failed = type(type(layer).__name__, (keras.Operation,), {"call": call})
    failed(name="failed")(inputs, **{k: v for k, v in arguments.items() if v is not None})
    raise error


def raw_value(variable: keras.Variable, scope: keras.StatelessScope | None = None) -> Any:
    """Return the value of `variable` as stored, not cast by a mixed-precision scope.

    `Variable.value` follows the autocast scope of the running layer; a value that travels through
    a compiled loop and back must keep its own dtype.
    """
    value = scope.get_current_value(variable) if scope is not None else None
    return variable._value if value is None else value


def raw_values(variables: Iterable[keras.Variable], scope: keras.StatelessScope) -> list[Any]:
    """Return the values of `variables` as stored, in a new `scope`; see `raw_value`."""
    if scope.original_scope is None:
        return [variable._value for variable in variables]
    return [raw_value(variable, scope) for variable in variables]


def in_stateless_scope() -> bool:
    """Tell whether the values of variables come from a scope of Keras', not from themselves."""
    with keras.StatelessScope(initialize_variables=False) as scope:
        return scope.original_scope is not None


def dropout_caches(cell: Any) -> Iterator[Any]:
    """Yield each stock cell inside `cell` that caches dropout masks on itself, at any depth.

    Keras' built-in cells draw a mask at the first step and keep it until someone resets it;
    `keras.layers.RNN` does so for cells it knows, not for cells inside other cells.
    """
    for part in parts(cell):
        if hasattr(part, "get_dropout_mask") and hasattr(part, "reset_dropout_mask"):
            yield part


def dropout_mixin() -> type:
    """Return the class from which Keras' own cells have the methods that cache masks.

    It has no public name.
    """
    return next(c for c in keras.layers.LSTMCell.__mro__ if "get_dropout_mask" in vars(c))


def draw_dropout_mask(cell: Any, ones: Any, rate: float) -> Any:
    """Return a mask, or a list of them, as the stock cell `cell` draws it, without keeping it."""
    return cell._create_dropout_mask(ones, rate)


def cached_dropout_masks(cell: Any) -> tuple[Any, Any]:
    """Return the two masks a stock cell has cached (each None, a tensor or a list of tensors)."""
    return getattr(cell, "_dropout_mask", None), getattr(cell, "_recurrent_dropout_mask", None)


def restore_dropout_masks(cell: Any, masks: tuple[Any, Any]) -> None:
    """Give a stock cell the masks that `cached_dropout_masks` returned."""
    for name, mask in zip(("_dropout_mask", "_recurrent_dropout_mask"), masks, strict=True):
        if mask is not None:
            setattr(cell, name, mask)


def parts(root: Any) -> Iterator[Any]:
    """Yield `root` and every layer or plain cell found in its attributes, each once."""
    seen: set[int] = set()
    todo = [root]
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, (list, tuple)):
            todo.extend(reversed(value))
        elif isinstance(value, dict):
            todo.extend(reversed(list(value.values())))
        elif isinstance(value, keras.layers.Layer) or is_plain_cell(value):
            yield value
            attributes = getattr(value, "__dict__", {})
            todo.extend(
                v
                for k, v in reversed(list(attributes.items()))
                if not isinstance(v, keras.Variable)
                and k not in ("_tracker", "_inbound_nodes", "_outbound_nodes", "_parent_path")
            )


def is_plain_cell(value: Any) -> bool:
    """Tell whether `value` has the two members of a cell and is not a Keras layer."""
    if isinstance(value, (type, keras.layers.Layer)):
        return False
    return callable(getattr(type(value), "call", None)) and hasattr(value, "state_size")


def takes(function: Any, name: str) -> bool:
    """Tell whether `function` can be called with the keyword `name`."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    )
