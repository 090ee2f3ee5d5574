"""The number of a cell's parameters, as a formula of its sizes."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from cellkit.registry import CellSpec, registry

__all__ = ["formula"]

_LETTERS = {"units": "H", "features": "F", "filters": "K", "projection_units": "P"}
_MOST = 4  # sizes in a formula; further ones are held at what they are
_FREE = 7  # the least value of a size that may be any: no multiple of it is one of usual units


def formula(cell: registry.RegisteredCell) -> dict[str, Any] | None:
    """Return the number of a cell's parameters as a polynomial of its sizes.

    The cell of the first case is built in several sizes, and the polynomial of degree 2 or 3
    through the counts is found exactly: it is the right one, or there is none.

    Args:
        cell: The cell, which has a spec.

    Returns:
        `formula`, such as ``"4 H^2 + 4 H F + 4 H"``; `letters`, the size that each letter stands
        for; `held`, the other arguments; `trained`, the formula of the weights that are trained,
        where some are not; and `apart`, True where it holds for inputs of another width than the
        units alone. None where no polynomial fits.
    """
    case = dict(next(iter(_spec(cell).cases.values())))
    sizes = _sizes(cell, case)
    for most in range(min(len(sizes), _MOST), -1, -1):
        some = dict([*sizes.items()][:most])
        ways: list[tuple[int, dict[str, int]]] = [(2, {}), (3, {})]
        ways += [(2, held) for held in _derived(cell, case)]
        for degree, held in ways if most else ways[:1]:
            try:
                found = _of_sizes(cell, {**case, **held}, some, degree)
            except (TypeError, ValueError):
                continue  # a cell that refuses inputs of another width than those of the case
            if found is not None:
                return found
    return None


def _derived(cell: registry.RegisteredCell, case: Mapping[str, Any]) -> Iterator[dict[str, int]]:
    """Yield arguments that a cell derives from its sizes, perhaps not by a polynomial, as held."""
    for name, parameter in inspect.signature(cell.cls).parameters.items():
        if parameter.default is None and name not in case:
            yield {name: 1}


def _spec(cell: registry.RegisteredCell) -> CellSpec:
    """Return the spec of a cell that has one."""
    assert cell.spec is not None, cell.name  # noqa: S101
    return cell.spec


def _of_sizes(
    cell: registry.RegisteredCell, case: Mapping[str, Any], sizes: Mapping[str, int], degree: int
) -> dict[str, Any] | None:
    """Return the formula of these sizes, or None where there is none of this degree."""
    counts = {}
    for point in _points(len(sizes), degree):
        values = {name: base * k for (name, base), k in zip(sizes.items(), point, strict=True)}
        counts[tuple(values.values())] = _count(cell, case, values)
    total = _fit({at: both[0] for at, both in counts.items()}, degree)
    trained = _fit({at: both[1] for at, both in counts.items()}, degree)
    if total is None or trained is None:
        return None
    letters = _letters(list(sizes))
    others = {**_dims(cell, case), **case}
    held = {name: repr(v) for name, v in others.items() if name not in {*sizes, "seed"}}
    found: dict[str, Any] = {
        "formula": _written(total, list(letters)),
        "letters": letters,
        "held": held or None,
    }
    if total != trained:
        found["trained"] = _written(trained, list(letters))
    if {"units", "features"} <= set(sizes):
        alike = {**sizes, "features": sizes["units"]}
        counted = _count(cell, case, alike)[0]
        if counted != sum(c * _power([*alike.values()], p) for p, c in total.items()):
            found["apart"] = True
    return found


def _points(sizes: int, degree: int) -> list[tuple[int, ...]]:
    """Return multiples to try: as many as a polynomial of a degree has terms, and some more.

    Those far off tell a polynomial from what only looks like one where all sizes are small.
    """
    grid = itertools.product(range(1, degree + 2), repeat=sizes)
    terms = [point for point in grid if sum(point) - sizes <= degree]
    more = [(2,) * sizes, tuple(2 + i % 2 for i in range(sizes)), (5,) * sizes, (16,) * sizes]
    return list(dict.fromkeys([*terms, *more]))


def _sizes(cell: registry.RegisteredCell, case: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes of a formula, with the least value of each: widths first."""
    sizes: dict[str, int] = {
        name: value
        for name, value in case.items()
        if ("unit" in name or "filter" in name) and type(value) is int
    }
    spatial = isinstance(_spec(cell).inputs, tuple) and len(_named(_spec(cell).inputs)) > 1
    if not spatial or _is_structure(_spec(cell).inputs):  # of images, channels alone have weights
        dims = _dims(cell, case)
        sizes |= {name: size for name, size in dims.items() if name not in sizes}
    return sizes


