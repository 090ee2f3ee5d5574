"""The cell inside of a wrapper, for references and weight maps: by its own spec."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras

import cellkit
from cellkit import CellSpec, WeightMap
from cellkit.errors import problem
from cellkit.registry import custom

TRAITS = frozenset({"masking", "stateful", "dropout", "zoneout"})
"""What every wrapper claims."""


class Known:
    """A cell, or a stack of cells, with what its spec says.

    Args:
        given: The cell as it stands in a configuration or a case: the name of a registered cell,
            a serialised cell, a cell, or a list of those.
        units: Number of units of a cell that is given by its name.
    """

    def __init__(self, given: Any, units: int | None) -> None:
        self.stack = [Known(g, units) for g in _cells_of(given)]
        if not self.stack:
            self.cls, self.config = _class_and_config(given, units)

    @property
    def spec(self) -> CellSpec:
        """The spec of the cell."""
        spec = getattr(self.cls, "spec", None)
        if isinstance(spec, CellSpec) and spec.reference is not None:
            return spec
        raise problem(
            "The cell inside of a wrapper has no reference.",
            received=f"{self.cls.__name__} without a spec",
            expected="a cell with a CellSpec, from which the reference of the wrapper is made",
            fix="give its class a `spec`, or leave the comparison with a reference out",
        )

    def to_symbols(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Return the symbols of the cell's weights; a stack has those of each cell by number."""
        if not self.stack:
            return dict(self.spec.symbols.to_symbols(weights, self.config))
        return {
            f"{i}.{symbol}": array
            for i, cell in enumerate(self.stack)
            for symbol, array in cell.to_symbols(below(weights, f"cells/{i}/")).items()
        }

    def from_symbols(self, symbols: Mapping[str, Any]) -> dict[str, Any]:
        """Return the weights of the cell's symbols."""
        if not self.stack:
            return dict(self.spec.symbols.from_symbols(symbols, self.config))
        return {
            f"cells/{i}/{path}": array
            for i, cell in enumerate(self.stack)
            for path, array in cell.from_symbols(below(symbols, f"{i}.")).items()
        }

    def step(self, w: Mapping[str, Any], x: Any, states: Any) -> tuple[Any, Any]:
        """Compute one step by the reference of the cell; `states` in the structure it declares."""
        if not self.stack:
            bare = not isinstance(states, (list, tuple, dict))
            y, new = self.spec.reference(w, x, [states] if bare else states, self.config)  # type: ignore[misc]
            return y, new[0] if bare else new
        news = []
        for i, (cell, state) in enumerate(zip(self.stack, states, strict=True)):
            x, new = cell.step(below(w, f"{i}."), x, state)
            news.append(new)
        return x, news

    def step_alone(self, w: Mapping[str, Any], x: Any, states: Any) -> tuple[Any, Any]:
        """Compute one step where the states of the wrapper are those of the cell alone."""
        return self.step(below(w, "inner."), x, states)


def known(config: Mapping[str, Any], argument: str = "inner") -> Known:
    """Return the cell of a wrapper's configuration.

    Args:
        config: The configuration, or a case of the spec laid over it.
        argument: Name of the argument that holds the cell.
    """
    return Known(config[argument], config.get("units"))


def below(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the entries whose names begin with `prefix`, without it."""
    return {k.removeprefix(prefix): values[k] for k in values if k.startswith(prefix)}


def around(own: WeightMap | None = None, *arguments: str) -> WeightMap:
    """Map the weights of a wrapper: its own by `own`, those of its cells by the cells' specs.

    Args:
        own: Map of the wrapper's own weights, or None where it has none.
        *arguments: Names of the arguments that hold cells; `inner` by default.
    """
    names = arguments or ("inner",)

    def to_symbols(weights: Any, config: Any) -> dict[str, Any]:
        mine = {k: weights[k] for k in weights if k.partition("/")[0] not in names}
        symbols = dict(own.to_symbols(mine, config)) if own else {}
        for name in names:
            found = known(config, name).to_symbols(below(weights, f"{name}/"))
            symbols |= {f"{name}.{symbol}": array for symbol, array in found.items()}
        return symbols

    def from_symbols(symbols: Any, config: Any) -> dict[str, Any]:
        mine = {k: symbols[k] for k in symbols if k.partition(".")[0] not in names}
        weights = dict(own.from_symbols(mine, config)) if own else {}
        for name in names:
            found = known(config, name).from_symbols(below(symbols, f"{name}."))
            weights |= {f"{name}/{path}": array for path, array in found.items()}
        return weights

    return custom(to_symbols=to_symbols, from_symbols=from_symbols)


def _cells_of(given: Any) -> list[Any]:
    """Return the cells of a stack; nothing where there is one cell alone."""
    if isinstance(given, Mapping) and given.get("class_name") == "StackedCells":
        return list(given["config"]["cells"])
    if isinstance(given, keras.layers.StackedRNNCells):
        return list(given.cells)
    return list(given) if isinstance(given, (list, tuple)) else []


def _class_and_config(given: Any, units: int | None) -> tuple[type, dict[str, Any]]:
    if isinstance(given, str):
        return _by_name(given, units)
    if isinstance(given, Mapping):
        cls = keras.saving.get_registered_object(given["registered_name"])
        return cls, dict(given["config"])
    return type(given), given.get_config()


@functools.cache
def _by_name(name: str, units: int | None) -> tuple[type, dict[str, Any]]:
    cell = cellkit.create(name, units=units)
    return type(cell), cell.get_config()
