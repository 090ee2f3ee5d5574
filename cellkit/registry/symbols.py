"""The map between the symbols of a paper and the weights of a cell.

A `WeightMap` translates between the symbols of the paper (``W_i``, ``U_f``, ``b_o``) and the
weights of the cell (``kernel``, ``recurrent_kernel``, ``bias``), in both directions. It checks a
cell against frozen outputs of other implementations, and imports weights from other frameworks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cellkit.errors import problem
from cellkit.registry.names import did_you_mean, is_text, listed
from cellkit.registry.symbol_parts import Blocks, Configured, Custom, Part, as_arrays, missing, same

if TYPE_CHECKING:
    from cellkit.registry.symbol_parts import Arrays, Convert

__all__ = [
    "WeightMap",
    "as_arrays",
    "blocks",
    "configured",
    "custom",
    "gate_blocks",
    "missing",
    "rename",
]


class WeightMap:
    """A two-way map between a paper's symbols and a cell's weights.

    Made by `gate_blocks`, `rename`, `blocks`, `configured` or `custom`. Two maps are joined with
    ``|``: each then serves its own weights (a `custom` one takes all that the maps before it
    left)::

        gate_blocks(["i", "f", "g", "o"]) | rename({"projection": "P"})

    Both directions are inverse to each other. Arrays keep their dtype.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
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
        self.parts = tuple(parts)

    def __or__(self, other: WeightMap) -> WeightMap:
        """Return the map that serves the weights of both."""
        if not isinstance(other, WeightMap):
            return NotImplemented
        return WeightMap((*self.parts, *other.parts))

    def __repr__(self) -> str:
        """Return which weight holds which symbols."""
        return f"WeightMap({', '.join(map(repr, self.parts))})"

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that the map names; those of a `custom` or `configured` one are unknown."""
        return tuple(symbol for part in self.parts for symbol in part.symbols)

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
        for part in self.parts:
            symbols.update(part.to_symbols(left, given, config))
        self._refuse(left, "weight", [name for part in self.parts for name in part.weights])
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
        for part in self.parts:
            weights.update(part.from_symbols(left, config))
        self._refuse(left, "symbol", list(self.symbols))
        if not config.get("use_bias", True):
            self._refuse_biases(as_arrays(symbols), self.to_symbols(weights, config))
        return weights

    @staticmethod
    def _refuse_biases(given: Arrays, kept: Arrays) -> None:
        """Raise when a symbol was given that a cell without biases turns into zeros."""
        for symbol, array in given.items():
            if symbol in kept and array.any() and not kept[symbol].any():
                raise problem(
                    f"The symbol {symbol!r} is a bias, and the cell has none.",
                    received=f"{symbol} with values other than zero, and use_bias=False",
                    expected="zeros, or no biases",
                    fix="make the cell with use_bias=True",
                )

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
    weight: str,
    symbols: Sequence[str] | Mapping[str, int | None],
    *,
    axis: int = -1,
    optional: bool = False,
    like: str | None = None,
) -> WeightMap:
    """Map one weight to several symbols that lie side by side along an axis.

    Args:
        weight: Path of the weight inside the cell.
        symbols: The symbols in the order of the blocks, which all have the same shape; or a dict
            from each symbol to its size along the axis, of which one may be None: what the others
            leave.
        axis: The axis along which the blocks lie.
        optional: True if the weight, and so the symbols, may be absent.
        like: For a bias, the weight whose last axis is as long: with ``use_bias=False`` in the
            cell's configuration the symbols are zeros of its dtype, and may be left out.

    Returns:
        The map.

    Example:
    >>> import numpy as np
    >>> sides = blocks("kernel", ["W_l", "W_r"])
    >>> sides.to_symbols({"kernel": np.array([[1, 2], [3, 4]])}, {})["W_r"].tolist()
    [[2], [4]]
    >>> wide = blocks("kernel", {"W_k": 2, "W_i": 1})
    >>> wide.to_symbols({"kernel": np.array([[1, 2, 3]])}, {})["W_k"].tolist()
    [[1, 2]]
    """
    sizes = _sizes(symbols)
    names = _symbol_names(symbols if sizes is None else list(symbols))
    return WeightMap([Blocks(weight, names, sizes, axis=axis, optional=optional, like=like)])


def gate_blocks(
    gates: Sequence[str] | Mapping[str, int | None],
    kernel: str | None = "W",
    recurrent_kernel: str | None = "U",
    bias: str | None = "b",
) -> WeightMap:
    """Map the weights of a gated cell, whose gates lie side by side along the last axis.

    Args:
        gates: Names of the gates in the order of the blocks; or a dict from each to its width,
            where these differ.
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
    sizes = _sizes(gates)
    names = _symbol_names(gates if sizes is None else list(gates))
    letters = {"kernel": kernel, "recurrent_kernel": recurrent_kernel, "bias": bias}
    widths = [name for name in ("kernel", "recurrent_kernel") if letters[name] is not None]
    return WeightMap(
        [
            Blocks(
                name,
                tuple(f"{letter}_{gate}" for gate in names),
                sizes,
                like=widths[0] if name == "bias" and widths else None,
            )
            for name, letter in letters.items()
            if letter is not None
        ]
    )


