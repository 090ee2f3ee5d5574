"""The constructor arguments with which a cell has the weights and states of a golden file.

A manifest may say them (`arguments`). Otherwise hyper-parameters that are arguments of the cell are
taken as they are, and sizes and choices are looked for: those with which the cell's weights and
states have the shapes of the file.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cellkit.cells import Cell
from cellkit.registry import cell_weights
from cellkit.registry.registry import accepted_arguments
from cellkit_conformance.golden.inputs import inputs_of
from cellkit_conformance.trees import map_trees, paths

__all__ = ["arguments_of"]

OTHER_NAMES = {
    "zoneout": "zoneout_h",
    "zoneout_prob": "zoneout_h",
    "p": "zoneout_h",
    "conj_sym": "conjugate_pairs",
    "output_activation": "activation",
}
"""Arguments that libraries call otherwise, for cells that have one of the latter name."""

IMPOSSIBLE = 1_000_000
"""The misfit of a cell that cannot be made, or whose weights the file does not give."""


def arguments_of(
    registered: Any,
    alias: Mapping[str, Any],
    entry: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Return the constructor arguments of a golden file.

    Args:
        registered: The cell's class and spec.
        alias: Arguments that the name of the file stands for.
        entry: The manifest's entry.
        arrays: The arrays of the file.

    Returns:
        The arguments that fit best. Where none fits, the import of the weights says why.
    """
    hyper, stated = entry.get("hyper", {}), entry.get("arguments", {})
    if registered.spec.configure is not None:
        return {**alias, **registered.spec.configure(hyper, arrays), **stated}
    search = _Search(registered, entry, arrays)
    known = {**alias, **search.from_hyper(hyper), **stated}
    return search.best(known)


class _Search:
    """Looks for the arguments with which a cell fits a file."""

    def __init__(
        self, registered: Any, entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> None:
        self.cls, self.spec = registered
        self.arrays = arrays
        self.accepted = accepted_arguments(self.cls)
        self.symbols = {key[2:]: value for key, value in arrays.items() if key.startswith("w.")}
        self.names = list(entry["states"])
        inputs = inputs_of(self.spec, entry, arrays)
        self.step = map_trees(lambda a: (len(a), *a.shape[2:]), inputs)
        self.sizes = sorted({n for a in self.symbols.values() for n in a.shape} | {1, 2, 3})

    def from_hyper(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """Return the hyper-parameters that the cell takes, by name and by value.

        Args:
            hyper: By the names of the manifest. A text may go on with a remark.
        """
        found: dict[str, Any] = {}
        for name, value in hyper.items():
            other = OTHER_NAMES.get(name)
            if other is not None and other in self.accepted:
                own = name not in self.accepted or other not in accepted_arguments(Cell)
                name = other if own else name
            if isinstance(value, str):
                value = value.replace(":", ",").split(",")[0].strip()
            if name in self.accepted:
                found[name] = value
        if self._takes(found):
            return found
        return {name: value for name, value in found.items() if self._takes({name: value})}

    def _takes(self, arguments: Mapping[str, Any]) -> bool:
        try:
            self.cls(**{**self._needed(), **arguments})
        except (ValueError, TypeError):
            return False
        return True

    def _needed(self) -> dict[str, Any]:
        """Return arguments that have to be given: those of the first case."""
        case = next(iter(self.spec.cases.values()))
        return dict(case() if callable(case) else case)

    def best(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """Return the known arguments with the others that fit best.

        Args:
            known: Arguments that stay as they are.
        """
        width = self.arrays["y"].shape[-1]
        needed = {n: width if type(v) is int else v for n, v in self._needed().items()}
        chosen = {n: v for n, v in needed.items() if n == "units" or self._is_needed(n)} | dict(
            known
        )
        if "dt" in self.accepted and "dt" not in chosen:
            if "dt" in self.arrays:
                chosen["dt"] = None  # the gaps are an input
            elif self.accepted["dt"].default is None:
                chosen["dt"] = 1.0  # a step takes one unit of time
        if "data_format" in self.accepted:
            chosen.setdefault("data_format", "channels_last")  # as the arrays of all files are
        least = self.misfit(chosen)
        choices = {n: c for n in self.accepted if n not in known and (c := self._choices(n))}
        while least:
            tries = ({**chosen, name: v} for name, values in choices.items() for v in values)
            found = min(((self.misfit(t), n, t) for n, t in enumerate(tries)), default=None)
            if found is None or found[0] >= least:
                found = min(
                    ((self.misfit(t), n, t) for n, t in enumerate(self._pairs(chosen, choices))),
                    default=None,
                )
            if found is None or found[0] >= least:
                break
            least, _, chosen = found
        return chosen

    def _pairs(
        self, chosen: Mapping[str, Any], choices: Mapping[str, list[Any]]
    ) -> Iterator[dict[str, Any]]:
        """Yield what two choices at once make."""
        for (a, first), (b, second) in itertools.combinations(choices.items(), 2):
            for pair in itertools.product(first, second):
                yield {**chosen, a: pair[0], b: pair[1]}

    def _is_needed(self, name: str) -> bool:
        return self.accepted[name].default is inspect.Parameter.empty

    def _values(self, name: str) -> list[Any]:
        """Return the values of an argument in the cases of the spec."""
        cases = (case() if callable(case) else case for case in self.spec.cases.values())
        return [case[name] for case in cases if name in case]

    def _is_size(self, name: str) -> bool:
        default = self.accepted[name].default
        values = [default, *self._values(name)]
        return self._is_needed(name) or any(type(value) is int for value in values)

    def _choices(self, name: str) -> list[Any]:
        """Return values that an argument may have, none for one that shapes cannot tell."""
        default = self.accepted[name].default
        if name in accepted_arguments(Cell) and name not in ("units", "use_bias"):
            return []
        if isinstance(default, bool):
            return [default, not default]
        if self._is_size(name):
            return list(self.sizes)
        return [v for v in self._values(name) if isinstance(v, str)]

    def misfit(self, arguments: Mapping[str, Any]) -> int:
        """Count what differs in weights and states between a cell and the file.

        Args:
            arguments: Of the constructor.
        """
        try:
            cell = self.cls(**arguments)
            cell.build(self.step)
            given = self.spec.symbols.from_symbols(self.symbols, cell.get_config())
        except (ValueError, TypeError, KeyError, IndexError):
            return IMPOSSIBLE
        own = {name: tuple(value.shape) for name, value in cell_weights(cell).items()}
        shapes = {name: tuple(np.shape(value)) for name, value in given.items()}
        total = 1000 * len(own.keys() ^ shapes.keys())
        total += sum(_differences(own[name], shapes[name]) for name in own.keys() & shapes.keys())
        names = self.spec.states if set(self.spec.states) & set(self.names) else self.names
        states = [leaf for _, leaf in paths(cell.get_initial_state(1))]
        for name, state in zip(names, states, strict=False):
            if f"state0.{name}" in self.arrays:
                wanted = self.arrays[f"state0.{name}"].shape[1:]
                total += _differences(tuple(state.shape[1:]), wanted)
        return total


def _differences(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Count the axes in which two shapes differ."""
    return sum(m != n for m, n in zip(a, b, strict=False)) + 10 * abs(len(a) - len(b))
