"""The map between the symbols of a paper and the weights of a cell.

A `WeightMap` translates between the symbols of the paper (``W_i``, ``U_f``, ``b_o``) and the
weights of the cell (``kernel``, ``recurrent_kernel``, ``bias``), in both directions. It checks a
cell against frozen outputs of other implementations, and imports weights from other frameworks.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cellkit.errors import problem
from cellkit.registry.names import did_you_mean, is_text, listed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]
    Convert = Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]

__all__ = ["WeightMap", "as_arrays", "blocks", "custom", "gate_blocks", "missing", "rename"]


class WeightMap:
    """A two-way map between a paper's symbols and a cell's weights.

    Made by `gate_blocks`, `rename`, `blocks` or `custom`. Two maps are joined with ``|``: each
    then serves its own weights (a `custom` one takes all that the maps before it left)::

        gate_blocks(["i", "f", "g", "o"]) | rename({"projection": "P"})

    Both directions are inverse to each other. Arrays keep their dtype.
    """

    def __init__(self, parts: Sequence[_Part]) -> None:
        """Join parts; authors use the functions of this module instead."""
        names = [name for part in parts for name in part.weights]
        symbols = [symbol for part in parts for symbol in part.symbols]
        for kind, given in (("weight", names), ("symbol", symbols)):
            twice = sorted({name for name in given if given.count(name) > 1})
            if twice:
                raise problem(
                    f"A weight map names a {kind} twice.",
                    received=listed(twice),
                    expected=f"every {kind} once",
                    fix="remove one of the entries, or give it another name",
                )
        self._parts = tuple(parts)

    def __or__(self, other: WeightMap) -> WeightMap:
        """Return the map that serves the weights of both."""
        if not isinstance(other, WeightMap):
            return NotImplemented
        return WeightMap((*self._parts, *other._parts))

    def __repr__(self) -> str:
        """Return which weight holds which symbols."""
        return f"WeightMap({', '.join(map(repr, self._parts))})"

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that the map names; those of a `custom` one it does not know."""
        return tuple(symbol for part in self._parts for symbol in part.symbols)

    def to_symbols(self, weights: Mapping[str, Any], config: Mapping[str, Any]) -> Arrays:
        """Return the paper's symbols of a cell's weights.

        Args:
            weights: The weights by their path inside the cell, as `cell_weights` gives them.
            config: The cell's configuration.

        Returns:
            The symbols with their arrays. Biases that the cell does without are zeros.

        Raises:
            ValueError: When a weight is missing, unknown, or can't be divided among its symbols.
        """
        given = as_arrays(weights)
        left = dict(given)
        symbols: Arrays = {}
        for part in self._parts:
            symbols.update(part.to_symbols(left, given, config))
        self._refuse(left, "weight", [name for part in self._parts for name in part.weights])
        return symbols

    def from_symbols(self, symbols: Mapping[str, Any], config: Mapping[str, Any]) -> Arrays:
        """Return the cell's weights of a paper's symbols.

        Args:
            symbols: The symbols with their arrays; matrices are (in, out).
            config: The cell's configuration.

        Returns:
            The weights by their path inside the cell, for `set_cell_weights`.

        Raises:
            ValueError: When a symbol is missing, unknown, or of a shape that doesn't fit the
                others, or when a bias is not zero and the cell has none.
        """
        left = as_arrays(symbols)
        weights: Arrays = {}
        for part in self._parts:
            weights.update(part.from_symbols(left, config))
        self._refuse(left, "symbol", list(self.symbols))
        return weights

    @staticmethod
    def _refuse(left: Arrays, kind: str, known: list[str]) -> None:
        """Raise when something was given that no part took."""
        for name in left:
            raise problem(
                f"The cell's weight map does not know a {kind}.",
                received=listed(left),
                expected=f"only {listed(known) or 'none'}",
                fix=did_you_mean(name, known)
                + f"leave out what the cell does not have, or add the {kind} to its weight map",
            )


def blocks(
    weight: str, symbols: Sequence[str], *, axis: int = -1, optional: bool = False
) -> WeightMap:
    """Map one weight to several symbols that lie side by side along an axis.

    Args:
        weight: Path of the weight inside the cell.
        symbols: The symbols, in the order of the blocks; all blocks have the same shape.
        axis: The axis along which the blocks lie.
        optional: True if the weight, and so the symbols, may be absent.

    Returns:
        The map.

    Example:
    >>> import numpy as np
    >>> sides = blocks("kernel", ["W_l", "W_r"])
    >>> sides.to_symbols({"kernel": np.array([[1, 2], [3, 4]])}, {})["W_r"].tolist()
    [[2], [4]]
    """
    return WeightMap([_Blocks(weight, _symbol_names(symbols), axis=axis, optional=optional)])