def _dims(cell: registry.RegisteredCell, case: Mapping[str, Any]) -> dict[str, int]:
    """Return a number for every named size of the inputs, which may be tried in multiples."""
    found: dict[str, int] = {}
    for name in _named(_spec(cell).inputs):
        held = _spec(cell).dims.get(name, case.get(name, _FREE))
        found[name] = held if isinstance(held, int) else min(held)
    return found


def _is_structure(inputs: Any) -> bool:
    return not (isinstance(inputs, tuple) and all(isinstance(size, (int, str)) for size in inputs))


def _named(inputs: Any) -> list[str]:
    """Return the named sizes of a structure of inputs, each once."""
    if isinstance(inputs, Mapping):
        found = [name for value in inputs.values() for name in _named(value)]
    elif _is_structure(inputs):
        found = [name for value in inputs for name in _named(value)]
    else:
        found = [size for size in inputs if isinstance(size, str)]
    return list(dict.fromkeys(found))


def _count(
    cell: registry.RegisteredCell, case: Mapping[str, Any], values: Mapping[str, int]
) -> tuple[int, int]:
    """Build a cell and count its parameters, all and those that are trained."""
    import keras

    import cellkit

    changed = {name: values.get(name, value) for name, value in case.items()}
    made = cell.cls(**changed)
    dims: dict[Any, int] = {**_dims(cell, case), **values}
    units = case.get("units")
    if units in keras.tree.flatten(_spec(cell).inputs):  # inputs that are as wide as the cell
        dims[units] = changed["units"]
    cellkit.RNN(made).build(_shapes(_spec(cell).inputs, dims))
    trained = sum(keras.ops.size(w) for w in made.trainable_weights)
    return int(made.count_params()), int(trained)


def _shapes(inputs: Any, dims: Mapping[Any, int]) -> Any:
    """Return the shapes of sequences of these inputs, with other numbers for some sizes."""
    if isinstance(inputs, Mapping):
        return {name: _shapes(value, dims) for name, value in inputs.items()}
    if _is_structure(inputs):
        return [_shapes(value, dims) for value in inputs]
    return (None, None, *(dims.get(size, size) for size in inputs))


def _fit(
    counts: Mapping[tuple[int, ...], int], degree: int = 2
) -> dict[tuple[int, ...], Fraction] | None:
    """Return the coefficients of the polynomial of this degree through all counts, or None."""
    points = list(counts)
    grid = itertools.product(range(degree + 1), repeat=len(points[0]) if points else 0)
    powers = [p for p in grid if sum(p) <= degree]
    rows = [[_power(point, p) for p in powers] + [counts[point]] for point in points]
    found = _solve([[Fraction(x) for x in row] for row in rows], len(powers))
    if found is None:
        return None
    return {p: c for p, c in zip(powers, found, strict=True) if c}


def _power(point: Sequence[int], powers: Sequence[int]) -> int:
    result = 1
    for value, power in zip(point, powers, strict=True):
        result *= value**power
    return result


def _solve(rows: list[list[Fraction]], unknowns: int) -> list[Fraction] | None:
    """Solve linear equations exactly; None where there is no solution."""
    done = 0
    for column in range(unknowns):
        pivot = next((r for r in range(done, len(rows)) if rows[r][column]), None)
        if pivot is None:
            return None
        rows[done], rows[pivot] = rows[pivot], rows[done]
        lead = rows[done][column]
        rows[done] = [x / lead for x in rows[done]]
        for r, row in enumerate(rows):
            if r != done and row[column]:
                factor = row[column]
                rows[r] = [x - factor * y for x, y in zip(row, rows[done], strict=True)]
        done += 1
    if any(row[-1] for row in rows[done:]):
        return None
    return [row[-1] for row in rows[:unknowns]]


def _letters(names: list[str]) -> dict[str, str]:
    """Return a letter for each size, or its name where its letter is taken."""
    letters: dict[str, str] = {}
    for name in names:
        letter = _LETTERS.get(name, name[0].upper())
        letters[name if letter in letters else letter] = name
    return letters


def _written(coefficients: Mapping[tuple[int, ...], Fraction], letters: list[str]) -> str:
    """Write a polynomial, the highest powers first."""
    terms = []
    for powers, value in sorted(
        coefficients.items(), key=lambda item: (-sum(item[0]), [-p for p in item[0]])
    ):
        factors = [
            letter + (f"^{power}" if power > 1 else "")
            for letter, power in zip(letters, powers, strict=True)
            if power
        ]
        size = abs(value)
        number = [] if size == 1 and factors else [str(size)]
        sign = "-" if value < 0 else "+"
        terms.append(f"{sign} {' '.join(number + factors)}")
    return " ".join(terms).removeprefix("+ ") or "0"
