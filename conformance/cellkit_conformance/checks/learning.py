"""Weights, inputs and states that act: the checks that find dead ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from cellkit.registry import cell_weights, variables_by_path
from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.differentiate import connected, gradients_of_drawn_weights
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.subject import backend, oracle
from cellkit_conformance.subject.record import Claim
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import Tree, leaves, map_trees, paths

SEQUENCES = {"return_sequences": True}


@check("GRD-03")
def every_weight_learns(ctx: Context) -> None:
    """Look for weights without a gradient."""
    for subject in ctx.cases():
        seen: dict[str, bool] = {}
        for seed in (1, 2, 0):
            found = gradients_of_drawn_weights(ctx, subject, seed)
            ctx.examples += 1
            for name, gradient in found.weights.items():
                learns = gradient is not None and bool(np.any(gradient) or not gradient.size)
                seen[name] = seen.get(name, False) or learns
            if all(seen.values()):
                break
        dead = [name for name, learns in seen.items() if not learns]
        claim = Claim("moves", connected(found.weights[name] for name in dead))
        said = f"no gradient reaches the trainable weight(s) {', '.join(dead)}"
        ctx.require(not dead, said, claim)


@check("NUM-10")
def no_dead_inputs(ctx: Context) -> None:
    """Look for input features, state entries and weight entries that change nothing.

    A gradient tells of all entries at once which ones act. What has none is changed and looked at:
    it may act where it cannot be differentiated. Whole weights are changed in any case, for a
    gradient that is made up tells nothing.
    """
    for subject in ctx.cases():
        require_alive(ctx, subject)


def require_alive(ctx: Context, subject: Subject) -> None:
    """Require that every input feature, state entry and weight entry acts, but by design.

    Args:
        ctx: Of the check.
        subject: The cell.
    """
    alive: dict[str, Any] = {}
    for seed in (1, 2, 3, 0):
        found = gradients_of_drawn_weights(ctx, subject, seed)
        ctx.examples += 1
        for name, gradient in found.items():
            if gradient is None:
                continue
            moves = gradient != 0
            if name.startswith("input"):
                moves = moves.any(axis=(0, 1))
            elif name.startswith("state"):
                moves = moves.any(axis=0)
            alive[name] = alive.get(name, np.False_) | moves
        if all(np.all(moves) for moves in alive.values()):
            break
    if not seed:
        found = gradients_of_drawn_weights(ctx, subject, 3)  # which tells of the states too
    probe = Probe(subject, ctx.seed)
    for name, gradient in found.items():
        moves = np.array(alive.get(name, np.zeros(probe.shape_of(name), bool)))
        if moves.all() or probe.is_by_design(name, ~moves):
            continue
        if probe.acts(name, ~moves):  # all of them at once; which ones then has to be asked
            for entry in list(map(tuple, np.argwhere(~moves)))[:ASKED]:
                moves[entry] = probe.acts(name, entry)
            if np.count_nonzero(~moves) > ASKED or probe.is_by_design(name, ~moves):
                continue
        if moves.all():
            continue
        said = f"{int((~moves).sum())} of {moves.size} entries of {name} change nothing"
        ctx.fail_with(said, None if gradient is None else _an_entry_moves(found, name, moves))
    for name in (n for n, _ in found.items() if n.startswith("weight")):
        if np.prod(probe.shape_of(name)) and not probe.is_unused(name):
            ctx.require(probe.acts(name, ...), f"other values of {name} change nothing")


ASKED = 40
"""Entries of a weight that are changed one by one."""


class Probe:
    """Changes values that a layer computes from, and says which of them act.

    Args:
        subject: The cell.
        seed: Of what is drawn.
    """

    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject = subject
        self.layer = subject.layer(**SEQUENCES)
        # From the cell's own initial states too, which may be learned.
        self.data: list[tuple[Tree, Tree | None]] = []
        for number in range(8):
            # The shape of other checks, for which the loop is compiled.
            example = Example(3, 5, seed=seed + number, initial_state=number != 2)
            self.data.append((subject.inputs(example), subject.states(example)))
        self.weights = {v.path: v for v in self.layer.trainable_variables}
        self._base: dict[int, Any] = {}

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Give the shape of a feature, a state entry or a weight, as NUM-10 counts them."""
        kind, path = self._split(name)
        if kind == "weight":
            return tuple(self.weights[path].shape)
        inputs, states = self.data[0]
        leaf = dict(paths(inputs if kind == "input" else states))[path]
        return tuple(leaf.shape[2 if kind == "input" else 1 :])

    def _split(self, name: str) -> tuple[str, str]:
        kind, _, path = name.partition(" ")
        return kind, path

    def acts(self, name: str, entry: Any) -> bool:
        """Change an entry, or with an ellipsis all of them, and look for a change of the results.

        Args:
            name: As `Gradients.items` names it.
            entry: An index, a bool array of entries, or `...`.
        """
        return any(
            self._differs(number, name, entry, change)
            for number in range(len(self.data))
            for change in (_raised, _lowered, _negated)
        )

    def _results(self, number: int, inputs: Tree, states: Tree | None) -> list[np.ndarray]:
        self.subject.set_weights(number)
        got = self.subject.run(self.layer, inputs, states)
        self.subject.calls.pop()
        return [leaf for _, leaf in paths([got.output, got.states])]

    def _differs(
        self, number: int, name: str, entry: Any, change: Callable[[np.ndarray], np.ndarray]
    ) -> bool:
        kind, path = self._split(name)
        inputs, states = self.data[number]
        if kind == "state" and states is None:
            return False
        if number not in self._base:
            self._base[number] = self._results(number, inputs, states)
        if kind == "weight":
            self.subject.set_weights(number)
            variable = self.weights[path]
            kept = np.array(backend.to_numpy(variable.value))
            variable.assign(_changed(kept, entry, change))
            try:
                got = self._results(number, inputs, states)
            finally:
                variable.assign(kept)
        elif kind == "input":
            at = _behind(entry, 2)
            moved = _replaced(inputs, path, lambda a: _changed(a, at, change))
            got = self._results(number, self.subject.valid_inputs(moved), states)
        else:
            at = _behind(entry, 1)
            moved = _replaced(states, path, lambda a: _changed(a, at, change))
            got = self._results(number, inputs, self.subject.valid_states(moved))
        return any(self._apart(a, b) for a, b in zip(got, self._base[number], strict=True))

    def _apart(self, got: np.ndarray, base: np.ndarray) -> bool:
        """Say whether results differ by more than another rounding."""
        if got.dtype.kind not in "fc":
            return not np.array_equal(got, base)
        with np.errstate(invalid="ignore"):
            error = np.where(got == base, 0.0, np.abs(got - base))
        return bool((error > self.subject.tolerance(3).limit(base)).any())

    def is_unused(self, name: str) -> bool:
        """Say whether the spec calls all of a weight unused."""
        return self.is_by_design(name, np.ones(self.shape_of(name), bool))

    def is_by_design(self, name: str, dead: np.ndarray) -> bool:
        """Say whether entries act on nothing because the cell is made so.

        That is so where the spec says it, where nothing acts in the reference either, where a mask
        of the cell takes them away, and in a cell without a reference where they are scattered
        over a matrix, as a diagonal or the holes of a sparse wiring are, and fill no row or column.

        Args:
            name: As `Gradients.items` names it.
            dead: True at the entries.
        """
        kind, path = self._split(name)
        if kind == "state" and dead.ndim == 1 and not dead.all():
            # A mask without an entry in these rows: nobody listens to these units.
            square = _masks(self.subject.cell, (len(dead), len(dead)))
            return any(not mask[dead].any() for mask in square)
        if kind != "weight":
            return False
        names = {v.path: n for n, v in variables_by_path(self.subject.cell).items()}
        own, spec = names.get(path, ""), self.subject.target.spec
        if spec is not None and own in spec.unused:
            known = spec.unused[own]
            known = np.asarray(known(dead.shape) if callable(known) else known, bool)
            return bool((np.broadcast_to(known, dead.shape) | ~dead).all())
        if dead.all():
            return False
        looked_up = id(self.weights[path]) in _tables(self.subject.cell)
        whole = all(leaf.dtype.kind in "iu" for leaf in leaves(self.data[0][0]))
        if looked_up and not whole:
            return True  # what stands in it is found by ids that the cell makes itself
        if whole and dead.ndim > 1:
            by_row = dead.reshape(len(dead), -1)
            if bool((by_row.all(axis=1) == by_row.any(axis=1)).all()):
                # Rows of ids that were not drawn; a table may be no layer of Keras.
                return int(by_row.any(axis=1).sum()) <= max(0, len(dead) - self._ids_drawn())
        if any(bool(((mask == 0) | ~dead).all()) for mask in _masks(self.subject.cell, dead.shape)):
            return True
        if self.subject.has_reference:
            return not self._acts_in_reference(own, dead)
        rest = [tuple(i for i in range(dead.ndim) if i != axis) for axis in range(dead.ndim)]
        return dead.ndim > 1 and not any(dead.all(axis=axes).any() for axes in rest)

    def _ids_drawn(self) -> int:
        """Count the different ids in the inputs."""
        drawn = [np.unique(leaf) for inputs, _ in self.data for leaf in leaves(inputs)]
        return len(np.unique(np.concatenate([ids.astype(np.float64).ravel() for ids in drawn])))

    def _acts_in_reference(self, name: str, dead: np.ndarray) -> bool:
        """Change the entries in the reference alone."""
        spec, subject = self.subject.target.spec, self.subject
        for number, (inputs, given) in enumerate(self.data):
            subject.set_weights(number)
            states = subject.reference_states(3) if given is None else given
            weights = {k: np.asarray(v, np.float64) for k, v in cell_weights(subject.cell).items()}
            runs = []
            for values in (
                weights,
                {**weights, name: np.where(dead, weights[name] + 1, weights[name])},
            ):
                symbols = spec.symbols.to_symbols(values, subject.config)
                run = oracle.run(
                    lambda x, s, w=symbols: spec.reference(w, x, s, subject.config), inputs, states
                )
                runs.append(leaves([run.sequence, run.states]))
            if any(not np.array_equal(a, b) for a, b in zip(*runs, strict=True)):
                return True
        return False


