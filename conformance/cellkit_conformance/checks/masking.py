"""MSK: a masked step is not a step."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np

from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.examples.strategies import EVERY, PADDED, Example, Space
from cellkit_conformance.subject import backend, oracle
from cellkit_conformance.subject.record import Claim
from cellkit_conformance.subject.subject import Returned, Subject
from cellkit_conformance.trees import Tree, leaves, map_trees

SEQUENCES = {"return_sequences": True}


@check("MSK-01")
def all_true_is_no_mask(ctx: Context) -> None:
    """Compare a mask of only True with none."""

    def body(subject: Subject, example: Example) -> None:
        layer = subject.layer(**example.options)
        inputs, states = subject.inputs(example), subject.states(example)
        got = subject.run(layer, inputs, states, example.mask_array())
        want = subject.run(layer, inputs, states)
        tolerance = subject.tolerance(example.time)
        ctx.close("output", got.output, want.output, tolerance)
        ctx.close("state", got.states, want.states, tolerance)

    for subject in ctx.cases():
        space = Space(masks=["all_true"], options=[SEQUENCES])
        ctx.each(subject, space, body, ctx.profile.examples // 2)


@check("MSK-02")
def masked_steps_keep_states(ctx: Context) -> None:
    """Mask the end, and find the states that were there before, unchanged to the bit."""

    def body(subject: Subject, example: Example) -> None:
        inputs, states = subject.inputs(example), subject.random_states(example)
        got = _run(subject, example, inputs, states)
        want = subject.expect(inputs, states, example.mask_array())
        ctx.close("state", got.states, want.states, subject.tolerance(example.time))
        for row in map(int, np.flatnonzero(~example.own_mask.any(axis=1))):
            ctx.same(
                f"state of row {row}, which is masked throughout",
                _row(got.states, row),
                _row(states, row),
            )

    for subject in ctx.cases():
        space = Space(
            masks=["one_row_masked", "all_masked", "right", "any"],
            initial_states=[True],
            options=[SEQUENCES],
        )
        ctx.each(subject, space, body)


@check("MSK-03")
def rows_equal_their_unmasked_steps(ctx: Context) -> None:
    """Compare every row with the oracle on its unmasked steps alone."""

    def body(subject: Subject, example: Example) -> None:
        inputs, states = subject.inputs(example), subject.random_states(example)
        mask = example.own_mask
        got = _run(subject, example, inputs, states)
        tolerance = subject.tolerance(example.time)
        for row, keep in enumerate(mask):
            alone = map_trees(lambda a, r=row, k=keep: oracle.compact(a[r], k)[None], inputs)
            first = map_trees(lambda a, r=row: a[r : r + 1], states)
            want = subject.expect(alone, first)
            valid = map_trees(lambda a, r=row, k=keep: a[r][k][None], got.output)
            ctx.close(f"output of row {row} at its valid steps", valid, want.sequence, tolerance)
            ctx.close(f"state of row {row}", _row(got.states, row), want.states, tolerance)

    for subject in ctx.cases():
        space = Space(masks=PADDED, initial_states=[True], options=[SEQUENCES])
        ctx.each(subject, space, body)


@check("MSK-04")
def masked_output_repeats(ctx: Context) -> None:
    """See that a masked step repeats the output before it, to the bit."""

    def body(subject: Subject, example: Example) -> None:
        got = ctx.agrees(subject, example)
        mask = example.own_mask
        for row, keep in enumerate(mask):
            for t in np.flatnonzero(~keep):
                if keep[:t].any():
                    ctx.same(
                        f"output of row {row} at its masked step {t}",
                        map_trees(lambda a, r=row, t=t: a[r, t], got.output),
                        map_trees(lambda a, r=row, t=t: a[r, t - 1], got.output),
                    )

    for subject in ctx.cases():
        space = Space(masks=["interior", "right", "alternating", "any"], options=[SEQUENCES])
        ctx.each(subject, space, body)


@check("MSK-05")
def masked_first_output_is_zero(ctx: Context) -> None:
    """See that the output is zero until the first valid step."""

    def body(subject: Subject, example: Example) -> None:
        inputs, states = subject.inputs(example), subject.random_states(example)
        got = _run(subject, example, inputs, states)
        before = ~np.logical_or.accumulate(example.own_mask, axis=1)
        _require_zero(ctx, got.output, before, "before the first valid step")

    for subject in ctx.cases():
        space = Space(
            masks=["left", "one_row_masked", "all_masked", "any"],
            initial_states=[True],
            options=[SEQUENCES],
        )
        ctx.each(subject, space, body, ctx.profile.examples // 2)


@check("MSK-06")
def zeroed_outputs(ctx: Context) -> None:
    """See that zero_output_for_mask zeroes returned sequences, and nothing else."""

    def body(subject: Subject, example: Example) -> None:
        got = ctx.agrees(subject, example)
        if example.options["return_sequences"]:
            _require_zero(ctx, got.output, ~example.own_mask, "at a masked step")

    for subject in ctx.cases():
        looped = {"zero_output_for_mask": True}
        space = Space(
            shapes=[(3, 3)],
            masks=(*EVERY, "all_masked"),
            options=[
                {**looped, "return_sequences": True},
                {**looped, "return_sequences": True, "unroll": True},
                {**looped, "return_sequences": False},
            ],
            crossed=True,
        )
        ctx.each(subject, space, body, ctx.profile.examples // 2)


@check("MSK-07")
def fully_masked_rows(ctx: Context) -> None:
    """Mask one row, and all rows."""

    def body(subject: Subject, example: Example) -> None:
        inputs, states = subject.inputs(example), subject.random_states(example)
        mask = example.own_mask
        layer = subject.layer(return_sequences=False)
        got = subject.run(layer, inputs, states, mask)
        for row in map(int, np.flatnonzero(~mask.any(axis=1))):
            ctx.same(f"state of masked row {row}", _row(got.states, row), _row(states, row))
            zeros = map_trees(np.zeros_like, _row(got.output, row))
            ctx.same(f"last output of masked row {row}", _row(got.output, row), zeros)
        want = subject.expect(inputs, states, mask)
        tolerance = subject.tolerance(example.time)
        ctx.close("last output", got.output, want.last, tolerance)
        ctx.close("state", got.states, want.states, tolerance)

    for subject in ctx.cases():
        space = Space(masks=["one_row_masked", "all_masked"], initial_states=[True])
        ctx.each(subject, space, body, ctx.profile.examples // 2)


@check("MSK-11")
def dtypes_of_masks(ctx: Context) -> None:
    """Give one mask in five dtypes, as tensor and as NumPy array."""

    def body(subject: Subject, example: Example) -> None:
        inputs, mask = subject.inputs(example), example.own_mask
        layer, x = subject.layer(**SEQUENCES), map_trees(backend.to_tensor, inputs)
        want = subject.run(layer, inputs, mask=mask)
        for dtype in ("bool", "int32", "uint8", "float32"):
            cast = mask.astype(dtype)
            for form, value in (("tensor", backend.to_tensor(cast)), ("NumPy array", cast)):
                got = subject.unpack(layer, layer(x, mask=value))
                ctx.same(f"output with a mask of {dtype} as {form}", got.output, want.output)
                ctx.same(f"state with a mask of {dtype} as {form}", got.states, want.states)

    for subject in ctx.cases():
        # One mask with gaps is enough for what happens to a mask before any step, as is one set of
        # weights.
        space = Space(masks=["any"], initial_states=[False], weight_sets=1)
        ctx.each(subject, space, body, 0)


@check("MSK-12")
def ranks_of_masks(ctx: Context) -> None:
    """Give a mask with a last axis of one, and masks of other ranks."""
    for subject in ctx.cases():
        example = Example(3, 5, seed=ctx.seed)
        inputs, layer = subject.inputs(example), subject.layer(**SEQUENCES)
        mask = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 0, 1], [1, 0, 0, 0, 0]], dtype=bool)
        want = subject.run(layer, inputs, mask=mask)
        got = subject.run(layer, inputs, mask=mask[:, :, None])
        ctx.same("output with a mask of shape (3, 5, 1)", got.output, want.output)
        ctx.same("state with a mask of shape (3, 5, 1)", got.states, want.states)
        for wrong in (mask[:, 0], np.repeat(mask[:, :, None], 4, axis=2), mask[:, :, None, None]):
            _require_rejected(ctx, subject, layer, inputs, wrong)


@check("MSK-13")
def sizes_of_masks(ctx: Context) -> None:
    """Give masks that are too long, too short, and of another batch."""
    for subject in ctx.cases():
        example = Example(3, 5, seed=ctx.seed)
        inputs, layer = subject.inputs(example), subject.layer(**SEQUENCES)
        for shape in ((3, 6), (3, 4), (3, 1), (4, 5), (2, 5), (1, 5)):
            _require_rejected(ctx, subject, layer, inputs, np.ones(shape, dtype=bool))


PAIRED: list[dict[str, Any]] = [
    {"return_sequences": False},
    {"return_sequences": True, "go_backwards": True},
    {"return_sequences": False, "go_backwards": True},
    {"return_sequences": True, "unroll": True, "go_backwards": True},
    {"return_sequences": True, "stateful": True},
]


@check("MSK-14")
def masks_with_every_option(ctx: Context) -> None:
    """Combine masks with the options of the layer."""

    def body(subject: Subject, example: Example) -> None:
        if example.options.get("stateful"):
            subject.layer(**example.options).reset_state()
        ctx.agrees(subject, example)

    for subject in ctx.cases():
        every = (*EVERY, "all_masked")
        space = Space(shapes=[(3, 3)], masks=every, options=PAIRED, crossed=True)
        ctx.each(subject, space, body, ctx.profile.examples // 2)


@check("MSK-15")
def masks_go_on(ctx: Context) -> None:
    """Ask which mask the layer hands on: one per output, none per state."""
    for subject in ctx.cases():
        inputs = map_trees(backend.to_tensor, subject.inputs(Example(3, 5)))
        mask = backend.to_tensor(np.array([[1, 1, 0, 1, 0]] * 3, dtype=bool))
        for sequences in (True, False):
            for states in (True, False):
                layer = subject.layer(return_sequences=sequences, return_state=states)
                output, _ = subject.split(layer, layer(inputs))
                count = len(leaves(output))
                found = leaves([layer.compute_mask(inputs, mask)])
                said = f"with return_sequences={sequences}, return_state={states}"
                for handed in found[:count]:
                    ctx.require(
                        (handed is not None) == sequences,
                        f"{said} a mask is {'not ' if sequences else ''}handed on for the output",
                    )
                    if handed is not None:
                        got = np.asarray(backend.to_numpy(handed)).astype(bool)
                        ctx.same(f"mask {said}", got, backend.to_numpy(mask))
                extra = [leaf for leaf in found[count:] if leaf is not None]
                ctx.require(not extra, f"{said} a mask is handed on for the states")


class GivesMask(keras.layers.Layer):
    """Passes its inputs on with a mask, as `Masking` and `Embedding` do, at any rank."""

    def __init__(self, mask: np.ndarray, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.given = mask
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        """Pass the inputs on."""
        return inputs

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Give the mask."""
        return backend.to_tensor(self.given)


