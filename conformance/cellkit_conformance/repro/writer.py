"""The writer of reproduction scripts: what was recorded, as the lines of a program.

A script sets `KERAS_BACKEND`, imports the cell, gives it literal weights, makes the calls that the
check made with literal arrays, and ends with an assertion. What was computed is found again among
the recorded calls by its values; what was expected is another call of the script, or a literal that
the oracle computed. Checks that compare no arrays have a recipe (see `recipes`).
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cellkit_conformance.checks.context import Context
from cellkit_conformance.edition import edition_name, requirements
from cellkit_conformance.outcome import Outcome, Result
from cellkit_conformance.places import CPU, backend_of, device_of
from cellkit_conformance.repro.helpers import needed
from cellkit_conformance.repro.literals import access, equal, is_literal, plain_array, tensor
from cellkit_conformance.subject.record import Call, Refusal, Values
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import Tree, children, difference, is_branch, map_trees, paths

OPTIONS = (
    "return_sequences",
    "return_state",
    "go_backwards",
    "stateful",
    "unroll",
    "zero_output_for_mask",
)
"""Options of a layer that a script passes on; all of them are off by default."""

OTHER_OPTIONS = {"engine": "auto", "remat": False, "truncate_gradient": None}
"""Further options, with their defaults."""

_RESULT = re.compile(r"RESULT<(\d+)>")

LONG = 20
"""Steps from which on a run is cut down to the first that is wrong."""


class NoScript(Exception):
    """This failure cannot be written as a script; the text says why."""


class Writer:
    """Collects the lines of one script.

    Args:
        result: The failure.
        context: Of the check that failed.
    """

    def __init__(self, result: Result, context: Context) -> None:
        self.result = result
        self.context = context
        self.subject = _last_subject(context)
        self.calls: list[Call] = list(self.subject.calls)
        self.imports = {"import os", "import keras", "import numpy as np"}
        self.paths: list[str] = []
        self.body: list[str] = []
        self.helpers: dict[str, str] = {}
        self._names: dict[int, str] = {}
        self._results: dict[int, str] = {}
        self._layers: dict[int, str] = {}
        self._has_cell = False
        self.backend = backend_of(result.backend)
        self.double = False  # whether JAX has to know float64
        self.two_processors = device_of(result.backend).startswith("cpu:")

    def text(self) -> str:
        """Put the script together."""
        requirement = requirements()[self.result.requirement]
        head = (
            f"{self.result.requirement} for {self.result.cell} on {self.result.backend} "
            f"(cellkit conformance, edition {edition_name()})\n\n"
            f"{_wrap('Must hold', requirement.sentence)}\n{_wrap('Found', self.result.message)}\n"
        )
        body = "\n".join(self.body)
        helpers = needed(body, self.backend, self.helpers)
        if self.two_processors and self.backend == "tensorflow":
            self.import_backend()
        first = {"import os", *(["import sys"] if self.paths else [])}
        found = sorted(self.imports - first, key=lambda line: line.split()[1].lower())
        lines = [
            f'"""{head}"""' if _is_plain(head) else repr(head),
            "",
            *sorted(first),
            "",
            f'os.environ["KERAS_BACKEND"] = "{self.backend}"',
            *(f'os.environ["{name}"] = "{value}"' for name, value in self._environment().items()),
            *(f"sys.path.insert(0, {path!r})" for path in self.paths),
            "",
            *found,
            *self._processors(),
            *self._device(),
            "",
            "",
            "",
        ]
        functions = "".join(f"{text}\n\n" for text in helpers.values())
        return "\n".join(lines) + functions + body + "\n"

    def directly(self) -> bool:
        """Write what was recorded: a call that raised, one that was accepted, or a comparison."""
        return self.by_error() or self.by_refusal() or self.by_values()

    def _environment(self) -> dict[str, str]:
        """Say what JAX has to be told before it starts."""
        if self.backend != "jax":
            return {}
        given = {}
        if self.two_processors:
            given["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
        if self.double:
            given["JAX_ENABLE_X64"] = "1"
        return given

    def _processors(self) -> list[str]:
        """Have TensorFlow make two processors of one."""
        if self.backend != "tensorflow" or not self.two_processors:
            return []
        return [
            "",
            "two = [tf.config.LogicalDeviceConfiguration()] * 2",
            'processor = tf.config.list_physical_devices("CPU")[0]',
            "tf.config.set_logical_device_configuration(processor, two)",
        ]

    def _device(self) -> list[str]:
        """Have the rest of the script run where the check ran."""
        device = device_of(self.result.backend)
        if device == CPU:
            return []
        return ["", f'device = keras.device("{device}")', "device.__enter__()"]

    # The kinds of failure ------------------------------------------------------------------------

    def by_error(self) -> bool:
        """Write a call that raised where it must not."""
        if self.result.outcome is not Outcome.ERROR:
            return False
        if (
            not self.calls
            or self.calls[-1].kind == "gradient"
            or self.calls[-1].returned is not None
        ):
            return False
        if self.calls[-1].kind == "step" and self.calls[-1].output is not None:
            return False
        self.lines("# The next call raises, and must not.")
        self.run(self.calls[-1])
        return True

    def by_refusal(self) -> bool:
        """Write a call that must raise a `ValueError`."""
        refusal = self.context.evidence
        if not isinstance(refusal, Refusal) or self.result.outcome is not Outcome.FAIL:
            return False
        if refusal.what.startswith("units="):
            value = refusal.what.removeprefix("units=")
            action = f"{self.make(units=ast.literal_eval(value))}"
        elif refusal.what.startswith("engine="):
            call, cell = self.calls[-1], self.cell()
            option = refusal.what.split()[0]
            inputs = self.data("inputs", call.inputs)
            action = f"{self.name_of_class(type(call.layer))}({cell}, {option})({inputs})"
        else:
            call = self.calls[-1]
            # A layer that has seen what is right knows what is wrong.
            fits = [c for c in self.calls[:-1] if c.layer is call.layer and c.output is not None]
            for earlier in self._before(call) or fits[:1]:
                self.run(earlier)
            action = self.expression(call)
        self.lines(
            "try:",
            f"    {action}",
            "except ValueError as error:",
            f"    for word in {list(refusal.fragments)!r}:",
            "        assert word.lower() in str(error).lower(), f'{word!r} is not in: {error}'",
            "else:",
            f"    raise AssertionError({f'accepted without an error: {refusal.what}'!r})",
        )
        return True

    def by_values(self) -> bool:
        """Write a comparison of two arrays."""
        values = self.context.evidence
        if not isinstance(values, Values):
            return False
        values = self._first_steps(self._one_row(values))
        got = self.locate(values.got)
        if got is None:
            return False
        want = self.locate(values.want, but_not=got)
        numbers = {int(n) for place in (got, want or "") for n in _RESULT.findall(place)}
        for call in self._chain([self.calls[n] for n in numbers]):
            self.run(call)
        self.lines("", f"got = {self.value(got)}")
        self.lines(f"want = {plain_array(values.want) if want is None else self.value(want)}")
        self.compare(values)
        return True

    def _one_row(self, values: Values) -> Values:
        """Cut fifty rows of one step down to the worst, if that fails alone as well."""
        call = self.calls[-1] if self.calls else None
        if call is None or call.kind != "step":
            return values
        if values.got.shape != values.want.shape or len(values.want) < 8:
            return values
        errors = np.abs(values.got - values.want).reshape(len(values.want), -1).max(axis=1)
        row = int(np.argmax(errors))
        place = next((p for p, leaf in self._parts(call) if leaf is values.got), None)
        if place is None:
            return values
        one = slice(row, row + 1)
        inputs, states = (map_trees(lambda a: a[one], t) for t in (call.inputs, call.states))
        self.subject.step_cell(inputs, states)
        alone = self.subject.calls[-1]
        got, want = dict(self._parts(alone))[place], values.want[one]
        if np.all(np.abs(got - want) <= 2 * values.limit * np.maximum(1, np.abs(want))):
            return values
        self.calls = [alone]
        return Values(got, want, values.limit)

    def _first_steps(self, values: Values) -> Values:
        """Cut a long run of a layer down to the first step that is wrong, if it fails then too."""
        call = self.calls[-1] if self.calls else None
        if call is None or call.kind != "layer" or values.got.shape != values.want.shape:
            return values
        place = next((p for p, leaf in self._parts(call) if leaf is values.got), None)
        options = getattr(call.layer, "go_backwards", False), getattr(call.layer, "stateful", False)
        long = values.got.ndim > 1 and values.got.shape[1] > LONG
        if place is None or not long or call.mask is not None or any(options):
            return values
        wrong = np.abs(values.got - values.want) > values.limit * np.maximum(1, np.abs(values.want))
        wrong = wrong.reshape(*wrong.shape[:2], -1).any(axis=2)
        step = int(np.argmax(wrong.any(axis=0)))
        rows = slice(int(np.argmax(wrong[:, step])), int(np.argmax(wrong[:, step])) + 1)
        inputs = map_trees(lambda a: a[rows, : step + 1], call.inputs)
        states = None if call.states is None else map_trees(lambda a: a[rows], call.states)
        self.subject.run(call.layer, inputs, states, training=call.training)
        short = self.subject.calls[-1]
        got, want = dict(self._parts(short))[place][:, -1], values.want[rows, step]
        if np.all(np.abs(got - want) <= values.limit * np.maximum(1, np.abs(want))):
            return values
        self.calls = [short]
        return Values(got, want, values.limit)

    def compare(self, values: Values) -> None:
        """Add the assertion that `got` is `want`."""
        if values.got.shape != values.want.shape:
            self.lines("assert got.shape == want.shape, f'{got.shape} is not {want.shape}'")
        elif values.limit == 0.0:
            self.lines("np.testing.assert_array_equal(got, want)")
        else:
            self.lines(
                f"limit = {values.limit:.3g} * np.maximum(1, np.abs(want))",
                "error = np.abs(got - want)",
                "assert np.all(error <= limit), f'the error is {error.max()}'",
            )

    # Pieces --------------------------------------------------------------------------------------

    def lines(self, *lines: str) -> None:
        """Add lines."""
        self.body.extend(lines)

    def import_backend(self) -> None:
        """Import the backend itself."""
        self.imports.add(
            "import tensorflow as tf" if self.backend == "tensorflow" else f"import {self.backend}"
        )

    def name_of_class(self, cls: Any) -> str:
        """Import a class and return its name."""
        if cls is keras.layers.RNN:
            return "keras.layers.RNN"
        if cls.__module__.split(".")[0] == "cellkit" and cls.__name__ == "RNN":
            self.imports.add("import cellkit")
            return "cellkit.RNN"
        if "<locals>" in cls.__qualname__ or cls.__module__ == "__main__":
            raise NoScript(f"{cls.__qualname__} cannot be imported")
        first = cls.__qualname__.split(".")[0]
        self.imports.add(f"from {cls.__module__} import {first}")
        self._find_path(cls)
        return cls.__qualname__

    def make(self, **changed: Any) -> str:
        """Give the expression that makes a cell."""
        target, subject = self.context.target, self.subject
        cls = self.name_of_class(target.cls)
        kwargs = {**subject.kwargs, **changed}
        if all(is_literal(value) for value in kwargs.values()):
            return f"{cls}({', '.join(f'{key}={value!r}' for key, value in kwargs.items())})"
        case = target.cases[subject.case]
        extra = {key: value for key, value in kwargs.items() if case.get(key) is not value}
        more = "".join(f", {key!r}: {value!r}" for key, value in extra.items())
        return f"{cls}(**{{**{cls}.spec.cases[{subject.case!r}]{more}}})"

    def shapes(self) -> str:
        """Give the shapes of one step, as `build` takes them."""
        return repr(self.subject.step_shapes())

    def cell(self) -> str:
        """Define the cell with its weights, once, and return its name."""
        if self._has_cell:
            return "cell"
        self._has_cell = True
        lines = [f"cell = {self.make()}"]
        if isinstance(self.subject.cell, keras.layers.Layer):
            lines.append(f"cell.build({self.shapes()})")
            if self.subject.cell.weights:
                lines.append("weights = [")
                for variable in self.subject.cell.weights:
                    name = variable.path.partition("/")[2] or variable.name
                    value = keras.ops.convert_to_numpy(variable)
                    lines += [f"    # {name}", _indent(f"{tensor(value)},")]
                lines += [
                    "]",
                    "for variable, value in zip(cell.weights, weights, strict=True):",
                    "    variable.assign(value)",
                ]
        self.lines(*lines)
        return "cell"

    def layer(self, layer: Any) -> str:
        """Define a layer, once, and return its name."""
        if id(layer) not in self._layers:
            if getattr(layer, "cell", None) is None:
                raise NoScript(f"{type(layer).__name__} is no layer around a cell")
            self.cell()
            options = [name for name in OPTIONS if getattr(layer, name, False)]
            given = {name: getattr(layer, name, default) for name, default in OTHER_OPTIONS.items()}
            others = [f"{k}={v!r}" for k, v in given.items() if v != OTHER_OPTIONS[k]]
            arguments = ", ".join(["cell", *(f"{name}=True" for name in options), *others])
            name = "layer" if not self._layers else f"layer_{len(self._layers) + 1}"
            self.lines(f"{name} = {self.name_of_class(type(layer))}({arguments})")
            self._layers[id(layer)] = name
        return self._layers[id(layer)]

    def data(self, name: str, tree: Tree) -> str:
        """Define tensors, once, and return their name."""
        if id(tree) not in self._names:
            taken = [n for n in self._names.values() if n.split("_")[0] == name]
            full = f"{name}_{len(taken) + 1}" if taken else name
            self._names[id(tree)] = full
            self.lines(f"{full} = {self.literal(tree)}")
        return self._names[id(tree)]

    def literal(self, tree: Tree) -> str:
        """Write a structure of arrays as an expression that makes tensors."""
        if not is_branch(tree):
            return tensor(np.asarray(tree))
        entries = [(key, self.literal(child)) for key, child in children(tree)]
        if isinstance(tree, dict):
            return "{" + ", ".join(f"{key!r}: {text}" for key, text in entries) + "}"
        inner = ", ".join(text for _, text in entries)
        if isinstance(tree, tuple) and hasattr(tree, "_fields"):
            return f"{self.name_of_class(type(tree))}({inner})"
        return f"({inner},)" if isinstance(tree, tuple) else f"[{inner}]"

    def expression(self, call: Call) -> str:
        """Give the expression of a call, and define what it needs."""
        if call.kind == "step":
            cell = self.cell()
            inputs, states = self.data("x", call.inputs), self.data("states", call.states)
            method = cell if callable(self.subject.cell) else f"{cell}.call"
            return f"{method}({inputs}, {states})"
        layer = self.layer(call.layer)
        words = [self.data("inputs", call.inputs)]
        if call.states is not None:
            states = self._handed_over(call) or self.data("states", call.states)
            words.append(f"initial_state={states}")
        if call.mask is not None:
            words.append(f"mask={self.data('mask', call.mask)}")
        if call.training is not None:
            words.append(f"training={call.training}")
        return f"{layer}({', '.join(words)})"

    def _handed_over(self, call: Call) -> str | None:
        """Name the states of an earlier call, where this one starts from them."""
        for earlier in self.calls:
            if earlier.number in self._results and earlier.new_states is call.states:
                result = self._results[earlier.number]
                return f"{result}[1]" if self._is_whole(earlier) else f"{result}[1:]"
        return None

    def run(self, call: Call) -> str:
        """Add a call and return the name of its result."""
        if call.number not in self._results:
            expression = self.expression(call)
            if self._was_reset(call):
                self.lines(f"{self.layer(call.layer)}.reset_state()")
            count = len(self._results)
            name = "result" if not count else f"result_{count + 1}"
            self._results[call.number] = name
            if call.output is None and call is not self.calls[-1]:
                self.lines("try:", f"    {expression}", "except Exception as error:")
                self.lines("    print(f'refused, as it must be: {type(error).__name__}')")
            else:
                self.lines(f"{name} = {expression}")
        return self._results[call.number]

    def value(self, place: str) -> str:
        """Write a place that `locate` found with the names that the results have."""
        return _RESULT.sub(lambda m: self._results[self.calls[int(m[1])].number], place)

    # Finding values ------------------------------------------------------------------------------

    def locate(self, array: np.ndarray, but_not: str | None = None) -> str | None:
        """Find an array among what the calls returned.

        Args:
            array: What was compared.
            but_not: A place that does not count.

        Returns:
            An expression in which RESULT<3> stands for the result of call 3; None where the array
            is not found.
        """
        places = [
            (f"keras.ops.convert_to_numpy(RESULT<{number}>{path})", leaf, call.mask)
            for number, call in reversed(list(enumerate(self.calls)))
            for path, leaf in self._parts(call)
        ]
        for place, leaf, _ in places:
            if leaf is array and place != but_not:
                return place
        if array.size == 0 or not np.any(array):
            return None  # zeros are everywhere
        for place, leaf, mask in places:
            for suffix, part in _pieces(leaf, mask):
                if place + suffix != but_not and equal(part, array):
                    return place + suffix
        return self._locate_joined(array)

    def _locate_joined(self, array: np.ndarray) -> str | None:
        """Find an array as the outputs of the last few calls, one behind the other in time."""
        for first in range(len(self.calls) - 2, -1, -1):
            numbers = range(first, len(self.calls))
            parts = [dict(self._parts(self.calls[n])) for n in numbers]
            for path in parts[0]:
                chunks = [part[path] for part in parts if path in part]
                if len(chunks) < len(parts) or any(np.ndim(chunk) < 2 for chunk in chunks):
                    continue
                if len({chunk.shape[:1] + chunk.shape[2:] for chunk in chunks}) > 1:
                    continue
                if equal(np.concatenate(chunks, axis=1), array):
                    inner = ", ".join(f"RESULT<{n}>{path}" for n in numbers)
                    joined = f"keras.ops.concatenate([{inner}], axis=1)"
                    return f"keras.ops.convert_to_numpy({joined})"
        return None

    def _parts(self, call: Call) -> Iterator[tuple[str, np.ndarray]]:
        """List the arrays that a call returned, with the expression behind the result."""
        if call.output is None or (call.kind == "step" and call.layer is not self.subject.cell):
            return
        if call.kind == "step":
            yield from (
                (f"[0]{access(tree, path)}", leaf) for tree, path, leaf in _all(call.output)
            )
            for tree, path, leaf in _all(call.new_states):
                yield f"[1]{access(tree, path)}", leaf
            return
        first = "[0]" if call.layer.return_state else ""
        for tree, path, leaf in _all(call.output):
            yield f"{first}{access(tree, path)}", leaf
        if call.new_states is None:
            return
        whole = self._is_whole(call)
        for tree, path, leaf in _all(call.new_states):
            yield (f"[1]{access(tree, path)}" if whole else f"[1:]{access(tree, path)}"), leaf

    def _is_whole(self, call: Call) -> bool:
        """Whether a layer returned its states as one structure behind the output."""
        returned = list(call.returned[1:])
        return difference(self.subject.template, returned) is not None and len(returned) == 1

    def _chain(self, needed: Sequence[Call]) -> list[Call]:
        """Add the calls without which the needed ones would give something else."""
        if self.result.requirement == "ERR-03":
            return self.calls
        wanted = {call.number: call for call in needed}
        for call in needed:
            wanted.update({earlier.number: earlier for earlier in self._before(call)})
        return [wanted[number] for number in sorted(wanted)]

    def _before(self, call: Call) -> list[Call]:
        """List the earlier calls that a stateful layer remembers."""
        if not getattr(call.layer, "stateful", False):
            return []
        return [c for c in self.calls if c.layer is call.layer and c.number < call.number]

    def _was_reset(self, call: Call) -> bool:
        """Whether a stateful layer was reset between its last call and this one."""
        before = self._before(call)
        if not before or call.stored is None or before[-1].new_states is None:
            return False
        left = [leaf for _, leaf in paths(before[-1].new_states)]
        return not all(equal(a, b) for a, b in zip(left, call.stored, strict=False))

    def _find_path(self, cls: Any) -> None:
        """Put the folder of a module on the path where an installed one would not be found."""
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        where = self.context.target.name.rpartition(":")[0]
        if file is None or any(
            part in ("site-packages", "dist-packages") for part in Path(file).parts
        ):
            return
        if where.endswith(".py") and Path(where).stem == cls.__module__:
            folder = str(Path(where).resolve().parent)
        elif Path(file).is_relative_to(Path.cwd()) and ":" in self.context.target.name:
            folder = str(Path.cwd())
        else:
            return
        if folder not in self.paths:
            self.paths.append(folder)


def _last_subject(context: Context) -> Subject:
    """Give the subject that made the last call, or the one of the case at hand."""
    ran = [subject for subject in context.subjects() if subject.calls]
    if not ran:
        return context.subject()
    return max(ran, key=lambda subject: subject.calls[-1].number)


def _all(tree: Tree) -> Iterator[tuple[Tree, str, Any]]:
    return ((tree, path, leaf) for path, leaf in paths(tree))


def _pieces(leaf: np.ndarray, mask: Any) -> Iterator[tuple[str, np.ndarray]]:
    """List what checks cut out of a result: rows, steps, stretches of time."""
    yield "", leaf
    rows = leaf.shape[0] if leaf.ndim else 0
    steps = leaf.shape[1] if leaf.ndim > 1 else 0
    for row in range(rows):
        yield f"[{row}:{row + 1}]", leaf[row : row + 1]
    if rows == 3:
        yield "[[2, 0, 1]]", leaf[[2, 0, 1]]
    for step in range(min(steps, 20)):
        yield f"[:, {step}]", leaf[:, step]
    if steps > 20:
        yield "[:, -1]", leaf[:, -1]
    for step in range(1, min(steps, 20)):
        yield f"[:, :{step}]", leaf[:, :step]
        yield f"[:, {step}:]", leaf[:, step:]
    if steps:
        yield "[:, ::-1]", leaf[:, ::-1]
    for row in range(rows):
        for step in range(min(steps, 20)):
            yield f"[{row}, {step}]", leaf[row, step]
    if mask is not None and np.ndim(mask) == 2 and np.shape(mask) == leaf.shape[:2]:
        for row, keep in enumerate(np.asarray(mask, bool)):
            yield f"[{row}][{keep.tolist()}][None]", leaf[row][keep][None]


def _wrap(what: str, text: str) -> str:
    return textwrap.fill(f"{what}: {text}", 98, subsequent_indent="  ", break_long_words=False)


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _is_plain(text: str) -> bool:
    return (
        text.isprintable()
        or all(c.isprintable() or c == "\n" for c in text)
        and not ('"""' in text or "\\" in text)
    )
