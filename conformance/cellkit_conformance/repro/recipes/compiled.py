"""CMP and DEV: the same numbers compiled, counted, and on another device."""

from __future__ import annotations

import re

import numpy as np

from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.repro.literals import plain_array
from cellkit_conformance.repro.recipes.common import (
    inputs_of,
    last,
    layer_and_inputs,
    layer_of,
    limit_of,
    make,
    recipe,
)
from cellkit_conformance.repro.writer import Writer
from cellkit_conformance.subject.record import Values


@recipe("CMP-01", alone=True)
def _compiled(w: Writer) -> None:
    call = last(w, "layer")
    layer, inputs = layer_and_inputs(w, call)
    states = w.data("states", call.states)
    mask = "None" if call.mask is None else w.data("mask", np.asarray(call.mask))
    given = "initial_state=s" if call.mask is None else "initial_state=s, mask=m"
    w.import_backend()
    w.lines(
        f"eager = lambda x, s, m: {layer}(x, {given})",
        f"want = eager({inputs}, {states}, {mask})",
    )
    if w.backend == "jax":
        w.lines(
            "def run(trainable, others, x, s, m):",
            f"    return {layer}.stateless_call(trainable, others, x, {given})[0]",
            "",
            "",
            f"kinds = {layer}.trainable_variables, {layer}.non_trainable_variables",
            "values = [[variable.value for variable in kind] for kind in kinds]",
            f"got = jax.jit(run)(*values, {inputs}, {states}, {mask})",
            f"close(got, want, {limit_of(w)!r})",
        )
    elif w.backend == "tensorflow":
        w.lines(
            "for xla in (False, True):",
            "    compiled = tf.function(eager, jit_compile=xla)",
            "    print('with XLA' if xla else 'as a graph')",
            f"    close(compiled({inputs}, {states}, {mask}), want, {limit_of(w)!r})",
        )
    else:
        w.lines(
            f"got = torch.compile(eager)({inputs}, {states}, {mask})",
            f"close(got, want, {limit_of(w)!r})",
        )


@recipe("CMP-02", alone=True)
def _traced(w: Writer) -> None:
    if w.backend == "jax":
        cls = w.name_of_class(type(w.subject.layer()))
        w.lines(f"cell = {w.make()}", f"layer = {cls}(cell, return_sequences=True)")
        inputs, more = inputs_of(w, time=3), inputs_of(w, time=3, seed=1)
        w.imports.add("import inspect")
        w.lines(
            "traced, step = [], cell.call",
            "",
            "",
            "def counted(*args, **kwargs):",
            "    traced.append(1)",
            "    return step(*args, **kwargs)",
            "",
            "",
            "counted.__signature__ = inspect.signature(step)",
            "object.__setattr__(cell, 'call', counted)",
            f"layer({inputs})",
            "count = len(traced)",
            f"layer({inputs})",
            f"layer({more})",
            "count = len(traced) - count",
            "assert count == 0, f'two further calls of one shape traced the cell {count} times'",
        )
        return
    layer = layer_of(w)
    wrong = re.search(r"output of (\d+) steps", w.result.message)
    time = int(wrong[1]) if wrong else 5
    names = [inputs_of(w, time=3)] + ([inputs_of(w, time=time)] if time != 3 else [])
    w.import_backend()
    w.lines(
        "traces = []",
        "form = lambda x: tf.TensorSpec((3, None, *x.shape[2:]), x.dtype)",
        "",
        "",
        f"@tf.function(input_signature=[keras.tree.map_structure(form, {names[0]})])",
        "def run(x):",
        "    traces.append(1)",
        f"    return {layer}(x)",
        "",
        "",
        *(f"result = run({name})" for name in names),
        "assert len(traces) == 1, f'traced {len(traces)} times'",
    )
    values = w.context.evidence
    if wrong and isinstance(values, Values):
        wanted = f"want = {plain_array(values.want.astype(np.float32))}  # by the loop in NumPy"
        w.lines(
            wanted,
            "fits = [y for y in keras.tree.flatten(result[0]) if y.shape == want.shape]",
            "assert fits, [y.shape for y in keras.tree.flatten(result[0])]",
            "error = min(np.abs(y.numpy() - want).max() for y in fits)",
            f"assert error < {limit_of(w)!r} * max(1, np.abs(want).max()), error",
        )


