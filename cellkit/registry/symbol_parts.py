"""The pieces of a weight map, each of which serves its own weights."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cellkit.errors import problem
from cellkit.registry.names import listed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellkit.registry.symbols import WeightMap

    Arrays = dict[str, NDArray[Any]]
    Convert = Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]


class Part:
    """One independent piece of a weight map; each takes from `left` what it serves."""

    weights: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()

    def to_symbols(self, left: Arrays, given: Arrays, config: Mapping[str, Any]) -> Arrays:
        """Return the symbols of the weights that this part takes from `left`."""
        raise NotImplementedError

    def from_symbols(self, left: Arrays, config: Mapping[str, Any]) -> Arrays:
        """Return the weights of the symbols that this part takes from `left`."""
        raise NotImplementedError


def same(array: Any) -> Any:
    """Return an array that is stored as its symbol is."""
    return array


class Blocks(Part):
    """One weight that holds several symbols along an axis, or is one symbol."""

    def __init__(
        self,
        weight: str,
        symbols: tuple[str, ...],
        sizes: tuple[int | None, ...] | None = None,
        *,
        axis: int = -1,
        optional: bool = False,
        like: str | None = None,
        to_symbol: Callable[[Any], Any] = same,
        from_symbol: Callable[[Any], Any] = same,
    ) -> None:
        self.weights = (weight,)
        self.symbols = symbols
        self._sizes = sizes
        self._axis = axis
        self._optional = optional
        self._like = like
        self._to_symbol = to_symbol
        self._from_symbol = from_symbol

    def __repr__(self) -> str:
        return f"{self.weights[0]} = {' | '.join(self.symbols)}"

    def to_symbols(self, left: Arrays, given: Arrays, config: Mapping[str, Any]) -> Arrays:
        """Return the symbols of the weights that this part takes from `left`."""
        (weight,) = self.weights
        array = left.pop(weight, None)
        if array is None and self._like in given and not config.get("use_bias", True):
            array = self._zeros(given[self._like])
        if array is None:
            if self._optional:
                return {}
            raise missing("weight", weight, given)
        if len(self.symbols) == 1:
            return {self.symbols[0]: self._to_symbol(array)}
        sizes = self._sizes_of(array)
        if not array.ndim or sum(sizes) != array.shape[self._axis] or min(sizes) < 0:
            raise problem(
                f"The weight {weight!r} can't be divided among its symbols.",
                received=f"shape {array.shape}",
                expected=f"{self._wanted()} along axis {self._axis}: {listed(self.symbols)}",
                fix="pass the weights of a cell of this class, as cell_weights gives them",
            )
        parts = _numpy().split(array, _numpy().cumsum(sizes)[:-1], axis=self._axis)
        return dict(zip(self.symbols, parts, strict=True))

    def _zeros(self, kernel: Any) -> Any:
        """Return the biases that a cell does without."""
        sizes = [size for size in self._sizes or () if size is not None]
        known = len(sizes) == len(self.symbols)
        return _numpy().zeros((sum(sizes),) if known else kernel.shape[-1:], kernel.dtype)

    def _sizes_of(self, array: Any) -> list[int]:
        """Return the size of each block of a weight; None takes what the others leave."""
        length, count = array.shape[self._axis] if array.ndim else 0, len(self.symbols)
        if self._sizes is None:
            return [length // count] * count
        rest = length - sum(size for size in self._sizes if size is not None)
        return [rest if size is None else size for size in self._sizes]

    def _wanted(self) -> str:
        """Describe the blocks in an error text."""
        if self._sizes is None:
            return f"{len(self.symbols)} blocks of the same size"
        return f"blocks of {', '.join('any' if s is None else str(s) for s in self._sizes)} numbers"

    def from_symbols(self, left: Arrays, config: Mapping[str, Any]) -> Arrays:
        """Return the weights of the symbols that this part takes from `left`."""
        given = dict(left)
        found = {symbol: left.pop(symbol) for symbol in self.symbols if symbol in left}
        without_bias = self._like is not None and not config.get("use_bias", True)
        if without_bias or (self._optional and not found):
            return {}
        for symbol in self.symbols:
            if symbol not in found:
                raise missing("symbol", symbol, given)
        arrays = list(found.values())
        if len(arrays) == 1:
            return {self.weights[0]: self._from_symbol(arrays[0])}
        lengths = [array.shape[self._axis] if array.ndim else 0 for array in arrays]
        sizes = self._sizes or (lengths[0],) * len(arrays)
        fits = all(s in (None, length) for s, length in zip(sizes, lengths, strict=True))
        if not fits or len({_without(array.shape, self._axis) for array in arrays}) > 1:
            raise problem(
                f"The symbols of the weight {self.weights[0]!r} differ in shape.",
                received=", ".join(f"{symbol}: {a.shape}" for symbol, a in found.items()),
                expected="one shape, since they lie side by side in one weight"
                if self._sizes is None
                else f"{self._wanted()} along axis {self._axis}, and else one shape",
                fix="check the orientation of each: matrices are (in, out), so that x @ W works",
            )
        return {self.weights[0]: _numpy().concatenate(arrays, axis=self._axis)}


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Return a shape without one axis."""
    place = axis % len(shape) if shape else 0
    return (*shape[:place], *shape[place + 1 :])


class Configured(Part):
    """A map that a function of the cell's author makes of the configuration."""

    def __init__(self, make: Callable[[Mapping[str, Any]], WeightMap]) -> None:
        self._make = make

    def __repr__(self) -> str:
        return "configured"

    def to_symbols(self, left: Arrays, given: Arrays, config: Mapping[str, Any]) -> Arrays:
        """Return the symbols of the weights that this part takes from `left`."""
        symbols: Arrays = {}
        for part in self._make(config).parts:
            symbols.update(part.to_symbols(left, given, config))
        return symbols

    def from_symbols(self, left: Arrays, config: Mapping[str, Any]) -> Arrays:
        """Return the weights of the symbols that this part takes from `left`."""
        weights: Arrays = {}
        for part in self._make(config).parts:
            weights.update(part.from_symbols(left, config))
        return weights


class Custom(Part):
    """Two functions of the cell's author; they take everything that is left."""

    def __init__(self, to_symbols: Convert, from_symbols: Convert) -> None:
        self._to_symbols = to_symbols
        self._from_symbols = from_symbols

    def __repr__(self) -> str:
        return "custom"

    def to_symbols(self, left: Arrays, given: Arrays, config: Mapping[str, Any]) -> Arrays:
        """Return the symbols of the weights that this part takes from `left`."""
        return self._converted(self._to_symbols, "weight", left, config)

    def from_symbols(self, left: Arrays, config: Mapping[str, Any]) -> Arrays:
        """Return the weights of the symbols that this part takes from `left`."""
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
