"""The writer of standalone programs: literals, the recorded calls, and one assertion.

A program sets `KERAS_BACKEND`, imports the cell, gives it literal weights, makes the calls that the
check made with literal arrays, and ends with an assertion. What was computed is found again among
the recorded calls by its values; what was expected is another call of the program, or a literal
that the oracle computed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from cellkit_conformance.checks.context import Context
from cellkit_conformance.outcome import Outcome, Result
from cellkit_conformance.repro.helpers import IN_GRAPH
from cellkit_conformance.repro.literals import equal, index, is_literal, plain_array, tensor
from cellkit_conformance.repro.locate import RESULT, Finder
from cellkit_conformance.repro.program import NoScript, Program
from cellkit_conformance.subject.record import Call, Claim, Refusal, Values
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import Tree, children, is_branch, map_trees, paths

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

TAKEN = {
    "all": (),
    "outputs": ("take=lambda result: result[0]",),
    "last": ("take=lambda r: [keras.tree.map_structure(lambda y: y[:, -1], r[0]), r[1:]]",),
    "states": ("take=lambda result: result[1:]",),
}
"""What of a layer's result a gradient is taken of, by `Call.which`."""

CLAIMS = {
    "zero": "not any(np.any(array) for array in found)",
    "finite": "all(np.isfinite(array).all() for array in found)",
    "moves": "any(np.any(array) for array in found)",
    "differ": "not all(map(np.array_equal, found, others))",
}
"""The conditions of claims, see `Claim`."""

LONG = 20
"""Steps from which on a run is cut down to the first that is wrong."""


