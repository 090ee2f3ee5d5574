"""SEQ: the loop over time, its options, and the edges of its shapes."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import keras
import numpy as np

from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.examples.strategies import EVERY, Example, Space
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.subject import backend
from cellkit_conformance.subject.record import Claim
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import Tree, leaves, map_trees, pair_leaves

SEQUENCES = {"return_sequences": True}


@check("SEQ-01")
def last_of_the_sequence(ctx: Context) -> None:
    """Compare the two settings of return_sequences."""

    def body(subject: Subject, example: Example) -> None:
        inputs, states = subject.inputs(example), subject.states(example)
        whole = subject.run(subject.layer(**SEQUENCES), inputs, states)
        last = subject.run(subject.layer(return_sequences=False), inputs, states)
        tolerance = subject.tolerance(example.time)
        ctx.close("output", last.output, _at(whole.output, -1), tolerance)
        ctx.close("state", last.states, whole.states, tolerance)

    for subject in ctx.cases():
        ctx.each(subject, Space(), body, ctx.profile.examples // 2)


@check("SEQ-02")
def states_of_a_loop_by_hand(ctx: Context) -> None:
    """Run the cell by hand and compare states and outputs."""

    def body(subject: Subject, example: Example) -> None:
        inputs, states = subject.inputs(example), subject.random_states(example)
        got = subject.run(subject.layer(**SEQUENCES), inputs, states)
        outputs = []
        for t in range(example.time):
            output, states = subject.step_cell(_at(inputs, t), states)
            outputs.append(output)
        stacked = map_trees(lambda *steps: np.stack(steps, axis=1), outputs[0], *outputs[1:])
        tolerance = subject.tolerance(example.time)
        ctx.close("output", got.output, stacked, tolerance)
        ctx.close("state", got.states, states, tolerance)

    for subject in ctx.cases():
        ctx.each(subject, Space(initial_states=[True]), body, ctx.profile.examples // 4)


@check("SEQ-03")
def one_step_is_one_step(ctx: Context) -> None:
    """Compare a sequence of length one with one step of the cell."""
    for subject in ctx.cases():
        example = Example(3, 1, seed=ctx.seed, initial_state=True)
        inputs, states = subject.inputs(example), subject.states(example)
        got = subject.run(subject.layer(**SEQUENCES), inputs, states)
        output, new = subject.step_cell(_at(inputs, 0), states)
        ctx.close("output", _at(got.output, 0), output, subject.tolerance(1))
        ctx.close("state", got.states, new, subject.tolerance(1))


@check("SEQ-04")
def no_steps(ctx: Context) -> None:
    """Run a sequence of length zero."""
    for subject in ctx.cases():
        example = Example(3, 0, initial_state=True)
        inputs, states = subject.inputs(example), subject.states(example)
        for sequences in (True, False):
            for given in (states, None):
                got = subject.run(subject.layer(return_sequences=sequences), inputs, given)
                want = subject.expect(inputs, given)
                output = map_trees(_as_float32, want.result(sequences))
                ctx.close("output", got.output, output, subject.tolerance(1))
                if given is not None:
                    ctx.same("state", got.states, given)
                else:
                    ctx.same("state", got.states, subject.own_initial_states(3))


@check("SEQ-05")
def rows_are_independent(ctx: Context) -> None:
    """Run rows alone, permuted, and beside other rows."""

    def body(subject: Subject, example: Example) -> None:
        inputs, states = subject.inputs(example), subject.random_states(example)
        layer, tolerance = subject.layer(**SEQUENCES), subject.tolerance(example.time)
        whole = subject.run(layer, inputs, states)
        alone = subject.run(layer, _rows(inputs, [0]), _rows(states, [0]))
        ctx.close("output of a row alone", alone.output, _rows(whole.output, [0]), tolerance)
        ctx.close("state of a row alone", alone.states, _rows(whole.states, [0]), tolerance)
        order = [2, 0, 1]
        permuted = subject.run(layer, _rows(inputs, order), _rows(states, order))
        ctx.close("output of permuted rows", permuted.output, _rows(whole.output, order), tolerance)
        other = _beside(inputs, subject.valid_inputs(map_trees(_other_rows, inputs)))
        beside = subject.run(layer, other, _beside(states, _changed_states(subject, states)))
        ctx.same("row beside other rows", _rows(beside.output, [0]), _rows(whole.output, [0]))
        ctx.same("state beside other rows", _rows(beside.states, [0]), _rows(whole.states, [0]))
        starts = map_trees(_only_first_row, subject.own_initial_states(example.batch), states)
        begun = subject.run(layer, inputs, starts)
        alone = subject.run(layer, _rows(inputs, [0]), _rows(starts, [0]))
        what = "of a row that begins anew beside rows that go on"
        ctx.close(f"output {what}", _rows(begun.output, [0]), alone.output, tolerance)
        ctx.close(f"state {what}", _rows(begun.states, [0]), alone.states, tolerance)

    for subject in ctx.cases():
        ctx.each(subject, Space(initial_states=[True]), body, ctx.profile.examples // 2)
        _require_spared(ctx, subject)
        # Once in a batch that is larger than any other, for what is right for a few rows alone.
        few, rows = subject.inputs(Example(3, 5, seed=ctx.seed)), [0, 1, 2] * 6
        layer, tolerance = subject.layer(**SEQUENCES), subject.tolerance(5)
        want, got = subject.run(layer, few), subject.run(layer, _rows(few, rows))
        ctx.close("output of 18 rows", got.output, _rows(want.output, rows), tolerance)
        ctx.close("state of 18 rows", got.states, _rows(want.states, rows), tolerance)


def _only_first_row(start: np.ndarray, state: np.ndarray) -> np.ndarray:
    return np.concatenate([start[:1], state[1:]])


def _require_spared(ctx: Context, subject: Subject) -> None:
    """Let one row be not a number, and see that the others are what they were."""
    inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
    if all(a.dtype.kind != "f" for a in leaves(inputs)):
        return
    layer, others = subject.layer(**SEQUENCES), [0, 2]
    want = subject.run(layer, inputs)
    try:
        got = subject.run(layer, map_trees(_spoilt, inputs))
    except Exception:  # noqa: BLE001 (a matrix that has no inverse, say: to refuse it is honest)
        return
    ctx.examples += 1
    what = "of a row beside one that is not a number"
    ctx.same(f"output {what}", _rows(got.output, others), _rows(want.output, others))
    ctx.same(f"state {what}", _rows(got.states, others), _rows(want.states, others))


def _spoilt(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "f":
        return array
    array = array.copy()
    array[1] = np.nan
    return array


@check("SEQ-06")
def no_rows(ctx: Context) -> None:
    """Run an empty batch."""
    for subject in ctx.cases():
        inputs, some = subject.inputs(Example(0, 3)), Example(2, 3)
        # With rows: on TensorFlow, oneDNN gives a convolution of none the shape of its inputs.
        want = subject.expect(subject.inputs(some), subject.random_states(some))
        for sequences in (True, False):
            try:
                got = subject.run(subject.layer(return_sequences=sequences), inputs)
            except Exception as error:
                if "Biases must be 1D" in str(error):  # raised by keras.ops.add, of two matrices
                    raise NotApplicable(
                        "Keras takes the second of two empty matrices for a bias on TensorFlow"
                    ) from error
                raise
            results = (
                ("output", got.output, want.result(sequences)),
                ("state", got.states, want.states),
            )
            for name, empty, full in results:
                for a, b in pair_leaves(empty, full):
                    shape = (0, *b.shape[1:])
                    ctx.require(a.shape == shape, f"{name} has shape {a.shape}, expected {shape}")


@check("SEQ-07")
def one_unit_and_one_feature(ctx: Context) -> None:
    """Run the cell as narrow as it gets."""
    subject = ctx.narrow()
    subject.set_weights(ctx.seed % 1000)
    for states in (False, True):
        example = Example(3, 3, seed=ctx.seed, initial_state=states, options=SEQUENCES)
        ctx.examples += 1
        ctx.agrees(subject, example)


@check("SEQ-08")
def causal_with_memory(ctx: Context) -> None:
    """Change later inputs and see nothing; change the first input and see something."""
    remembered: list[bool] = []
    seen: list[Tree] = []

    def body(subject: Subject, example: Example) -> None:
        layer, inputs = subject.layer(**SEQUENCES), subject.inputs(example)
        base = subject.run(layer, inputs)
        cut = 1 + example.seed % (example.time - 1)
        moved = subject.valid_inputs(map_trees(lambda a: _moved(a), inputs))
        later = map_trees(
            lambda a, b: np.concatenate([a[:, :cut], b[:, cut:]], 1).astype(a.dtype), inputs, moved
        )
        got = subject.run(layer, later)
        ctx.same(
            f"output before step {cut} after inputs from step {cut} on were changed",
            map_trees(lambda a: a[:, :cut], got.output),
            map_trees(lambda a: a[:, :cut], base.output),
        )
        first = map_trees(
            lambda a, b: np.concatenate([b[:, :1], a[:, 1:]], 1).astype(a.dtype), inputs, moved
        )
        changed = subject.run(layer, first)
        pairs = pair_leaves(changed.output, base.output)
        remembered.append(any(np.any(a[:, 1:] != b[:, 1:]) for a, b in pairs))
        # The output of a cell need not read its states; then they alone remember.
        pairs = pair_leaves(changed.states or [], base.states or [])
        remembered.append(any(np.any(a != b) for a, b in pairs))
        seen[:] = [base.states, changed.states]

    for subject in ctx.cases():
        ctx.each(subject, Space(values=["normal"]), body, ctx.profile.examples // 2)
        ctx.require(
            any(remembered),
            "neither later outputs nor the states depend on the first input",
            Claim("differ", leaves(seen[0]), leaves(seen[1])),
        )


@check("SEQ-09")
def chunks_by_returned_states(ctx: Context) -> None:
    """Cut a sequence in two and hand the states over."""

    def body(subject: Subject, example: Example) -> None:
        inputs, states = subject.inputs(example), subject.states(example)
        layer, tolerance = subject.layer(**SEQUENCES), subject.tolerance(example.time)
        whole = subject.run(layer, inputs, states)
        outputs, start = [], 0
        for length in example.split:
            stop = start + length
            part = subject.run(layer, map_trees(lambda a: a[:, start:stop], inputs), states)  # noqa: B023
            outputs.append(part.output)
            states, start = part.states, stop
        joined = map_trees(lambda *parts: np.concatenate(parts, axis=1), outputs[0], *outputs[1:])
        ctx.close("output in chunks", joined, whole.output, tolerance)
        ctx.close("state after the chunks", states, whole.states, tolerance)

    for subject in ctx.cases():
        space = Space(splits=[(2, 3), (3, 2), (1, 3, 1)])
        ctx.each(subject, space, body, ctx.profile.examples // 2)


@check("SEQ-10")
def backwards(ctx: Context) -> None:
    """Compare go_backwards with the reversed sequence."""

    def body(subject: Subject, example: Example) -> None:
        options = dict(example.options)
        inputs, states = subject.inputs(example), subject.states(example)
        got = subject.run(subject.layer(go_backwards=True, **options), inputs, states)
        reversed_inputs = map_trees(lambda a: a[:, ::-1].copy(), inputs)
        want = subject.run(subject.layer(**options), reversed_inputs, states)
        tolerance = subject.tolerance(example.time)
        ctx.close("output", got.output, want.output, tolerance)
        ctx.close("state", got.states, want.states, tolerance)

    for subject in ctx.cases():
        space = Space(options=[SEQUENCES, {"return_sequences": False}])
        ctx.each(subject, space, body, ctx.profile.examples // 2)


UNROLLED: list[dict[str, Any]] = [
    {"unroll": True, "return_sequences": True, "go_backwards": True},
    {"unroll": True, "return_sequences": True, "zero_output_for_mask": True},
    {"unroll": True, "return_sequences": False, "zero_output_for_mask": True, "go_backwards": True},
]


@check("SEQ-11")
def unrolled(ctx: Context) -> None:
    """Compare the unrolled loop with the oracle, which all loops must equal."""
    for subject in ctx.cases():
        few = ctx.profile.examples // 2
        plain = Space(shapes=[(3, 3)], options=UNROLLED[:1])
        ctx.each(subject, plain, ctx.agrees, few)
        if "masking" in ctx.target.traits:
            every = (*EVERY, "all_masked")
            masked = Space(shapes=[(3, 3)], masks=every, options=UNROLLED, crossed=True)
            ctx.each(subject, masked, ctx.agrees, few)


@check("SEQ-12")
def one_model_for_all_lengths(ctx: Context) -> None:
    """Run one model with unknown batch and time on two shapes."""
    for subject in ctx.cases():
        symbolic = subject.symbolic_inputs()
        layer = subject.fresh_layer(**SEQUENCES)
        output, _ = subject.split(layer, layer(symbolic))
        model = keras.Model(symbolic, output)
        for batch, time in ((2, 3), (5, 7)):
            example = Example(batch, time, seed=ctx.seed, options=SEQUENCES)
            inputs = subject.inputs(example)
            got = backend.to_numpy(model.predict_on_batch(inputs))
            want = subject.expect(inputs)
            ctx.close(
                f"output for {batch} rows and {time} steps",
                got,
                want.sequence,
                subject.tolerance(time),
            )


@check("SEQ-13")
def ranks_of_inputs(ctx: Context) -> None:
    """Give inputs a further axis, and compare the ranks that are claimed with the inputs'."""
    claimed = {int(t[5:]) for t in ctx.target.traits if t.startswith("rank:")}
    for subject in ctx.cases():
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        ranks = {leaf.ndim for leaf in leaves(inputs)}
        ctx.require(claimed <= ranks, f"claimed are inputs of rank {claimed}, they have {ranks}")
        layer = subject.layer(**SEQUENCES)
        subject.run(layer, inputs)
        deeper = map_trees(lambda a: np.repeat(a[..., None], 2, axis=-1), inputs)
        ctx.raises("inputs with one axis too many", lambda s=subject, la=layer: s.run(la, deeper))  # noqa: B023