@check("MSK-16")
def implicit_masks(ctx: Context) -> None:
    """Let the mask come from the layer before, eagerly and in a compiled model."""
    for subject in itertools.islice(ctx.cases(), 1):
        mask = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=bool)
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        layer = subject.layer(**SEQUENCES)
        want = subject.run(layer, inputs, mask=mask)
        giver = GivesMask(mask)
        passed = map_trees(lambda a: giver(backend.to_tensor(a)), inputs)  # noqa: B023
        got = subject.unpack(layer, layer(passed))
        ctx.same("output with the mask of the layer before", got.output, want.output)
        ctx.same("state with the mask of the layer before", got.states, want.states)
        symbolic = subject.symbolic_inputs()
        output, _ = subject.split(layer, layer(map_trees(giver, symbolic)))
        model = keras.Model(symbolic, leaves(output))
        predicted = leaves(backend.to_numpy(model.predict_on_batch(inputs)))
        tolerance = subject.tolerance(5)
        ctx.close("output of a model that masks", predicted, leaves(want.output), tolerance)


@check("MSK-18")
def both_directions_skip_padding(ctx: Context) -> None:
    """Run both directions with the padding before, behind and between the same steps."""
    for subject in itertools.islice(ctx.cases(), 1):
        valid = subject.inputs(Example(3, 3, seed=ctx.seed))
        wrapper = ctx.bidirectional()(
            subject.fresh_layer(return_sequences=True, return_state=False)
        )
        found = {}
        for side, places in {"right": [0, 1, 2], "left": [2, 3, 4], "between": [0, 2, 4]}.items():
            padded = map_trees(lambda a, p=places: _spread(a, p, 5), valid)
            mask = np.zeros((3, 5), dtype=bool)
            mask[:, places] = True
            x = map_trees(backend.to_tensor, padded)
            output = backend.to_numpy(wrapper(x, mask=backend.to_tensor(mask)))
            found[side] = map_trees(lambda a, p=places: a[:, p], output)
            ctx.examples += 1
        for side in ("left", "between"):
            what = f"output at the valid steps with the padding {side}"
            ctx.close(what, found[side], found["right"], subject.tolerance(5))