class Writer(Program):
    """Writes the program of one failure from the calls that were recorded.

    Args:
        result: The failure.
        context: Of the check that failed.
    """

    def __init__(self, result: Result, context: Context) -> None:
        super().__init__(result, context.target.name)
        self.imports.add("import numpy as np")
        self.context = context
        self.subject = _last_subject(context)
        self.calls: list[Call] = list(self.subject.calls)
        self._names: dict[int, str] = {}
        self._results: dict[int, str] = {}
        self._layers: dict[int, str] = {}
        self._has_cell = False

    def write(self) -> bool:
        """Write a call that raised, one that was accepted, or a comparison.

        Returns:
            Whether there was something to write.
        """
        return self.by_error() or self.by_refusal() or self.by_values() or self.by_claim()

    def by_error(self) -> bool:
        """Write a call that raised where it must not."""
        if self.result.outcome is not Outcome.ERROR:
            return False
        call = self.calls[-1] if self.calls else None
        if call is None or call.gradients or call.returned is not None or call.output is not None:
            return False
        self.lines("# The next call raises, and must not.")
        self.run(call)
        return True

    def by_refusal(self) -> bool:
        """Write a call that must raise a `ValueError`."""
        refusal = self.context.finding
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
        values = self.context.finding
        if not isinstance(values, Values):
            return False
        values = self._first_steps(self._one_row(values))
        finder = Finder(self.subject, self.calls)
        got = finder.find(values.got)
        if got is None:
            return False
        want = finder.find(values.want, but_not=got)
        numbers = {int(n) for found in (got, want or "") for n in RESULT.findall(found)}
        if want is None and any(self.calls[n].kind == "gradient" for n in numbers):
            return False  # the gradient of another number than the program's
        for call in self._chain([self.calls[n] for n in numbers]):
            self.run(call)
        self.lines("", f"got = {self.value(got)}")
        self.lines(f"want = {plain_array(values.want) if want is None else self.value(want)}")
        self.compare(values)
        return True

    def by_claim(self) -> bool:
        """Write what must be true of results: zero, finite, or other than something."""
        claim = self.context.finding
        if not isinstance(claim, Claim) or not claim.arrays:
            return False
        finder = Finder(self.subject, self.calls)
        found = [finder.find(array) for array in (*claim.arrays, *claim.others)]
        if None in found:
            return False
        numbers = {int(n) for expression in found for n in RESULT.findall(expression or "")}
        for call in self._chain([self.calls[n] for n in numbers]):
            self.run(call)
        values = [self.value(expression or "") for expression in found]
        count = len(claim.arrays)
        self.lines("", "found = [", *(f"    {value}," for value in values[:count]), "]")
        if claim.others:
            self.lines("others = [", *(f"    {value}," for value in values[count:]), "]")
        if claim.at is not None:
            self.lines(f"found = [array[{index(claim.at)}] for array in found]")
        self.lines(f"assert {CLAIMS[claim.kind]}, {self.result.message!r}")
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
        path = next((p for p, leaf in self._returned(call) if leaf is values.got), None)
        if path is None:
            return values
        one = slice(row, row + 1)
        inputs, states = (map_trees(lambda a: a[one], t) for t in (call.inputs, call.states))
        self.subject.step_cell(inputs, states)
        alone = self.subject.calls[-1]
        got, want = dict(self._returned(alone))[path], values.want[one]
        if np.all(np.abs(got - want) <= 2 * values.limit * np.maximum(1, np.abs(want))):
            return values
        self.calls = [alone]
        self._tell(batch=1, row=row)
        return Values(got, want, values.limit)

    def _tell(self, **smaller: int) -> None:
        """Have the report show the example that the program shows."""
        if self.context.example is not None:
            self.context.example = {**self.context.example, **smaller}

    def _first_steps(self, values: Values) -> Values:
        """Cut a long run of a layer down to the first step that is wrong, if it fails then too."""
        call = self.calls[-1] if self.calls else None
        if call is None or call.kind != "layer" or values.got.shape != values.want.shape:
            return values
        path = next((p for p, leaf in self._returned(call) if leaf is values.got), None)
        options = getattr(call.layer, "go_backwards", False), getattr(call.layer, "stateful", False)
        long = values.got.ndim > 1 and values.got.shape[1] > LONG
        if path is None or not long or call.mask is not None or any(options):
            return values
        wrong = np.abs(values.got - values.want) > values.limit * np.maximum(1, np.abs(values.want))
        wrong = wrong.reshape(*wrong.shape[:2], -1).any(axis=2)
        step = int(np.argmax(wrong.any(axis=0)))
        rows = slice(int(np.argmax(wrong[:, step])), int(np.argmax(wrong[:, step])) + 1)
        inputs = map_trees(lambda a: a[rows, : step + 1], call.inputs)
        states = None if call.states is None else map_trees(lambda a: a[rows], call.states)
        self.subject.run(call.layer, inputs, states, training=call.training)
        short = self.subject.calls[-1]
        got, want = dict(self._returned(short))[path][:, -1], values.want[rows, step]
        if np.all(np.abs(got - want) <= values.limit * np.maximum(1, np.abs(want))):
            return values
        self.calls = [short]
        self._tell(batch=1, row=rows.start, time=step + 1)
        return Values(got, want, values.limit)

    def compare(self, values: Values) -> None:
        """Add the assertion that `got` is `want`."""
        if values.got.shape != values.want.shape:
            self.lines("assert got.shape == want.shape, f'{got.shape} is not {want.shape}'")
        elif values.limit == 0.0:
            self.lines("np.testing.assert_array_equal(got, want)")
        else:
            self.lines(
                f"limit = {values.limit:.3g} * np.maximum({values.unit:.9g}, np.abs(want))",
                "error = np.abs(got - want)",
                "assert np.all(error <= limit), f'the error is {error.max()}'",
            )

    # Pieces --------------------------------------------------------------------------------------

    def make(self, **changed: Any) -> str:
        """Give the expression that makes a cell."""
        target, subject = self.context.target, self.subject
        cls = self.name_of_class(target.cls)
        kwargs = {**subject.kwargs, **changed}
        if all(is_literal(value) for value in kwargs.values()):
            return f"{cls}({', '.join(f'{key}={value!r}' for key, value in kwargs.items())})"
        if target.spec_file is not None or callable(target.cases.get(subject.case)):
            raise NoScript("an argument of the case cannot be written down")
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
                raise NoScript(f"{type(layer).__name__} is not a layer around a cell")
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
        if call.kind == "gradient":
            return self._gradient(call)
        layer = self.layer(call.layer)
        words = [self.data("inputs", call.inputs)]
        if call.states is not None:
            states = self._handed_over(call) or self.data("states", call.states)
            words.append(f"initial_state={states}")
        if call.mask is not None:
            words.append(f"mask={self.data('mask', call.mask)}")
        if call.training is not None:
            words.append(f"training={call.training}")
        text = f"{layer}({', '.join(words)})"
        if call.graph and self.backend == "tensorflow":
            self.import_backend()
            return f"tf.function(lambda: {text})()"
        return text

    def _gradient(self, call: Call) -> str:
        """Give the expression of the gradients of a layer."""
        self.import_backend()
        if call.graph and self.backend == "tensorflow":  # some engines run in graphs alone
            self.helpers["differentiate"] = IN_GRAPH
        words = [self.layer(call.layer), self.data("inputs", call.inputs)]
        words.append("None" if call.states is None else self.data("states", call.states))
        if call.mask is not None:
            words.append(f"mask={self.data('mask', np.asarray(call.mask))}")
        if call.training:
            words.append("training=True")
        return f"gradients({', '.join([*words, *TAKEN[call.which]])})"

    def _handed_over(self, call: Call) -> str | None:
        """Name the states of an earlier call, where this one starts from them."""
        for earlier in self.calls:
            if earlier.number in self._results and earlier.new_states is call.states:
                whole = Finder(self.subject, self.calls).is_whole(earlier)
                return f"{self._results[earlier.number]}{'[1]' if whole else '[1:]'}"
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
            raised = call.output is None and not call.gradients
            if raised and call is not self.calls[-1]:
                self.lines("try:", f"    {expression}", "except Exception as error:")
                self.lines("    print(f'refused, as it must be: {type(error).__name__}')")
            else:
                self.lines(f"{name} = {expression}")
        return self._results[call.number]

    def value(self, expression: str) -> str:
        """Write an expression of a `Finder` with the names that the results have."""
        return RESULT.sub(lambda m: self._results[self.calls[int(m[1])].number], expression)

    def _returned(self, call: Call) -> Iterator[tuple[str, np.ndarray]]:
        return Finder(self.subject, self.calls).returned(call)

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
        """Say whether a stateful layer was reset between its last call and this one."""
        before = self._before(call)
        if not before or call.stored is None or before[-1].new_states is None:
            return False
        left = [leaf for _, leaf in paths(before[-1].new_states)]
        return not all(equal(a, b) for a, b in zip(left, call.stored, strict=False))


def _last_subject(context: Context) -> Subject:
    """Give the subject that made the last call, or the one of the case at hand."""
    ran = [subject for subject in context.subjects() if subject.calls]
    if not ran:
        return context.subject()
    return max(ran, key=lambda subject: subject.calls[-1].number)


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