@check("SEQ-14")
def layouts_of_arrays(ctx: Context) -> None:
    """Pass NumPy arrays in other layouts than the plain one."""
    for subject in ctx.cases():
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        layer = subject.layer(**SEQUENCES)
        want = subject.run(layer, inputs)
        for form, change in LAYOUTS.items():
            passed = map_trees(change, inputs)
            before = map_trees(np.copy, passed)
            got = subject.unpack(layer, layer(passed))
            ctx.examples += 1
            ctx.close(f"output for {form}", got.output, want.output, subject.tolerance(5))
            ctx.close(f"state for {form}", got.states, want.states, subject.tolerance(5))
            ctx.same(f"inputs after the call with {form}", passed, before)


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS: dict[str, Any] = {
    "an array in Fortran order": np.asfortranarray,
    "an array that is read-only": _read_only,
    "every second step of an array": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "an array that is walked backwards": lambda a: a[:, ::-1].copy()[:, ::-1],
}


@check("SEQ-15")
def integer_inputs(ctx: Context) -> None:
    """Pass integers and bools: they are cast, or refused by name."""
    for subject in ctx.cases():
        rng = np.random.default_rng([ctx.seed, 3])
        drawn = subject.inputs(Example(3, 5, seed=ctx.seed))
        layer = subject.layer(**SEQUENCES)
        for dtype in ("int32", "uint8", "bool"):
            whole = map_trees(lambda a, d=dtype: rng.integers(0, 2, a.shape).astype(d), drawn)  # noqa: B023
            if ctx.target.draw_inputs is not None:
                valid = subject.valid_inputs(map_trees(lambda a: a.astype(np.float32), whole))
                if any(np.any(a != b) for a, b in pair_leaves(whole, valid)):
                    raise NotApplicable("the cell takes no zeros and ones as they are")
            want = subject.run(layer, map_trees(lambda a: a.astype(np.float32), whole))
            ctx.examples += 1
            try:
                got = subject.run(layer, whole)
            except Exception as error:  # noqa: BLE001 (each backend has types of its own)
                named = dtype in str(error)
                ctx.require(
                    named, f"inputs of {dtype} are refused without naming the dtype: {error}"
                )
                continue
            tolerance = subject.tolerance(5)
            ctx.close(f"output for inputs of {dtype}", got.output, want.output, tolerance)
            ctx.close(f"state for inputs of {dtype}", got.states, want.states, tolerance)