@recipe("CMP-03", alone=True)
def _counted(w: Writer) -> None:
    cls = w.name_of_class(w.context.target.cls)
    inputs = inputs_of(w, time=3)
    made = w.make().replace(f"{cls}(", "Counting(", 1)
    w.lines(
        f"class Counting({cls}):",
        "    def build(self, input_shape):",
        "        super().build(input_shape)",
        "        options = {'dtype': 'int32', 'initializer': 'zeros', 'trainable': False}",
        "        self.count = self.add_weight(shape=(), name='count', **options)",
        "",
        "    def call(self, inputs, states, training=False):",
        "        self.count.assign(self.count.value + 1)",
        "        return super().call(inputs, states)",
        "",
        "",
        f"layer = {w.name_of_class(type(w.subject.layer()))}({made}, return_sequences=True)",
        f"layer({inputs})",
        "before = int(layer.cell.count.value)",
        f"layer({inputs})",
        "steps = int(layer.cell.count.value) - before",
        "assert steps == 3, f'a call of 3 steps ran what a step does {steps} times'",
    )


def _device(w: Writer) -> str:
    """Find the device that a message speaks of, and have it there in a new process."""
    from cellkit_conformance.places import devices

    message = w.result.message.lower().rpartition("the input on ")[2]
    said = [name for name in devices() if name in message]
    device = said[0] if said else devices()[-1]
    w.two_processors = w.two_processors or device.startswith("cpu:")
    return device


def _there(w: Writer, device: str, inputs: str) -> None:
    """Make a second layer on a device, within the device's scope."""
    cls = w.name_of_class(type(w.subject.layer()))
    w.lines(
        f"numpy = keras.tree.map_structure(keras.ops.convert_to_numpy, {inputs})",
        f"with keras.device({device!r}):",
        "    x = keras.tree.map_structure(keras.ops.convert_to_tensor, numpy)",
        f"    there = {cls}(make(), return_sequences=True, return_state=True)",
        "    result = there(x)",
    )


@recipe("DEV-01", alone=True)
def _devices(w: Writer) -> None:
    device = _device(w)
    make(w)
    layer, inputs = layer_of(w), inputs_of(w)
    slopes = "gradient" in w.result.message
    if slopes:
        w.import_backend()
        w.lines(f"want = gradients({layer}, {inputs}, None)")
    w.lines(f"here = {layer}({inputs})")
    _there(w, device, inputs)
    w.lines(
        f"    there.set_weights({layer}.get_weights())",
        "    result = there(x)",
        *(["    found = gradients(there, x, None)"] if slopes else []),
        f"close(result, here, {limit_of(w)!r})",
    )
    if slopes:
        w.lines(
            "for name, one, other in zip(want, want.values(), found.values()):",
            "    error = np.abs(one - other).max() / max(1, np.abs(one).max())",
            f"    assert error <= {limit_of(w)!r}, f'the error by {{name}} is {{error}}'",
        )


@recipe("DEV-04", alone=True)
def _stays(w: Writer) -> None:
    device = _device(w)
    make(w)
    inputs = w.data("inputs", w.subject.inputs(Example(3, 5, seed=w.context.seed)))
    _there(w, device, inputs)
    w.lines(
        "    states = there.get_initial_state(batch_size=3)",
        "place = lambda leaf: str(leaf.device() if callable(leaf.device) else leaf.device)",
        "places = {place(leaf) for leaf in keras.tree.flatten([list(result), states])}",
        "inputs_at = {place(leaf) for leaf in keras.tree.flatten(x)}",
        "assert places == inputs_at, f'{places}, and the inputs are on {inputs_at}'",
    )