def rename(
    names: Mapping[str, str],
    *,
    optional: bool = False,
    like: str | None = None,
    to_symbol: Callable[[Any], Any] | None = None,
    from_symbol: Callable[[Any], Any] | None = None,
) -> WeightMap:
    """Map each weight to one symbol.

    Args:
        names: Symbols by the path of the weight inside the cell. A weight ``"bias"`` is zeros
            with ``use_bias=False``, as in `gate_blocks`.
        optional: True if the weights, and so the symbols, may be absent.
        like: For biases, the weight whose last axis is as long, as in `blocks`. Default None: for
            ``"bias"`` the first of the names that ends in ``kernel``.
        to_symbol: Function of an array that returns the symbol of a weight, where the cell stores
            another form of it, such as a logarithm. Default None: the weight itself.
        from_symbol: Function of an array, the inverse of `to_symbol`.

    Returns:
        The map.

    Example:
    >>> import numpy as np
    >>> rename({"kernel": "W"}).from_symbols({"W": np.ones((3, 2))}, {})["kernel"].shape
    (3, 2)
    >>> stored = rename({"log_decay": "a"}, to_symbol=np.exp, from_symbol=np.log)
    >>> stored.to_symbols({"log_decay": np.zeros(2)}, {})["a"].tolist()
    [1.0, 1.0]
    """
    if not isinstance(names, Mapping) or not all(map(is_text, (*names, *names.values()))):
        raise problem(
            "rename needs a dict of names.",
            received=repr(names),
            expected="a dict from weights to symbols",
            fix="write rename({'kernel': 'W', 'recurrent_kernel': 'U', 'bias': 'b'})",
        )
    if (to_symbol is None) != (from_symbol is None):
        raise problem(
            "rename needs both directions of a conversion.",
            received=f"to_symbol={to_symbol!r}, from_symbol={from_symbol!r}",
            expected="two functions, inverse to each other, or neither",
            fix="pass the other one too: np.exp goes with np.log",
        )
    kernel = next((name for name in names if name.endswith("kernel")), None)
    return WeightMap(
        [
            Blocks(
                name,
                (symbol,),
                optional=optional,
                like=kernel if like is None and name == "bias" else like,
                to_symbol=to_symbol or same,
                from_symbol=from_symbol or same,
            )
            for name, symbol in names.items()
        ]
    )


def configured(make: Callable[[Mapping[str, Any]], WeightMap]) -> WeightMap:
    """Map as the cell's configuration says.

    Args:
        make: ``config -> WeightMap``: returns the map of a cell with that configuration. Joined to
            other maps, it serves its own weights, as they do.

    Returns:
        The map.

    Example:
    >>> import numpy as np
    >>> layers = configured(lambda config: rename({f"u_{k}": f"U{k}" for k in range(config["n"])}))
    >>> sorted(layers.to_symbols({"u_0": np.ones(2), "u_1": np.ones(2)}, {"n": 2}))
    ['U0', 'U1']
    """
    if not callable(make):
        raise problem(
            "A configured weight map is made by a function.",
            received=repr(make),
            expected="a function config -> WeightMap",
            fix="write configured(lambda config: gate_blocks(...))",
        )
    return WeightMap([Configured(make)])


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
    return WeightMap([Custom(to_symbols, from_symbols)])


def _sizes(symbols: Any) -> tuple[int | None, ...] | None:
    """Return the sizes that a dict gives its symbols, None where they are alike."""
    if not isinstance(symbols, Mapping):
        return None
    sizes = tuple(symbols.values())
    whole = [size for size in sizes if isinstance(size, int) and size >= 0]
    if len(sizes) - len(whole) > 1 or any(s is not None and s not in whole for s in sizes):
        raise problem(
            "The sizes of the blocks of a weight are not whole numbers.",
            received=repr(dict(symbols)),
            expected="a number for each symbol, or None for one of them",
            fix="write for example {'W_q': 8, 'W_k': 8, 'W_i': 2}",
        )
    return sizes


def _symbol_names(names: Any) -> tuple[str, ...]:
    if isinstance(names, (list, tuple)) and names and all(map(is_text, names)):
        return tuple(names)
    raise problem(
        "A weight map needs names in their order.",
        received=repr(names),
        expected="a list or tuple of texts, not empty",
        fix="write for example ['i', 'f', 'g', 'o']",
    )