@check("SEQ-16")
def scan_is_the_loop(ctx: Context) -> None:
    """Ask for the parallel scan: a linear cell gives the same by it, another cell is refused."""
    if "engine" not in inspect.signature(ctx.layer.__init__).parameters:
        raise NotApplicable("the layer has no engines to choose from")
    masking = "masking" in ctx.target.traits
    for subject in itertools.islice(ctx.cases(), 1):
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        mask = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=bool)
        if "linear" not in ctx.target.traits:
            ctx.raises(
                "engine='scan' for a cell that does not claim 'linear'",
                lambda s=subject: s.run(s.layer(engine="scan", **SEQUENCES), inputs),  # noqa: B023
            )
            continue
        for given in (None, mask) if masking else (None,):
            want = subject.run(subject.layer(engine="loop", **SEQUENCES), inputs, mask=given)
            got = subject.run(subject.layer(engine="scan", **SEQUENCES), inputs, mask=given)
            ctx.examples += 1
            ctx.close("output by scan", got.output, want.output, subject.tolerance(5))
            ctx.close("state by scan", got.states, want.states, subject.tolerance(5))


def _at(tree: Tree, step: int) -> Tree:
    return map_trees(lambda a: a[:, step], tree)


def _rows(tree: Tree, rows: list[int]) -> Tree:
    return map_trees(lambda a: a[rows], tree)


def _other_rows(array: np.ndarray) -> np.ndarray:
    """Change all rows but the first."""
    changed = array.copy()
    changed[1:] = ~changed[1:] if array.dtype == bool else changed[1:] * 2 + 1
    return changed


def _moved(array: np.ndarray) -> np.ndarray:
    """Change every entry."""
    return ~array if array.dtype == bool else array + array.dtype.type(1)


def _beside(tree: Tree, changed: Tree) -> Tree:
    """Put the first row back beside changed ones."""
    return map_trees(lambda a, b: np.concatenate([a[:1], b[1:]]).astype(a.dtype), tree, changed)


def _changed_states(subject: Subject, states: Tree) -> Tree:
    """Give other states than these, as far as the cell may have them."""
    if subject.target.spec is not None:
        return subject.valid_states(map_trees(_other_rows, states))
    rows = leaves(states)[0].shape[0] if leaves(states) else 0
    return subject.random_states(Example(rows, 1, seed=4321)) if rows else states


def _as_float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float64 else array
