"""The trial of a changed cell: whether it runs, what notices it, and whether it can be noticed."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np

import cellkit
from cellkit import registry
from cellkit.registry import cell_weights
from cellkit_conformance.checks.differentiate import gradients
from cellkit_conformance.edition import requirements, select
from cellkit_conformance.edition.profiles import PROFILES
from cellkit_conformance.examples.strategies import VALUES, Example
from cellkit_conformance.judge import Judge
from cellkit_conformance.outcome import Failure, NotApplicable
from cellkit_conformance.selftest.cells.change import Change, changes_of, subclass
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.subject.targets import describe
from cellkit_conformance.trees import leaves

KILLED, SURVIVED, EQUIVALENT, INVALID = "killed", "survived", "equivalent", "invalid"

FIRST = ("NUM-01", "NUM-03", "NUM-02", "GRD-01", "GRD-04", "GRD-03", "SEQ-05", "STR-03", "RNG-02")
"""What is asked first: it notices most, and costs little."""

LAST = ("SER", "CMP", "WRP", "DEV", "DST", "ERR")
"""Groups that are asked last: a changed step seldom has a part in them, and they cost most."""

DRAWS = 8
"""Draws of weights, inputs and states on which a change that nothing noticed is looked for."""


@dataclass
class Trial:
    """Fate of one change.

    Attributes:
        kind: Of the change.
        what: The change.
        where: Its place.
        outcome: "killed", "survived", "equivalent" (the same numbers and gradients wherever one
            looks) or "invalid" (it does not run, or has other weights or shapes).
        by: The requirement that noticed it, or "".
        asked: The requirements that were asked, in this order.
        reason: Reason why it survived, or is equivalent or invalid.
    """

    kind: str
    what: str
    where: str
    outcome: str = SURVIVED
    by: str = ""
    asked: list[str] = field(default_factory=list)
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Give it as plain data."""
        return asdict(self)


class Trials:
    """Tries the changes of one registered cell in this process.

    Args:
        name: Of the cell.
        profile: The profile of the checks.
        seed: Of what is drawn.
    """

    def __init__(self, name: str, profile: str = "standard", seed: int = 0) -> None:
        self.name = name
        self.cls: Any
        self.cls, self.spec = registry.get(name)
        self.profile = PROFILES[profile]
        self.seed = seed
        positions = {id: n for n, id in enumerate(FIRST)}
        late = {group: n + 1 for n, group in enumerate(LAST)}
        self.ids = sorted(
            select(profile=profile),
            key=lambda id: (
                positions.get(id, len(FIRST)),
                late.get(id.split("-")[0], 0),
                requirements()[id].cost,
            ),
        )

    def run(self, most: int | None = None) -> Iterator[Trial]:
        """Try changes.

        Args:
            most: Number of valid ones to try, chosen by the seed; None tries all.
        """
        changes = list(changes_of(self.cls))
        if most is not None:
            random.Random(self.seed).shuffle(changes)  # noqa: S311 (a sample, no secret)
        valid = 0
        for change in changes:
            trial = self.attempt(change)
            valid += trial.outcome != INVALID
            yield trial
            if most is not None and valid >= most:
                return

    def attempt(self, change: Change) -> Trial:
        """Try one change.

        Args:
            change: The change.
        """
        trial = Trial(change.kind, change.what, change.where)
        try:
            changed = change.make(self.cls)
            values = _values(self._target(changed), 1)
        except Exception as error:  # noqa: BLE001 (whatever a changed cell raises)
            trial.outcome, trial.reason = INVALID, f"{type(error).__name__} in a step"
            return trial
        trial.reason = self._misfit(changed, values)
        if trial.reason:
            trial.outcome = INVALID
            return trial
        judge, same = self._judge(changed), None
        for identifier in self.ids:
            if identifier not in FIRST and same is None:
                same = self._is_same(changed)
                if same:  # there is nothing that another check could notice
                    break
            if not self._passes(identifier):
                continue
            trial.asked.append(identifier)
            if _fails(judge, identifier):
                trial.outcome, trial.by = KILLED, identifier
                return trial
        if change.reached == []:
            trial.reason = "no case of the spec runs it"
        elif same:
            trial.outcome = EQUIVALENT
            trial.reason = f"the same numbers and gradients on {DRAWS} draws of every case"
        else:
            trial.reason = "it gives other numbers or gradients, and nothing notices"
        return trial

    def _target(self, cls: Any) -> Any:
        return describe(self.name, cls, self.spec)

    def _judge(self, cls: Any) -> Judge:
        target = self._target(cls)
        place = keras.backend.backend()
        return Judge(target, place, self.profile, self.seed, cellkit.RNN, False, None, blame=False)

    @functools.cached_property
    def _own(self) -> Judge:
        """The judge of the cell as it is, in a class like those of the changes."""
        return self._judge(subclass(self.cls, {}))

    @functools.cached_property
    def _passed(self) -> dict[str, bool]:
        return {}

    def _passes(self, identifier: str) -> bool:
        """Say whether the cell as it is passes a check: nothing else can notice a change."""
        if identifier not in self._passed:
            self._passed[identifier] = _fails(self._own, identifier) is False
        return self._passed[identifier]

    @functools.cached_property
    def _weights(self) -> list[dict[str, tuple[int, ...]]]:
        return _weights(self._target(subclass(self.cls, {})))

    @functools.cached_property
    def _original(self) -> list[np.ndarray]:
        return _values(self._target(subclass(self.cls, {})), 1)

    def _misfit(self, changed: Any, values: list[np.ndarray]) -> str:
        """Say why a change is none: it has other weights, or gives other shapes."""
        if _weights(self._target(changed)) != self._weights:
            return "other weights"
        shapes = [[(a.shape, a.dtype) for a in found] for found in (values, self._original)]
        return "" if shapes[0] == shapes[1] else "other shapes or dtypes"

    def _is_same(self, changed: Any) -> bool:
        """Look for any difference: in inference, in training from the same seeds, in gradients."""
        target, own = self._target(changed), self._target(subclass(self.cls, {}))
        for flag in (False, True):
            pairs = zip(_values(target, DRAWS, flag), _values(own, DRAWS, flag), strict=True)
            if not all(_close(a, b, 1e-6) for a, b in pairs):
                return False
        pairs = zip(_gradients(target), _gradients(own), strict=True)
        return all(_close(a, b, 1e-5) for a, b in pairs)