def gate_blocks(
    gates: Sequence[str],
    kernel: str | None = "W",
    recurrent_kernel: str | None = "U",
    bias: str | None = "b",
) -> WeightMap:
    """Map the weights of a gated cell, whose gates lie side by side along the last axis.

    Args:
        gates: Names of the gates in the order of the blocks.
        kernel: Letter of the input weights: gate ``i`` of ``kernel`` is ``W_i``. None: the cell
            has no weight of that name.
        recurrent_kernel: Letter of the recurrent weights, likewise.
        bias: Letter of the biases, likewise. With ``use_bias=False`` in the cell's configuration
            they are zeros: given as such, and taken when zero or left out.

    Returns:
        The map.

    Example:
    >>> import numpy as np
    >>> symbols = gate_blocks(["i", "f"]).to_symbols(
    ...     {"kernel": np.ones((3, 4)), "recurrent_kernel": np.ones((2, 4)), "bias": np.ones(4)}, {}
    ... )
    >>> {name: array.shape for name, array in symbols.items()}["U_f"]
    (2, 2)
    """
    gates = _symbol_names(gates)
    letters = {"kernel": kernel, "recurrent_kernel": recurrent_kernel, "bias": bias}
    widths = [name for name in ("kernel", "recurrent_kernel") if letters[name] is not None]
    return WeightMap(
        [
            _Blocks(
                name,
                tuple(f"{letter}_{gate}" for gate in gates),
                width_of=widths[0] if name == "bias" and widths else None,
            )
            for name, letter in letters.items()
            if letter is not None
        ]
    )


def rename(names: Mapping[str, str], *, optional: bool = False) -> WeightMap:
    """Map each weight to one symbol.

    Args:
        names: Symbols by the path of the weight inside the cell. A weight ``"bias"`` is zeros
            with ``use_bias=False``, as in `gate_blocks`.
        optional: True if the weights, and so the symbols, may be absent.

    Returns:
        The map.

    Example:
    >>> import numpy as np
    >>> rename({"kernel": "W"}).from_symbols({"W": np.ones((3, 2))}, {})["kernel"].shape
    (3, 2)
    """
    if not isinstance(names, Mapping) or not all(map(is_text, (*names, *names.values()))):
        raise problem(
            "rename needs a dict of names.",
            received=repr(names),
            expected="a dict from weights to symbols",
            fix="write rename({'kernel': 'W', 'recurrent_kernel': 'U', 'bias': 'b'})",
        )
    kernel = next((name for name in names if name.endswith("kernel")), None)
    return WeightMap(
        [
            _Blocks(name, (symbol,), optional=optional, width_of=kernel if name == "bias" else None)
            for name, symbol in names.items()
        ]
    )


def custom(*, to_symbols: Convert, from_symbols: Convert) -> WeightMap:
    """Map with two functions, where the builders don't reach.

    Args:
        to_symbols: ``(weights, config) -> symbols``.
        from_symbols: ``(symbols, config) -> weights``, the inverse. Neither function need check
            the names: an entry it asks for and that is missing, and one that it leaves unused,
            are reported as such.

    Returns:
        The map.
    """
    for name, function in (("to_symbols", to_symbols), ("from_symbols", from_symbols)):
        if not callable(function):
            raise problem(
                f"The {name} of a custom weight map can't be called.",
                received=f"{name}={function!r}",
                expected="a function (arrays by name, config) -> arrays by name",
                fix=f"pass the function itself, for example {name}=my_{name}",
            )
    return WeightMap([_Custom(to_symbols, from_symbols)])


class _Part:
    """One independent piece of a weight map; each takes from `left` what it serves."""

    weights: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()

    def to_symbols(self, left: Arrays, given: Arrays, config: Mapping[str, Any]) -> Arrays:
        raise NotImplementedError

    def from_symbols(self, left: Arrays, config: Mapping[str, Any]) -> Arrays:
        raise NotImplementedError