def _tables(cell: Any) -> set[int]:
    """Give the identities of the weights that are looked up by ids."""
    inside = cell._flatten_layers() if isinstance(cell, keras.layers.Layer) else ()
    tables = [layer for layer in inside if isinstance(layer, keras.layers.Embedding)]
    return {id(variable) for layer in tables for variable in layer.trainable_variables}


def _masks(cell: Any, shape: tuple[int, ...]) -> list[np.ndarray]:
    """List the constant arrays of a shape that a cell holds: what it may multiply weights by."""
    trainable = {id(v) for v in getattr(cell, "trainable_variables", ())}
    held: list[Any] = []
    for owner in (cell, *getattr(cell, "_layers", ())):
        for value in list(vars(owner).values()):
            held += keras.tree.flatten(value) if isinstance(value, (list, tuple, dict)) else [value]
    held += list(getattr(cell, "weights", ()))
    found = []
    for value in held:
        if id(value) in trainable or tuple(getattr(value, "shape", ("no",))) != shape:
            continue
        with contextlib.suppress(Exception):  # a tensor of a graph has no value
            found.append(np.asarray(backend.to_numpy(getattr(value, "value", value))))
    return found


def _behind(entry: Any, axes: int) -> Any:
    """Index behind the axes of rows and steps."""
    before = (slice(None),) * axes
    if entry is ...:
        return entry
    flags = isinstance(entry, (np.ndarray, np.bool_))  # of a number there is just one
    return (*before, entry) if flags else (*before, *entry)


def _raised(array: np.ndarray) -> np.ndarray:
    return array + array.dtype.type(1)


def _lowered(array: np.ndarray) -> np.ndarray:
    return array - array.dtype.type(0.75)


def _negated(array: np.ndarray) -> np.ndarray:
    return -array * array.dtype.type(1.5)


def _changed(
    array: np.ndarray, entry: Any, change: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Change an entry of a copy."""
    copy = array.copy()
    copy[entry] = change(copy[entry])
    return copy


def _replaced(tree: Tree, path: str, change: Callable[[np.ndarray], np.ndarray]) -> Tree:
    names = iter([name for name, _ in paths(tree)])
    return map_trees(lambda leaf: change(leaf) if next(names) == path else leaf, tree)


def _an_entry_moves(found: backend.Gradients, name: str, moves: np.ndarray) -> Claim | None:
    """Claim of the first entry that changes nothing that it does."""
    gradient = dict(found.items())[name]
    if gradient is None:
        return None
    lead = (slice(None),) * (np.ndim(gradient) - np.ndim(moves))
    entry = tuple(int(i) for i in np.argwhere(~np.asarray(moves))[0])
    return Claim("moves", [gradient], at=(*lead, *entry))