def _fails(judge: Judge, identifier: str) -> bool | None:
    """Run a check: True if it fails or raises, False if it passes, None if it does not apply."""
    if requirements()[identifier].denied_by(judge.target.traits) is not None:
        return None
    try:
        judge.check(identifier, judge.context(identifier))
    except NotApplicable:
        return None
    except (Failure, Exception, SystemExit):  # whatever a changed cell raises is noticed
        return True
    return False


def _weights(target: Any) -> list[dict[str, tuple[int, ...]]]:
    """List the weights of every case with their shapes."""
    subjects = [Subject(target, case, cellkit.RNN) for case in target.cases]
    return [{k: v.shape for k, v in cell_weights(s.cell).items()} for s in subjects]


def _values(target: Any, draws: int, training: bool = False) -> list[np.ndarray]:
    """Run three steps of every case, from random states, and list all that comes back."""
    found: list[np.ndarray] = []
    for case in target.cases:
        keras.utils.set_random_seed(7)
        subject = Subject(target, case, cellkit.RNN)
        layer = subject.layer(return_sequences=True)
        for seed in range(draws):
            subject.set_weights(seed)
            kind = VALUES[seed % len(VALUES)]
            example = Example(4, 3, seed=seed, initial_state=True, values=kind)
            inputs, states = subject.inputs(example), subject.random_states(example)
            returned = subject.run(layer, inputs, states, training=training)
            found += [*leaves(returned.output), *leaves(returned.states)]
    return found


def _gradients(target: Any) -> list[np.ndarray]:
    """List the gradients of outputs and states by inputs, states and weights, for every case.

    Where nothing connects the two it is not zero but NaN.
    """
    found: list[np.ndarray] = []
    for case in target.cases:
        keras.utils.set_random_seed(7)  # weights are drawn around what the cell starts with
        subject = Subject(target, case, cellkit.RNN)
        for seed in range(2):
            subject.set_weights(seed)
            example = Example(3, 3, seed=seed, initial_state=True)
            inputs, states = subject.inputs(example), subject.random_states(example)
            by = gradients(subject, inputs, states)
            for part in (by.inputs, by.states, by.weights):
                found += [np.array(np.nan) if g is None else g for g in part.values()]
    return found


def _close(a: np.ndarray, b: np.ndarray, limit: float) -> bool:
    if a.shape != b.shape:
        return False
    scale = max(1e-30, float(np.abs(b).max(initial=0.0)))
    return bool(np.allclose(a, b, rtol=limit, atol=limit * scale, equal_nan=True))
