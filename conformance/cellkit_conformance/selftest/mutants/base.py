"""Mutants: the declaration, and parts that broken layers share."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras

import cellkit
from cellkit_conformance.edition.profiles import Profile
from cellkit_conformance.judge import Judge
from cellkit_conformance.outcome import Outcome, Result
from cellkit_conformance.places import NEEDS_TWO
from cellkit_conformance.subject.canaries import CANARIES, PlainCanary
from cellkit_conformance.subject.targets import describe, resolve

PROFILE = Profile("quick", examples=0, all_cases=False, timeout=60.0)
"""The edges alone: a defect that only luck would find is not noticed."""

CROSS = frozenset({"GRD-02", "SER-04", "ERR-02"})
"""Checks that compare backends: the unbroken cell or layer takes the part of another backend."""

NOT_HERE = {
    "torch": frozenset({"CMP-01", "CMP-02", "DST-02", "EXP-02", "EXP-03", "EXP-07"}),
    "jax": frozenset({"DTY-02", "EXP-03", "EXP-04", "EXP-05", "EXP-06"}),
    "tensorflow": frozenset({"DST-02", "DST-04", "EXP-05", "EXP-06", "EXP-07"}),
}
"""Checks that do not apply on a backend, in the quick profile and without x64."""


@dataclass(frozen=True)
class Mutant:
    """One defect.

    Attributes:
        broken: The broken cell class or layer class, or `module:Class` of a cell.
        kills: Ids of the checks that must notice it.
        cell: The canary that a broken layer runs; the cell itself for a broken cell.
        raises: True if the defect is an exception. Of any other mutant an exception proves nothing:
            it may be the mutant that does not run.
        thread: Thread in which another library's defect of this kind was reported or mended, as
            "owner/repository#number", or "".
    """

    broken: Any
    kills: tuple[str, ...]
    cell: Any = None
    raises: bool = False
    thread: str = ""

    @property
    def name(self) -> str:
        """The name of the broken class."""
        if isinstance(self.broken, str):
            return self.broken.split(":")[1]
        return str(self.broken.__qualname__)

    def judge(self, backend: str, seed: int = 7, exchange: str | None = None) -> Judge:
        """Make what runs checks on this mutant, without shrinking.

        Args:
            backend: The backend of this process.
            seed: Of what is drawn.
            exchange: A folder where another backend has left its results.
        """
        layer = self.broken if self.cell else cellkit.RNN
        return self._judge(self._target(), layer, backend, seed, exchange)

    def _judge(self, target: Any, layer: Any, backend: str, seed: int, exchange: Any) -> Judge:
        return Judge(target, backend, PROFILE, seed, layer, False, exchange, blame=False)

    def _target(self) -> Any:
        if isinstance(self.broken, str):
            # Imported anew, because its defect is what importing it does.
            sys.modules.pop(self.broken.split(":")[0], None)
            epsilon = keras.config.epsilon()
            try:
                return resolve(self.broken)
            finally:
                keras.config.set_epsilon(epsilon)
        cell = self.cell or self.broken
        return describe(self.name, cell, cell.spec)

    def results(self, backend: str, identifiers: Iterable[str] | None = None) -> list[Result]:
        """Run checks on the mutant.

        Args:
            backend: The backend of this process.
            identifiers: The checks; those that must notice the defect unless given.
        """
        chosen = list(self.kills if identifiers is None else identifiers)
        with tempfile.TemporaryDirectory() as folder:
            judge = self.judge(backend, exchange=folder)
            if crossing := CROSS.intersection(chosen):
                self._play_another_backend(crossing, folder)
            return [judge.run(identifier) for identifier in chosen]

    def _play_another_backend(self, identifiers: Iterable[str], folder: str) -> None:
        """Let the unbroken cell leave its results, as if it had run on another backend."""
        canary = self.cell or next(c for c in CANARIES if issubclass(self.broken, c))
        target = describe(self.name, canary, canary.spec)
        for identifier in identifiers:
            self._judge(target, cellkit.RNN, "another", 7, folder).run(identifier)

    def survivors(self, backend: str) -> list[Result]:
        """Run the checks that must notice the defect and return those that do not.

        Args:
            backend: The backend of this process.
        """
        return [r for r in self.results(backend) if not self.noticed(r, backend)]

    def noticed(self, result: Result, backend: str) -> bool:
        """Say whether a check found the defect, or cannot on this backend.

        Args:
            result: Of the check.
            backend: The backend of this process.
        """
        if result.outcome is Outcome.NOT_APPLICABLE:
            alone = result.requirement in NEEDS_TWO and "one device" in result.message
            absent = result.message.startswith("not installed")
            return alone or absent or result.requirement in NOT_HERE[backend]
        return result.outcome in ({Outcome.FAIL, Outcome.ERROR} if self.raises else {Outcome.FAIL})


MUTANTS: list[Mutant] = []
"""All mutants, in the order in which they were declared."""


def breaks(
    *kills: str, cell: Any = None, raises: bool = False, thread: str = ""
) -> Callable[[Any], Any]:
    """Declare a broken cell or layer to be a mutant.

    Args:
        *kills: Ids of the checks that must notice it.
        cell: The cell of a broken layer; a canary unless given.
        raises: See `Mutant`.
        thread: See `Mutant`.

    Returns:
        A decorator that leaves the class as it is.
    """

    def declare(cls: Any) -> Any:
        runs = (cell or PlainCanary) if issubclass(cls, keras.layers.RNN) else None
        MUTANTS.append(Mutant(cls, kills, runs, raises, thread))
        return cls

    return declare


class BrokenLayer(cellkit.RNN):
    """Passes a call on; mutants change what goes in or what comes out."""

    def __call__(
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: Any = None,
        resets: Any = None,
        segments: Any = None,
    ) -> Any:
        """Run the layer on changed arguments."""
        given = {"initial_state": initial_state, "mask": mask, "training": training}
        given |= {"resets": resets, "segments": segments}
        if isinstance(first(sequences), keras.KerasTensor):
            return self.plain(sequences, given)
        result = self.run(sequences, given)
        return self.after(result, sequences, given)

    def plain(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Run the unbroken layer."""
        given = {key: value for key, value in given.items() if value is not None}
        return super().__call__(sequences, **given)

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Run the layer; overridden by mutants that change the arguments."""
        return self.plain(sequences, given)

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Return the result; overridden by mutants that change it."""
        return result

    def on_output(self, result: Any, change: Any) -> Any:
        """Change the output in a result and leave the states."""
        if self.return_state:
            return (keras.tree.map_structure(change, result[0]), *result[1:])
        return keras.tree.map_structure(change, result)


def first(tree: Any) -> Any:
    """Give one tensor of a structure."""
    return keras.tree.flatten(tree)[0]


def forget(cell: Any, variable: Any) -> None:
    """Take a weight back; `remove` would compare weights entry by entry."""
    weights = cell._trainable_variables
    del weights[next(i for i, v in enumerate(weights) if v is variable)]


def is_traced(tensor: Any) -> bool:
    """Say whether a tensor has no value yet, because its function is being compiled."""
    name = keras.backend.backend()
    if name == "jax":
        import jax

        return isinstance(tensor, jax.core.Tracer)
    if name == "tensorflow":
        import tensorflow as tf

        return not tf.executing_eagerly()
    import torch

    return bool(torch.compiler.is_compiling())
