"""CMP and DEV: the same numbers compiled, counted, and on another device."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import keras
import numpy as np

from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.checks.differentiate import close_gradient, gradients
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.places import devices
from cellkit_conformance.subject import backend
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import leaves, map_trees

SEQUENCES = {"return_sequences": True}


@check("CMP-01")
def compiled_equals_eager(ctx: Context) -> None:
    """Run the layer inside what this backend compiles with."""
    name = keras.backend.backend()
    if name == "torch" and ctx.profile.name != "thorough":
        raise NotApplicable("torch.compile takes minutes: the thorough profile runs it")
    for subject in itertools.islice(ctx.cases(), 1):
        example = Example(3, 5, seed=ctx.seed, initial_state=True)
        inputs, states = subject.inputs(example), subject.random_states(example)
        rows = [[1, 1, 0, 1, 0], [0, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
        mask = np.array(rows, dtype=bool) if "masking" in ctx.target.traits else None
        layer = subject.layer(**SEQUENCES)
        want = subject.run(layer, inputs, states, mask)
        tolerance = subject.tolerance(example.time)
        for xla in (False, True) if name == "tensorflow" else (False,):
            compiled = backend.call_compiled(layer, inputs, states, mask, xla=xla)
            got, how = subject.unpack(layer, compiled), "XLA" if xla else "compiled"
            ctx.examples += 1
            ctx.close(f"output, {how},", got.output, want.output, tolerance)
            ctx.close(f"state, {how},", got.states, want.states, tolerance)


@check("CMP-02")
def traced_once(ctx: Context) -> None:
    """Count how often a step is traced: by lengths on TensorFlow, by calls on JAX."""
    name = keras.backend.backend()
    if name not in ("tensorflow", "jax"):
        raise NotApplicable(f"{name} traces nothing when it runs eagerly")
    for subject in itertools.islice(ctx.cases(), 1):
        layer = subject.fresh_layer(**SEQUENCES)
        inputs = subject.inputs(Example(3, 3, seed=ctx.seed))
        calls = _count_calls(layer.cell)
        subject.run(layer, inputs)
        if name == "jax":
            first = len(calls)
            for number in range(2):
                again = subject.inputs(Example(3, 3, seed=ctx.seed + number))
                subject.run(layer, again)
            count = len(calls) - first
            ctx.require(count == 0, f"two further calls of one shape traced the cell {count} times")
            continue
        import tensorflow as tf

        traces: list[int] = []
        signature = map_trees(lambda a: tf.TensorSpec((3, None, *a.shape[2:]), a.dtype), inputs)

        def run(x: Any) -> Any:
            traces.append(1)  # noqa: B023 (used up within the turn)
            return layer(x)  # noqa: B023

        function = tf.function(run, input_signature=[signature])
        for time in (3, 4, 5):
            data = subject.inputs(Example(3, time, seed=ctx.seed))
            got = subject.unpack(layer, function(map_trees(backend.to_tensor, data)))
            want = subject.expect(data)
            ctx.close(f"output of {time} steps", got.output, want.sequence, subject.tolerance(time))
        ctx.require(len(traces) == 1, f"three lengths were traced {len(traces)} times")


def _count_calls(cell: Any) -> list[int]:
    """Count from now on how often a cell's step runs in Python."""
    calls: list[int] = []
    step = cell.call
    signature = inspect.signature(step)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return step(*args, **kwargs)

    counted.__signature__ = signature  # type: ignore[attr-defined]  # layers read it
    object.__setattr__(cell, "call", counted)
    return calls


@check("CMP-03")
def steps_are_counted_once(ctx: Context) -> None:
    """Let a variant of the cell count its steps in a variable, eager and compiled."""
    cls = ctx.target.cls
    if not (isinstance(cls, type) and issubclass(cls, keras.layers.Layer)):
        raise NotApplicable("a plain object has no variables")
    for subject in itertools.islice(ctx.cases(), 1):
        cell = _counting(cls)(**subject.kwargs)
        layer = subject.make_layer(cell, return_sequences=True)
        inputs = subject.inputs(Example(3, 3, seed=ctx.seed))
        x = map_trees(backend.to_tensor, inputs)
        layer(x)
        before = int(backend.to_numpy(cell.steps_counted.value))
        layer(x)
        after = int(backend.to_numpy(cell.steps_counted.value))
        ctx.require(
            after - before == 3, f"a call of 3 steps ran what a step does {after - before} times"
        )


def _counting(cls: type) -> type:
    """Derive a cell that counts its steps in a variable that does not train."""

    class Counting(cls):
        def build(self, input_shape: Any) -> None:
            super().build(input_shape)
            self.steps_counted = self.add_weight(
                shape=(), dtype="int32", initializer="zeros", trainable=False, name="steps_counted"
            )

        def call(self, *args: Any, **kwargs: Any) -> Any:
            self.steps_counted.assign(self.steps_counted.value + 1)
            return super().call(*args, **kwargs)

    Counting.__name__ = f"Counting{cls.__name__}"
    # Keras asks the signature which arguments a step takes.
    Counting.call.__signature__ = inspect.signature(cls.call)  # type: ignore[attr-defined]
    return Counting


@check("DEV-01")
def devices_agree(ctx: Context) -> None:
    """Run outputs, states and gradients on every device, and compare with the first."""
    others = _other_devices()
    for subject in itertools.islice(ctx.cases(), 1):
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        want = subject.run(subject.layer(**SEQUENCES), inputs)
        slopes = gradients(subject, inputs, None)
        weights = subject.layer(**SEQUENCES).get_weights()
        for device in others:
            with keras.device(device):
                twin = Subject(ctx.target, subject.case, ctx.layer)
                layer = twin.layer(**SEQUENCES)
                twin.run(layer, inputs)
                layer.set_weights(weights)
                got = twin.run(layer, inputs)
                there = gradients(twin, inputs, None)
            tolerance = subject.tolerance(5)
            ctx.examples += 1
            ctx.close(f"output on {device}", got.output, want.output, tolerance)
            ctx.close(f"state on {device}", got.states, want.states, tolerance)
            for (name, a), (_, b) in zip(there.items(), slopes.items(), strict=True):
                if a is not None and b is not None:
                    close_gradient(ctx, subject, f"gradient of {name} on {device}", a, b)


@check("DEV-04")
def results_stay_on_the_device(ctx: Context) -> None:
    """Ask where outputs and states live."""
    others = _other_devices()
    for subject in itertools.islice(ctx.cases(), 1):
        inputs = subject.inputs(Example(3, 5, seed=ctx.seed))
        for device in others:
            with keras.device(device):
                twin = Subject(ctx.target, subject.case, ctx.layer)
                layer = twin.layer(**SEQUENCES)
                x = map_trees(backend.to_tensor, inputs)
                result = leaves(list(layer(x)))
                own = leaves(layer.get_initial_state(batch_size=3))
            where = _device_of(leaves(x)[0])
            for what, found in (("a result", result), ("an initial state", own)):
                there = {_device_of(leaf) for leaf in found}
                ctx.require(there == {where}, f"{what} is on {there}, the input on {where}")


def _device_of(tensor: Any) -> str:
    device = tensor.device
    return str(device() if callable(device) else device)


def _other_devices() -> list[str]:
    """List every device but the first CPU."""
    others = devices()[1:]
    if not others:
        raise NotApplicable("this backend reports one device only")
    return others