class _Blocks(_Part):
    """One weight that holds several symbols along an axis, or is one symbol."""

    def __init__(
        self,
        weight: str,
        symbols: tuple[str, ...],
        *,
        axis: int = -1,
        optional: bool = False,
        width_of: str | None = None,
    ) -> None:
        self.weights = (weight,)
        self.symbols = symbols
        self._axis = axis
        self._optional = optional
        self._width_of = width_of  # the weight whose last axis is as long as this absent bias

    def __repr__(self) -> str:
        return f"{self.weights[0]} = {' | '.join(self.symbols)}"

    def to_symbols(self, left: Arrays, given: Arrays, config: Mapping[str, Any]) -> Arrays:
        (weight,) = self.weights
        array = left.pop(weight, None)
        if array is None and self._width_of in given and not config.get("use_bias", True):
            kernel = given[self._width_of]
            array = _numpy().zeros(kernel.shape[-1:], kernel.dtype)
        if array is None:
            if self._optional:
                return {}
            raise missing("weight", weight, given)
        if len(self.symbols) == 1:
            return {self.symbols[0]: array}
        if array.ndim == 0 or array.shape[self._axis] % len(self.symbols):
            raise problem(
                f"The weight {weight!r} can't be divided among its symbols.",
                received=f"shape {array.shape}",
                expected=f"{len(self.symbols)} blocks of the same size along axis {self._axis}: "
                + listed(self.symbols),
                fix="pass the weights of a cell of this class, as cell_weights gives them",
            )
        return dict(
            zip(
                self.symbols,
                _numpy().split(array, len(self.symbols), axis=self._axis),
                strict=True,
            )
        )

    def from_symbols(self, left: Arrays, config: Mapping[str, Any]) -> Arrays:
        given = dict(left)
        found = {symbol: left.pop(symbol) for symbol in self.symbols if symbol in left}
        without_bias = self._width_of is not None and not config.get("use_bias", True)
        if without_bias:
            for symbol, array in found.items():
                if array.any():
                    raise problem(
                        f"The symbol {symbol!r} is a bias, and the cell has none.",
                        received=f"{symbol} with values other than zero, and use_bias=False",
                        expected="zeros, or no biases",
                        fix="make the cell with use_bias=True",
                    )
        if without_bias or (self._optional and not found):
            return {}
        for symbol in self.symbols:
            if symbol not in found:
                raise missing("symbol", symbol, given)
        if len({array.shape for array in found.values()}) > 1:
            raise problem(
                f"The symbols of the weight {self.weights[0]!r} differ in shape.",
                received=", ".join(f"{symbol}: {a.shape}" for symbol, a in found.items()),
                expected="one shape, since they lie side by side in one weight",
                fix="check the orientation of each: matrices are (in, out), so that x @ W works",
            )
        arrays = list(found.values())
        if len(arrays) == 1:
            return {self.weights[0]: arrays[0]}
        return {self.weights[0]: _numpy().concatenate(arrays, axis=self._axis)}


class _Custom(_Part):
    """Two functions of the cell's author; they take everything that is left."""

    def __init__(self, to_symbols: Convert, from_symbols: Convert) -> None:
        self._to_symbols = to_symbols
        self._from_symbols = from_symbols

    def __repr__(self) -> str:
        return "custom"

    def to_symbols(self, left: Arrays, given: Arrays, config: Mapping[str, Any]) -> Arrays:
        return self._converted(self._to_symbols, "weight", left, config)

    def from_symbols(self, left: Arrays, config: Mapping[str, Any]) -> Arrays:
        return self._converted(self._from_symbols, "symbol", left, config)

    @staticmethod
    def _converted(function: Convert, kind: str, left: Arrays, config: Mapping[str, Any]) -> Arrays:
        given = _Given(left)
        left.clear()
        try:
            converted = as_arrays(function(given, config))
        except _AbsentError as error:
            raise missing(kind, str(error.args[0]), given.all) from None
        left.update({name: array for name, array in given.all.items() if name not in given.read})
        return converted


class _AbsentError(KeyError):
    """A custom weight map asked for an entry that was not given."""


class _Given(UserDict[str, Any]):
    """The arrays given to a custom weight map; knows which of them were used."""

    def __init__(self, arrays: Arrays) -> None:
        super().__init__(arrays)
        self.all = dict(arrays)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        if name not in self.data:
            raise _AbsentError(name)
        self.read.add(name)
        return self.data[name]


def _symbol_names(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, (list, tuple)) and names and all(map(is_text, names)):
        return tuple(names)
    raise problem(
        "A weight map needs names in their order.",
        received=repr(names),
        expected="a list or tuple of texts, not empty",
        fix="write for example ['i', 'f', 'g', 'o']",
    )


def missing(kind: str, name: str, given: Mapping[str, Any]) -> ValueError:
    """Make the error for an entry that is needed and was not given."""
    return problem(
        f"The {kind} {name!r} is missing.",
        received=listed(given) or f"no {kind}s",
        expected=f"{name!r} among them",
        fix=(
            f"pass {name!r} as well; zeros stand for a bias that the other side does not have"
            if kind == "symbol"
            else f"pass all weights of the cell, or make {name!r} optional in its weight map"
        ),
    )


def as_arrays(values: Mapping[str, Any]) -> Arrays:
    """Return arrays by name, or raise when `values` is not a mapping."""
    if not isinstance(values, Mapping):
        raise problem(
            "Weights and symbols are passed by name.",
            received=f"a {type(values).__name__}",
            expected="a dict from names to arrays",
            fix="write for example {'W_i': array, 'U_i': array, 'b_i': array}",
        )
    np = _numpy()
    return {name: np.asarray(value) for name, value in values.items()}


def _numpy() -> Any:
    """Import NumPy when it is first needed: listing cells does without."""
    import numpy

    return numpy
