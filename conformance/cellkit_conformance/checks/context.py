"""Context of a check: subjects, comparisons that keep what they found, and property tests."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from cellkit_conformance.checks.exchange import Exchange
from cellkit_conformance.edition.profiles import Profile
from cellkit_conformance.examples.shrink import shrink
from cellkit_conformance.examples.strategies import PLAIN, Example, Space, edges, sample
from cellkit_conformance.outcome import Failure, NotApplicable
from cellkit_conformance.subject.record import Claim, Finding, Refusal, Values
from cellkit_conformance.subject.subject import REFUSALS, Returned, Subject
from cellkit_conformance.subject.targets import Target
from cellkit_conformance.subject.tolerance import Comparison, Tolerance, beyond
from cellkit_conformance.trees import Tree, difference, leaves, map_shapes, paths

FEW = 2
"""Examples up to which Hypothesis is not worth its import: NumPy draws them, beside the edges."""


@dataclasses.dataclass(frozen=True)
class Failed:
    """The example that a check has failed on.

    Attributes:
        example: The example.
        turn: Number of the check's property that it is of, counted from one for each case.
    """

    example: Example
    turn: int


class Context:
    """The run of one check for one cell on this process's backend.

    Args:
        target: The cell and its spec.
        subjects: Subjects kept from check to check, by case and extra arguments.
        layer: Makes the layer under test.
        profile: The thoroughness of the run.
        exchange: Exchange of results that the backends of a run compare.
        seed: Of all that is drawn.
        shrink: True if a failing example is made smaller.
        about_the_cell: True if what is checked may depend on the constructor case. The loop treats
            all cases alike.
        only: The one example that properties are tried on, or None for all.
    """

    def __init__(
        self,
        target: Target,
        subjects: dict[Any, Subject],
        layer: Callable[..., Any],
        profile: Profile,
        exchange: Exchange,
        seed: int = 0,
        shrink: bool = True,
        about_the_cell: bool = True,
        only: Failed | None = None,
    ) -> None:
        self.target = target
        self.layer = layer
        self.profile = profile
        self.seed = seed
        self.shrink = shrink
        self.exchange = exchange
        self.about_the_cell = about_the_cell
        self.only = only
        self._subjects = subjects
        self.examples = 0
        self.error: float | None = None
        self.limit: float | None = None
        self.ratio: float | None = None
        self.example: dict[str, Any] | None = None
        self.case = next(iter(target.cases))
        self.finding: Finding | None = None
        self.current: Example | None = None
        self.turns: Counter[str] = Counter()
        for subject in subjects.values():
            subject.calls.clear()
            subject.forget_drawn()
        exchange.met.clear()

    # Subjects -----------------------------------------------------------------------------------

    def subject(self, case: str | None = None, **extra: Any) -> Subject:
        """Give the subject of a case, with further constructor arguments.

        Args:
            case: The name of the case; the case at hand unless given.
            **extra: Such as `dropout=0.5`.
        """
        self.case = case or self.case
        key = (self.case, tuple(sorted(extra.items())))
        if key not in self._subjects:
            self._subjects[key] = Subject(self.target, self.case, self.layer, extra)
        return self._subjects[key]

    def bidirectional(self) -> Any:
        """Give the wrapper that belongs to the layer under test."""
        import keras

        import cellkit

        own = isinstance(self.layer, type) and issubclass(self.layer, cellkit.RNN)
        return cellkit.Bidirectional if own else keras.layers.Bidirectional

    def narrow(self) -> Subject:
        """Give the first case with one unit, one feature per input, or as few as it takes."""
        key = ("narrow",)
        if key not in self._subjects:
            self._subjects[key] = _narrow(self.target, self.case, self.layer)
        return self._subjects[key]

    def subjects(self) -> list[Subject]:
        """List the subjects that were made so far, by this check or an earlier one."""
        return list(self._subjects.values())

    def cases(self, every: bool = False) -> Iterator[Subject]:
        """Go through the cases, or take the first one alone, as the profile says.

        Args:
            every: Go through all of them whatever the profile.
        """
        names = list(self.target.cases)
        every = every or (self.profile.all_cases and self.about_the_cell)
        for name in names if every or not self.profile.divide else names[:1]:
            subject = self.subject(name)
            subject.set_weights(self.seed % 1000)
            yield subject

    # Judgements ---------------------------------------------------------------------------------

    def fail(self, message: str) -> None:
        """Say that the requirement does not hold.

        Args:
            message: Expected and found; the first line must do alone.

        Raises:
            Failure: Always.
        """
        many = len(self.target.cases) > 1
        raise Failure(f"case {self.case!r}: {message}" if many else message)

    def require(self, condition: bool, message: str, claim: Claim | None = None) -> None:
        """Fail with a message unless the condition holds.

        Args:
            condition: The condition.
            message: The message where it does not hold.
            claim: The condition as a program can write it, where it is about recorded results.
        """
        if not condition:
            self.finding = claim
            self.fail(message)

    def fail_with(self, message: str, claim: Claim | None) -> None:
        """Fail with a message, and with what a program can claim of recorded results.

        Args:
            message: Expected and found.
            claim: The claim, or None where there is none.

        Raises:
            Failure: Always.
        """
        self.finding = claim
        self.fail(message)

    def close(
        self,
        what: str,
        got: Tree,
        want: Tree,
        tolerance: Tolerance,
        unit: float = 1.0,
        more: Tree | None = None,
    ) -> None:
        """Compare two structures within the tolerance model.

        Args:
            what: Names the values in the message.
            got: The computed values.
            want: The reference.
            tolerance: The limit.
            unit: A number that both are divided by before.
            more: What is added to the limit, leaf by leaf, in the structure of `want`.
        """
        self._same_structure(what, got, want)
        pairs = leaves(_ordered(want, got))
        added = [0.0] * len(pairs) if more is None else leaves(_ordered(more, got))
        for (path, a), b, extra in zip(paths(got), pairs, added, strict=True):
            name = f"{what} {path}".strip()
            a, b = np.asarray(a), np.asarray(b)
            if a.shape != b.shape:
                self.finding = Values(a, b)
                self.fail(f"{name} has shape {a.shape}, expected {b.shape}")
            pair = (a / unit, b / unit) if unit != 1.0 else (a, b)
            found = tolerance.compare(*pair, more=extra)
            self.note(found)
            if not found.ok:
                self.finding = Values(a, b, float(tolerance.limit(np.zeros(()))), unit)
                self.fail(
                    f"{name}{list(found.where)} is {found.got:.9g}, expected {found.want:.9g} "
                    f"(error {found.error:.3g}, limit {found.limit:.3g}: {beyond(found.ratio)})"
                )

    def note(self, found: Comparison) -> None:
        """Keep a comparison for the report, where it is the closest to its limit so far.

        Args:
            found: The comparison.
        """
        if self.ratio is None or found.ratio > self.ratio:
            self.ratio, self.error, self.limit = found.ratio, found.error, found.limit

    def same(self, what: str, got: Tree, want: Tree) -> None:
        """Compare two structures bit by bit; NaN equals NaN, and 0.0 equals -0.0."""
        self._same_structure(what, got, want)
        for (path, a), b in zip(paths(got), leaves(_ordered(want, got)), strict=True):
            name = f"{what} {path}".strip()
            a, b = np.asarray(a), np.asarray(b)
            if a.shape != b.shape:
                self.finding = Values(a, b)
                self.fail(f"{name} has shape {a.shape}, expected {b.shape}")
            if a.dtype != b.dtype:
                self.fail(f"{name} has dtype {a.dtype}, expected {b.dtype}")
            equal = (a == b) | ((a != a) & (b != b))
            if not np.all(equal):
                self.finding = Values(a, b)
                where = tuple(int(i) for i in np.argwhere(~equal)[0])
                self.fail(
                    f"{name}{list(where)} is {a[where]!s}, expected exactly {b[where]!s} "
                    f"({int((~equal).sum())} of {equal.size} values differ)"
                )

    def raises(self, what: str, action: Callable[[], Any], *fragments: str) -> str:
        """Require a `ValueError` whose text contains some words.

        Args:
            what: The deed, for the message.
            action: Does it.
            *fragments: Words that the text must contain, in whatever case.

        Returns:
            The text of the error.
        """
        self.finding = Refusal(what, fragments)
        try:
            action()
        except ValueError as error:
            text = str(error)
            missing = [f for f in fragments if f.lower() not in text.lower()]
            if missing:
                self.fail(f"{what}: the ValueError does not say {missing[0]!r}: {text[:200]!r}")
            self.finding = None
            return text
        except Exception as error:  # noqa: BLE001 (any other type is the finding)
            self.fail(f"{what}: raised {type(error).__name__} instead of ValueError: {error}")
        self.fail(f"{what}: was accepted without an error")
        return ""

    def _same_structure(self, what: str, got: Tree, want: Tree) -> None:
        found = difference(got, want)
        if found:
            self.fail(f"{what} has another structure than expected: {found}")

    @property
    def failed(self) -> Failed | None:
        """The example that is being tried, or the last one that was, if a property failed on it."""
        if self.example is None or self.current is None:
            return None
        return Failed(self.current, self.turns[self.case])

    # Properties ---------------------------------------------------------------------------------

    def each(
        self,
        subject: Subject,
        space: Space,
        body: Callable[[Subject, Example], object],
        draws: int | None = None,
    ) -> None:
        """Run a property over a space: its edges first, then drawn examples, then shrink.

        Args:
            subject: The cell.
            space: The dimensions of the examples.
            body: Checks one example.
            draws: Number of examples to draw; the profile's unless given.
        """

        def attempt(example: Example) -> None:
            self.examples += 1
            self.example = example.describe()
            self.finding, self.current = None, example
            subject.calls.clear()
            subject.set_weights(example.weights, plain=example.values == PLAIN)
            body(subject, example)

        self.turns[subject.case] += 1
        if self.only is not None:
            if self.turns[subject.case] == self.only.turn:
                attempt(self.only.example)
            return
        draws = self.profile.examples if draws is None else draws
        chosen = edges(space, self.seed)
        if self.profile.divide and self.profile.all_cases and self.about_the_cell:
            cases = list(self.target.cases)
            position = cases.index(subject.case)
            chosen = chosen[position :: len(cases)] if position else chosen
            draws = -(-draws // len(cases))
        few = draws <= FEW
        chosen = [*chosen, *sample(space, draws, self.seed)] if few else chosen
        # Weights are what costs most to exchange, so examples with the same ones follow each other.
        for example in sorted(chosen, key=lambda example: example.weights):
            try:
                attempt(example)
            except Exception as error:
                if not self.shrink or isinstance(error, NotApplicable):
                    raise
                shrink(attempt, example, error)
        if not few:
            self._search(attempt, space, draws)
        self.example = None

    def _search(self, attempt: Callable[[Example], None], space: Space, draws: int) -> None:
        """Let Hypothesis draw many examples, and shrink the one that fails."""
        import hypothesis

        from cellkit_conformance.examples.drawing import examples

        phases = [hypothesis.Phase.generate]
        phases += [hypothesis.Phase.shrink] if self.shrink else []

        @hypothesis.seed(self.seed)
        @hypothesis.settings(
            max_examples=draws,
            database=None,
            deadline=None,
            phases=phases,
            suppress_health_check=list(hypothesis.HealthCheck),
            report_multiple_bugs=False,
            print_blob=False,
        )
        @hypothesis.given(examples(space))
        def property_test(example: Example) -> None:
            attempt(example)

        with contextlib.redirect_stdout(io.StringIO()):  # the falsifying example is in the result
            property_test()

    # Comparing a layer with the oracle ----------------------------------------------------------

    def agrees(self, subject: Subject, example: Example) -> Returned:
        """Run layer and oracle on one example and compare outputs and states.

        Args:
            subject: The cell.
            example: The data and the options.

        Returns:
            What the layer gave.
        """
        inputs, states, mask = subject.inputs(example), subject.states(example), None
        mask = example.mask_array()
        layer = subject.layer(**example.options)
        got = subject.run(layer, inputs, states, mask)
        want = subject.expect(inputs, states, mask, **example.options)
        self.compare(subject, example, got, want)
        return got

    def compare(self, subject: Subject, example: Example, got: Returned, want: Any) -> None:
        """Compare what a layer gave with a run of the oracle."""
        tolerance = subject.tolerance(example.time)
        sequences = bool(example.options.get("return_sequences", False))
        self.close("output", got.output, want.result(sequences), tolerance)
        if got.states is not None:
            self.close("state", got.states, want.states, tolerance)


def _narrow(target: Target, case: str, layer: Callable[..., Any]) -> Subject:
    """Make a subject of one unit and one feature, where the cell has such a thing."""
    names: list[Any] = []
    map_shapes(lambda shape: names.append(shape[-1]) if shape else None, target.inputs)
    ones = {name: 1 for name in names if isinstance(name, str)}
    slim = dataclasses.replace(target, dims={**ones, **target.dims})
    pinned = target.spec is None and len(names) != sum(isinstance(n, str) for n in names)
    if "units" in target.arguments(case) and not pinned:
        subject = Subject(slim, case, layer, {"units": 1})
        # Units may come in blocks, as of a clockwork cell, which a ValueError says. Where nothing
        # says which numbers a cell takes, any error may mean that one is too few.
        refusal = Exception if target.spec is None else REFUSALS
        try:
            subject.build(subject.fresh_cell())
        except refusal:
            return Subject(slim, case, layer)
        return subject
    return Subject(slim, case, layer)


def _ordered(want: Tree, like: Tree) -> Tree:
    """Bring the keys of dicts into the order of another tree, so that leaves pair up."""
    if isinstance(like, Mapping):
        return {key: _ordered(want[key], like[key]) for key in like}
    if isinstance(like, (list, tuple)):
        return [_ordered(a, b) for a, b in zip(want, like, strict=True)]
    return want