def _spread(array: np.ndarray, places: list[int], time: int) -> np.ndarray:
    """Put steps into a longer sequence whose other steps hold large numbers."""
    padded = np.full((len(array), time, *array.shape[2:]), 7.0, array.dtype)
    padded[:, places] = array
    return padded


@check("MSK-17")
def denied_masks_raise(ctx: Context) -> None:
    """Pass a mask to a cell that does not claim masking."""
    for subject in ctx.cases():
        inputs, mask = subject.inputs(Example(3, 5)), np.ones((3, 5), dtype=bool)
        mask[:, 3:] = False
        layer = subject.layer(**SEQUENCES)
        try:
            subject.run(layer, inputs, mask=mask)
        except (ValueError, NotImplementedError):
            continue
        ctx.fail("a mask was accepted although the spec does not claim 'masking'")


def _run(subject: Subject, example: Example, inputs: Tree, states: Tree | None) -> Returned:
    return subject.run(subject.layer(**SEQUENCES), inputs, states, example.mask_array())


def _row(tree: Tree, row: int) -> Tree:
    return map_trees(lambda a: a[row : row + 1], tree)


def _require_zero(ctx: Context, output: Tree, where: np.ndarray, when: str) -> None:
    for leaf in leaves(output):
        bad = leaf[where]
        largest = np.abs(bad).max(initial=0)
        said = f"the output is {largest:.3g} {when}, not 0"
        ctx.require(largest == 0, said, Claim("zero", [leaf], at=(where,)))


def _require_rejected(
    ctx: Context, subject: Subject, layer: Any, inputs: Tree, mask: np.ndarray
) -> None:
    ctx.raises(
        f"a mask of shape {mask.shape} for inputs of 3 rows and 5 steps",
        lambda: subject.run(layer, inputs, mask=mask),
        str(mask.shape),
        "expected",
    )
