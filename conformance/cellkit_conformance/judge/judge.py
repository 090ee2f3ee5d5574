"""Run one check for one cell in this process and turn whatever happens into a result."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from cellkit_conformance import checks
from cellkit_conformance.checks.context import Context, Failed
from cellkit_conformance.checks.exchange import Exchange
from cellkit_conformance.edition import requirements
from cellkit_conformance.edition.profiles import PROFILES, Profile
from cellkit_conformance.judge import attribution, causes
from cellkit_conformance.outcome import (
    Failure,
    NotApplicable,
    Outcome,
    Result,
    SpecFailure,
    describe_error,
    one_line,
    shorten,
    trace_of,
)
from cellkit_conformance.repro import scripts
from cellkit_conformance.subject.canaries import NestedCanary, PlainCanary
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.subject.targets import Target, describe
from cellkit_conformance.trees import Tree

ABOUT_THE_CELL = frozenset({"STR", "NUM", "GRD", "SER", "DTY"})
"""Groups whose checks run for every constructor case where the profile says so."""


class Judge:
    """Runs checks for one cell; what the checks share is made once.

    Args:
        target: The cell.
        backend: The place of this process (see `places`), for the results.
        profile: The thoroughness of the run.
        seed: Of all that is drawn.
        layer: Makes the layer under test, with the signature of `keras.layers.RNN`.
        shrink: True if a failing example is made smaller.
        exchange: A folder that the workers of a run share, for what is compared between backends;
            without one, this backend is alone.
        blame: True if a failure is tried on a canary, to see whose it is.
    """

    def __init__(
        self,
        target: Target,
        backend: str,
        profile: Profile,
        seed: int,
        layer: Callable[..., Any],
        shrink: bool = True,
        exchange: str | None = None,
        blame: bool = True,
    ) -> None:
        self.target = target
        self.backend = backend
        self.profile = profile
        self.seed = seed
        self.layer = layer
        self.shrink = shrink
        self.blame = blame
        self.exchange = Exchange(target.name, backend, exchange)
        self.subjects: dict[Any, Subject] = {}
        self._seeded = False
        checks.load()

    def run(self, identifier: str) -> Result:
        """Run the check of one requirement.

        Args:
            identifier: The id.

        Returns:
            The result; no exception of the cell gets out.
        """
        result = Result(self.target.name, self.backend, identifier, Outcome.PASS, seed=self.seed)
        denied = requirements()[identifier].denied_by(self.target.traits)
        if denied is not None:
            result.outcome, result.message = Outcome.NOT_APPLICABLE, _denial(denied)
            return result
        context, start = self.context(identifier), time.perf_counter()
        try:
            self.check(identifier, context)
        except NotApplicable as error:
            result.outcome, result.message = Outcome.NOT_APPLICABLE, one_line(str(error))
        except Failure as error:
            result.outcome, result.message = Outcome.FAIL, one_line(str(error))
            result.detail = shorten(str(error))
            if isinstance(error, SpecFailure):
                result.extra = {**result.extra, "cause": "the spec"}
        except (Exception, SystemExit, GeneratorExit) as error:  # whatever a cell raises
            lacking = causes.lacking(error)
            if lacking:
                result.outcome, result.message = Outcome.NOT_APPLICABLE, lacking
                return result
            result.outcome = Outcome.ERROR
            result.message = one_line(shorten(describe_error(error)))
            result.detail = shorten(trace_of(error))
            result.extra = {**result.extra, **causes.explain(error, self.target.cls)}
        if result.outcome.is_bad:
            result.script = scripts.write(result, context, time.perf_counter() - start)
            if self.blame:
                self._try_on_canary(result)
        result.seconds = round(time.perf_counter() - start, 4)
        result.example = context.example
        result.examples = context.examples
        result.error, result.limit = context.error, context.limit
        if context.ratio is not None:
            result.headroom = float("inf") if context.ratio == 0 else 1 / context.ratio
        return result

    def context(self, identifier: str, only: Failed | None = None) -> Context:
        """Make what the check of a requirement is given.

        Args:
            identifier: The id.
            only: The one example to try, or None for all.
        """
        return Context(
            self.target,
            self.subjects,
            self.layer,
            self.profile,
            self.exchange,
            self.seed,
            self.shrink,
            requirements()[identifier].group in ABOUT_THE_CELL,
            only,
        )

    def check(self, identifier: str, context: Context) -> None:
        """Run a check, and let out what it raises.

        Args:
            identifier: The id.
            context: The result of `context`.

        Raises:
            Failure: The requirement does not hold.
            NotApplicable: It is about something that the cell or the layer does not have.
            Exception: The one that the cell raised.
        """
        self._seed(requirements()[identifier].group)
        checks.CHECKS[identifier](context)

    def trouble(self) -> causes.Trouble | None:
        """Say what keeps every check from running: no instance, weights, initial state or step."""
        subjects = [Subject(self.target, case, self.layer) for case in self.target.cases]
        return causes.find_trouble(subjects)

    def _try_on_canary(self, result: Result) -> None:
        """Run the same check on a canary that is built like the cell, and blame accordingly."""
        canary = _canary(_is_flat(self.target.inputs), self.layer, self.backend, self.seed)
        layer = self.layer.__module__
        layer = "keras" if layer.split(".")[0] == "keras" else layer
        attribution.attribute(result, canary.run(result.requirement), layer)

    def _seed(self, group: str) -> None:
        """Seed the generators that nobody seeded: no outcome must depend on them.

        To set TensorFlow's own seed throws away every kernel that was made so far, and to make
        them again costs as much as a call of a layer. So that is done before the first check of a
        cell, and before those that are about what is random.
        """
        if keras.backend.backend() == "tensorflow" and self._seeded and group != "RNG":
            random.seed(self.seed)
            np.random.seed(self.seed)
        else:
            keras.utils.set_random_seed(self.seed)
            self._seeded = True


@functools.cache
def _canary(flat: bool, layer: Callable[..., Any], backend: str, seed: int) -> Judge:
    """Make the judge of a canary, once per layer and process."""
    cls: Any = PlainCanary if flat else NestedCanary
    target = describe(cls.__name__, cls, cls.spec)
    return Judge(target, backend, PROFILES["quick"], seed, layer, shrink=False, blame=False)


def _is_flat(inputs: Tree) -> bool:
    """Say whether a step takes one tensor."""
    plain = isinstance(inputs, tuple) and not hasattr(inputs, "_fields")
    return plain and all(isinstance(dim, (int, str)) for dim in inputs)


def _denial(trait: str) -> str:
    if trait == "reference":
        return "the spec has no reference"
    if trait.startswith("!"):
        return f"the spec claims {trait[1:]!r}"
    return f"the spec does not claim {trait!r}"
