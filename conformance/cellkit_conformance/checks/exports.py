"""EXP: a file that was exported gives the layer's numbers where cellkit is not to be had."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from cellkit_conformance.checks import check
from cellkit_conformance.checks.context import Context
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.subject import backend, exports
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import map_trees

ROWS, TIME = 3, 7

FORMS = {
    "EXP-01": "onnx",
    "EXP-02": "saved_model",
    "EXP-03": "litert",
    "EXP-04": "openvino",
    "EXP-05": "pt2",
    "EXP-06": "torchscript",
    "EXP-07": "stablehlo",
}
"""The format of each requirement, as `exports` calls it."""


def _exported(form: str) -> Callable[[Context], None]:
    """Return the check of a format."""

    def compare(ctx: Context) -> None:
        if form not in exports.FORMATS:
            name = exports.NAMES.get(form, form)
            raise NotApplicable(f"Keras writes no file of the format {name!r} on {exports.BACKEND}")
        if absent := exports.missing(form):
            raise NotApplicable(f"not installed here: {', '.join(absent)}")
        for subject in itertools.islice(ctx.cases(), 1):
            ctx.examples += 1
            _compare(ctx, subject, form)

    compare.__doc__ = f"Write a {form} file, run it in a process without cellkit, and compare."
    return compare


def _compare(ctx: Context, subject: Subject, form: str) -> None:
    inputs = subject.inputs(Example(ROWS, TIME, seed=ctx.seed))
    layer = subject.fresh_layer(return_sequences=True, return_state=False)
    arrays = [np.asarray(a) for a in keras.tree.flatten(inputs)]
    # LiteRT has no order of inputs but that of their names.
    symbolic = [
        keras.Input(batch_shape=a.shape, dtype=str(a.dtype), name=f"a{number}")
        for number, a in enumerate(arrays)
    ]
    given: dict[str, Any] = {}
    mask = None
    if "masking" in ctx.target.traits:
        mask = np.arange(TIME)[None] < np.array([[TIME], [TIME - 2], [1]])
        given["mask"] = keras.Input(batch_shape=mask.shape, dtype="bool", name="b")
    outputs = layer(keras.tree.pack_sequence_as(inputs, symbolic), **given)
    model = keras.Model([*symbolic, *given.values()], keras.tree.flatten(outputs))
    arrays = arrays if mask is None else [*arrays, mask]
    given = {} if mask is None else {"mask": backend.to_tensor(mask)}
    want = [
        backend.to_numpy(y)
        for y in keras.tree.flatten(layer(map_trees(backend.to_tensor, inputs), **given))
    ]
    runtime = exports.Runtime()
    try:
        with tempfile.TemporaryDirectory() as folder, exports.seen("tensorflow"):
            path = exports.write(model, form, folder, arrays)
            got = runtime.run(form, path, arrays)
    finally:
        runtime.close()
    ctx.close("output of the file", got, want, subject.tolerance(TIME))


for _id, _form in FORMS.items():
    check(_id)(_exported(_form))
