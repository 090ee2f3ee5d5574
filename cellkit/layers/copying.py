"""Fresh copies of recurrent layers and cells: the same options, but weights of their own.

`Bidirectional` needs a second layer like the one it was given. Keras makes it by serialising the
layer, which works only for cells that are registered. Here the classes are at hand, so nothing
has to be looked up by name.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import keras

from cellkit import _keras_compat as compat
from cellkit.errors import problem
from cellkit.layers.rnn import RNN
from cellkit.layers.stacked import StackedCells

__all__ = ["copy_layer"]

_OPTIONS = (
    "return_sequences",
    "return_state",
    "go_backwards",
    "stateful",
    "unroll",
    "zero_output_for_mask",
)
# Far from 1, so that the layers of a model that are seeded 1, 2, 3, ... stay apart as well.
_SEED_OFFSET = 0x5BD1E995


def copy_layer(layer: Any, *, name: str, go_backwards: bool, new_seed: bool) -> Any:
    """Make an unbuilt layer with the options of `layer`.

    Args:
        layer: A recurrent layer.
        name: Name of the copy.
        go_backwards: Direction of the copy.
        new_seed: True if explicit seeds are replaced by other ones, derived from them. Otherwise
            two copies with dropout would draw the same masks.

    Returns:
        The copy, of the type of `layer`.

    Raises:
        ValueError: If the layer or its cell can't be made again from its configuration.
    """
    options = {"name": name, "go_backwards": go_backwards}
    plain = type(layer).get_config in (keras.layers.RNN.get_config, RNN.get_config)
    if isinstance(layer, keras.layers.RNN) and plain:
        # The generic layer: its arguments are known, and the cell need not be serialisable.
        cell = _copy_cell(layer.cell, new_seed)
        arguments = {option: getattr(layer, option) for option in _OPTIONS}
        config = {**keras.layers.Layer.get_config(layer), **arguments, **options}
        return _make(layer, lambda: type(layer)(cell, **config))
    return _from_config(layer, new_seed, options)


def _copy_cell(cell: Any, new_seed: bool) -> Any:
    if type(cell) in (StackedCells, keras.layers.StackedRNNCells):
        cells = [_copy_cell(c, new_seed) for c in cell.cells]
        return type(cell)(cells, **keras.layers.Layer.get_config(cell))
    if hasattr(cell, "get_config") and hasattr(type(cell), "from_config"):
        return _from_config(cell, new_seed, {})
    # `copy.deepcopy` would save and load the layers inside: they are made anew as well.
    layers = [part for part in compat.parts(cell) if isinstance(part, keras.layers.Layer)]
    copies = {id(layer): _from_config(layer, new_seed, {}) for layer in layers}
    return _make(cell, lambda: copy.deepcopy(cell, copies))


def _from_config(source: Any, new_seed: bool, options: dict[str, Any]) -> Any:
    """Make a layer or a cell again from its configuration."""
    parts = list(compat.parts(source))

    def make() -> Any:
        config = source.get_config()
        _keep_seed(source, config)
        if new_seed:
            config = _with_new_seeds(config, {type(part).__name__ for part in parts}, top=True)
        with keras.saving.custom_object_scope(_custom_objects(parts)):
            return type(source).from_config({**config, **options})

    return _make(source, make)


def _make(source: Any, make: Any) -> Any:
    try:
        return make()
    except Exception as error:
        # Whatever a class of the user's raises here, the cause is the same one.
        raise problem(
            f"{type(source).__name__} cannot be copied for the other direction.",
            received=f"a {type(source).__name__} that failed with {type(error).__name__}: {error}",
            expected="a class whose `from_config(get_config())` gives an equal, fresh object (or, "
            "for a plain object, one that `copy.deepcopy` can copy)",
            fix="return every constructor argument from `get_config`; or make both layers yourself "
            "and pass the second one as `backward_layer`",
        ) from error


def _keep_seed(source: Any, config: dict[str, Any]) -> None:
    """Add the seed to the configuration of a layer that forgets it, as `SimpleRNN` does."""
    takes_seed = "seed" in inspect.signature(type(source).__init__).parameters
    if takes_seed and "seed" not in config:
        config["seed"] = getattr(getattr(source, "cell", source), "seed", None)


def _with_new_seeds(config: Any, layers: set[str], top: bool = False) -> Any:
    """Replace the seeds of layers, not those of initializers, in a configuration."""
    if isinstance(config, list):
        return [_with_new_seeds(value, layers) for value in config]
    if not isinstance(config, dict):
        return config
    changed = {}
    for key, value in config.items():
        if key == "config" and config.get("class_name") in layers:
            changed[key] = _with_new_seeds(value, layers, top=True)
        elif key == "seed" and top and isinstance(value, int) and not isinstance(value, bool):
            changed[key] = (value + _SEED_OFFSET) % 2**31
        else:
            changed[key] = _with_new_seeds(value, layers)
    return changed


def _custom_objects(parts: list[Any]) -> dict[str, Any]:
    """Return what a configuration may name: classes and functions used anywhere in `parts`."""
    objects = {}
    for part in parts:
        for value in (part, *getattr(part, "__dict__", {}).values()):
            known = value if inspect.isfunction(value) else type(value)
            if inspect.isfunction(value) or hasattr(value, "get_config"):
                if not known.__module__.startswith("keras."):
                    objects[keras.saving.get_registered_name(known)] = known
    return objects
