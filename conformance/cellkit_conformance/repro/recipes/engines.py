"""DEV and GRD: one layer whose loop runs in two ways."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from cellkit.engines import NAMES
from cellkit_conformance.outcome import Outcome
from cellkit_conformance.repro.recipes.common import (
    differentiate,
    inputs_of,
    last,
    limit_of,
    recipe,
)
from cellkit_conformance.repro.writer import NoScript, Writer
from cellkit_conformance.subject.record import Call
from cellkit_conformance.trees import leaves

IN_GRAPH = """\
def differentiate(function, arrays):
    @tf.function(autograph=False)
    def run(*xs):
        with tf.GradientTape() as tape:
            tape.watch(xs)
            value = function(xs)
        return tape.gradient(value, xs, unconnected_gradients="zero")

    return [tf.convert_to_tensor(g).numpy() for g in run(*map(tf.constant, arrays))]
"""


@recipe("DEV-02", alone=True)
def _engines(w: Writer) -> None:
    call = last(w, "gradient")
    if w.backend == "tensorflow":  # some engines run in graphs alone
        w.import_backend()
        w.helpers["differentiate"] = IN_GRAPH
        w.lines(f"tf.function(lambda: {w.expression(call)})()")
    if w.result.outcome is Outcome.ERROR:
        differentiate(w, call)
        return
    direction = call.layer.go_backwards
    _compare(w, call, lambda layer: layer.engine == "loop" and layer.go_backwards == direction)


@recipe("GRD-12", alone=True)
def _recomputed(w: Writer) -> None:
    call = last(w, "gradient")
    if w.result.outcome is Outcome.ERROR:
        differentiate(w, call)
        return
    _compare(w, call, lambda layer: not layer.remat)


def _compare(w: Writer, call: Call, is_plain: Callable[[Any], bool]) -> None:
    """Compare results and gradients of a call with those of the plain layer on the same data."""
    gradients = [c for c in w.calls if c.kind == "gradient" and is_plain(c.layer)]
    if not gradients:
        raise NoScript("the plain layer was not differentiated")
    plain = gradients[-1]
    one, other = w.expression(call), w.expression(plain)
    if w.backend == "tensorflow":
        one, other = (f"tf.function(lambda: {text})()" for text in (one, other))
    w.import_backend()
    w.lines(f"close({one}, {other}, {limit_of(w)!r})")
    differentiate(w, call)
    differentiate(w, plain, "want")
    _close_gradients(w)


def _close_gradients(w: Writer) -> None:
    w.lines(
        "for name, gradient in want.items():",
        "    error = np.abs(found[name] - gradient).max() / max(1, np.abs(gradient).max())",
        f"    assert error <= {limit_of(w)!r}, f'gradient by {{name}}: the error is {{error}}'",
    )


@recipe("GRD-13")
def _truncated(w: Writer) -> None:
    calls = [call for call in w.calls if call.kind == "gradient"]
    if len(calls) < 2:
        raise NoScript("it stopped before the gradients")
    whole, block = calls[-2:]
    differentiate(w, whole)
    differentiate(w, block, "want")
    w.lines(
        f"first = {_steps(whole) - _steps(block)}  # steps before the last block",
        "for name, gradient in found.items():",
        "    if name.startswith('state'):",
        "        assert not gradient.any(), f'the gradient reaches {name} through a cut'",
        "    elif name.startswith('input'):",
        "        assert not gradient[:, :first].any(), f'it reaches the first block of {name}'",
        "        found[name] = gradient[:, first:]",
        "want = {name: g for name, g in want.items() if not name.startswith('state')}",
    )
    _close_gradients(w)


def _steps(call: Call) -> int:
    return int(leaves(call.inputs)[0].shape[1])


@recipe("DEV-03", alone=True)
def _told(w: Writer) -> None:
    asked = re.search(r"engine='(\w+)'", w.result.message)
    if asked is None:
        raise NoScript("the message names no engine")
    name, cls = asked[1], w.name_of_class(type(w.subject.layer()))
    cell, inputs = w.cell(), inputs_of(w)
    w.lines(
        f"layer = {cls}({cell}, engine={name!r}, return_sequences=True)",
        "try:",
        f"    layer({inputs})",
        "except ValueError as error:",
        f"    assert {name!r} not in ('auto', 'loop') and {repr(name)!r} in str(error), error",
        "else:",
        "    report = layer.engine_report()",
        f"    assert {name!r} in ('auto', report.engine), report",
        f"    others = set({NAMES!r}) - {{report.engine}}",
        "    assert set(report.reasons) == others and all(report.reasons.values()), report",
    )
