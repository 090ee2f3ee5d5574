"""Facts about a cell beside its code: paper, reference, cases, traits, symbols.

A `CellSpec` stands beside a cell's class. It carries what can't be derived from the code: the
paper, a NumPy reference of one step written from that paper, the inputs the cell takes, how to
construct it, what it claims. What its author leaves out, the class says (`CellSpec.completed`). The
conformance suite verifies the claims; documentation and the command line read the rest.

Nothing here imports Keras, so that a spec can be read without choosing a backend.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from cellkit.errors import problem
from cellkit.registry.guide import Guide
from cellkit.registry.names import did_you_mean, is_text, listed
from cellkit.registry.paper import Paper, paper_of
from cellkit.registry.symbols import WeightMap

__all__ = [
    "TRAITS",
    "CellSpec",
    "Paper",
    "check_trait",
]

TRAITS: Mapping[str, str] = {
    "masking": "a masked step changes neither states nor output",
    "stateful": "the states can be carried from one call of the layer to the next",
    "dropout": "drops inputs in training, with one mask per sequence",
    "recurrent_dropout": "drops recurrent states in training, with one mask per sequence",
    "zoneout": "keeps random entries of the old states in training, anew at every step",
    "noise": "draws random numbers at every step in training, other than dropout or zoneout",
    "running_statistics": "moves weights that do not learn in training, as batch normalisation",
    "linear": "the recurrence is linear in the states, so it can be scanned in parallel",
    "jit": "can be compiled by every backend's compiler",
    "fp32_state": "keeps a float32 accumulator under mixed precision",
    "quantized": "has int8 or float8 policies",
    "double_backward": "has second-order gradients",
    "stop_gradient": "has paths without a gradient, by design",
    "truncated": "cuts backpropagation through time at a horizon",
    "device": "gives the same numbers on every device",
}
"""The traits a spec may claim by name; further ones have the form ``"kind:detail"``.

Of those, ``"equiv:LSTM"`` claims equality with a framework's layer, ``"rank:4"`` inputs of that
rank (batch and time included), ``"export:onnx"`` an export format.
"""


def check_trait(trait: object) -> str:
    """Return `trait`, or raise when it is neither known nor of the form ``"kind:detail"``."""
    if isinstance(trait, str) and (trait in TRAITS or re.fullmatch(r"\w[\w.-]*:\S+", trait)):
        return trait
    raise problem(
        "A trait is not known.",
        received=repr(trait),
        expected=f"one of {listed(sorted(TRAITS))}, or 'kind:detail' such as 'equiv:LSTM'",
        fix=(did_you_mean(trait, TRAITS) if isinstance(trait, str) else "")
        + "take one of these; a trait of your own has a colon, for example 'my_lab:sparse'",
    )


VECTOR = ("features",)
"""The inputs of one step, where a spec says nothing of them."""

_OF_CLASS: Any = type("_OfClass", (), {"__repr__": lambda _: "as the class says"})()
_LEAST = frozenset({"masking"})  # what is claimed where neither author nor class says more


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CellSpec:
    """Facts that stand beside a cell's class: what it computes, takes and claims.

    It is the class attribute ``spec`` of the cell, or is passed to `cellkit.register`. What is
    given is checked when the spec is made. Where the class is derived from `cellkit.Cell`, what it
    says may be left out; see `completed`.

    Args:
        paper: The source of the cell. Default: the one that the docstring of the class begins a
            paragraph with, ``Paper: Cho et al. 2014, "Learning Phrase Representations",
            arXiv:1406.1078``.
        reference: One step in NumPy, ``reference(w, inputs, states, config) -> (output,
            new_states)``, written from the paper. `w` holds the paper's symbols as float64 arrays
            (matrices are (in, out), so ``x @ W``), `inputs` is one time step in the cell's
            structure, each leaf (batch, ...), `states` has the cell's state structure (a list for
            flat cells), `config` is ``get_config()`` with the case's options. None where there
            is none; the cell is then not compared with numbers. Default: the equations in the
            docstring of the class, line by line.
        inputs: The inputs of one time step, as a structure of shapes without batch and time. A
            size is an int, or a text that names a size to be drawn: ``("features",)``, or
            ``{"video": ("h", "w", 3), "audio": ("f",)}``. Default: one vector.
        cases: At least two sets of constructor arguments, by name; each a dict, or a function that
            returns one, which is called for every cell that is made: for arguments that no two
            cells can share. A Keras layer among the arguments is made anew in any case. Default:
            the usual ones of the class, such as one without biases and one with dropout.
        more_cases: Cases beside the usual ones; one with the name of a usual case replaces it.
        symbols: The map between the paper's symbols and the cell's weights. Default: W, U and b
            with the names of the gates of the class.
        constants: The constants that the cell takes at every step, as a structure of shapes like
            `inputs`, without the batch axis: ``[("places", 3)]``. Its sizes may be named too. The
            reference takes them as a fifth argument `constants`. None: it takes none.
        initial_state: ``(w, batch, config) -> states`` in NumPy. None: zeros.
        traits: Claims of the cell, out of `TRAITS` or of the form ``"kind:detail"``. A trait
            that is not claimed is denied, and that is verified too. Default: what the base class of
            the cell brings.
        more_traits: Claims beside those that the base class brings.
        tolerance: Factor on the limit of every comparison with the reference.
        tolerance_reason: A sentence that says why the factor is what it is; reports show it.
        deviations: Points where the cell or other implementations depart from the paper.
        aliases: Names under which frozen outputs know a form of the cell, with the constructor
            arguments of that form: ``{"gru_reset_before": {"reset_after": False}}``.
        dims: Sizes that named sizes of `inputs` and `constants` are held at (an int) or drawn
            from (a tuple).
        states: The paper's names of the states, one per leaf in their order, such as
            ``("h", "c")``: a frozen file may hold them in another order. Empty: by position, or as
            the equations in the docstring name them, if these are the reference.
        configure: ``(hyper, arrays) -> constructor arguments`` of a frozen file, from its
            hyper-parameters and its arrays (``"w.U_i"``, ``"state0.h"``, ``"y"``, ...), beyond
            those of its alias. None where the number of units says it all.
        draw_states: ``states -> states`` in NumPy, which brings random states into the range that
            the states of this cell have. None: any number is one.
        draw_inputs: ``inputs -> inputs`` in NumPy, which brings random inputs, leaves of shape
            (batch, time, ...), into the range that this cell takes, such as time gaps that are
            not negative. Leaves that it returns as integers (token ids) are given to the cell as
            integers, and nothing is differentiated by them. None: any number will do.
        draw_constants: ``constants -> constants`` in NumPy, in their structure, which brings random
            constants, leaves of shape (batch, time, ...), into the range that this cell takes; the
            same holds for them as for inputs. None: any number will do.
        draw_weights: ``weights -> weights`` in NumPy, by the names that `cell_weights` gives, which
            brings random weights into the range that this cell can have, such as time constants
            that are positive. None: any number near the start values will do.
        unused: Entries of weights that act on nothing by design, by the name of the weight: a bool
            array, or a function of the shape that makes one. ``{"U": lambda shape:
            np.eye(*shape, dtype=bool)}`` for the diagonal of a matrix used as ``U - U.T``. Also a
            constructor argument, with True, that acts only on inputs that the spec does not show.
        guide: Advice when to use the cell, its family and its tags. None: it says nothing of that,
            and is listed among the others.

    Example:
    >>> from cellkit.registry.symbols import rename
    >>> spec = CellSpec(
    ...     reference=None,
    ...     inputs=("features",),
    ...     cases={"default": {"units": 4}, "relu": {"units": 3, "activation": "relu"}},
    ...     paper=Paper("Cho et al.", 2014, "Learning Phrase Representations", "arXiv:1406.1078"),
    ...     symbols=rename({"kernel": "W", "recurrent_kernel": "U", "bias": "b"}),
    ... )
    >>> sorted(spec.traits)
    ['masking']
    """

    paper: Paper = _OF_CLASS
    reference: Callable[..., Any] | None = _OF_CLASS
    inputs: Any = VECTOR
    cases: Mapping[str, dict[str, Any]] = _OF_CLASS
    symbols: WeightMap = _OF_CLASS
    more_cases: Mapping[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    constants: Any = None
    initial_state: Callable[..., Any] | None = None
    traits: frozenset[str] = _LEAST
    more_traits: frozenset[str] = frozenset()
    tolerance: float = 1.0
    tolerance_reason: str = ""
    deviations: tuple[str, ...] = ()
    aliases: Mapping[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    dims: Mapping[str, int | tuple[int, ...]] = dataclasses.field(default_factory=dict)
    states: tuple[str, ...] = ()
    configure: Callable[..., Any] | None = None
    draw_states: Callable[..., Any] | None = None
    draw_inputs: Callable[..., Any] | None = None
    draw_constants: Callable[..., Any] | None = None
    guide: Guide | None = None
    draw_weights: Callable[..., Any] | None = None
    unused: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every field, and keep copies that the caller can't change.

        Raises:
            ValueError: When a field is not what it should be.
        """
        functions = ("reference", "initial_state", "configure")
        draws = ("draw_states", "draw_inputs", "draw_constants", "draw_weights")
        for field in (*functions, *draws):
            value = getattr(self, field)
            if value is not None and value is not _OF_CLASS and not callable(value):
                raise problem(
                    f"The {field} of a spec can't be called.",
                    received=f"{field}={value!r}",
                    expected="a function, or None where there is none",
                    fix=f"pass the function itself, for example {field}=my_{field}",
                )
        if self.paper is not _OF_CLASS and not isinstance(self.paper, Paper):
            raise problem(
                "The paper of a spec must be a cellkit.Paper.",
                received=f"paper={self.paper!r}",
                expected="cellkit.Paper(authors, year, title, identifier)",
                fix="write paper=Paper('Cho et al.', 2014, 'Learning ...', 'arXiv:1406.1078')",
            )
        if self.guide is not None and not isinstance(self.guide, Guide):
            raise problem(
                "The guide of a spec must be a cellkit.Guide.",
                received=f"guide={self.guide!r}",
                expected="cellkit.Guide(family, use_when, tags), or None",
                fix="write guide=Guide('gru', 'Use it when memory is short.', ('baseline',))",
            )
        if self.symbols is not _OF_CLASS and not isinstance(self.symbols, WeightMap):
            raise problem(
                "The symbols of a spec must be a weight map.",
                received=f"symbols={self.symbols!r}",
                expected="what gate_blocks, rename, blocks or custom of cellkit.registry return",
                fix="write for example symbols=rename({'kernel': 'W', 'bias': 'b'})",
            )
        if isinstance(self.tolerance, bool) or not (
            isinstance(self.tolerance, (int, float)) and 0 < self.tolerance < float("inf")
        ):
            raise problem(
                "The tolerance of a spec must be a positive factor.",
                received=f"tolerance={self.tolerance!r}",
                expected="a number above 0; 1.0 is the usual limit",
                fix="leave it out, or write tolerance=4.0 for a cell with four times the error",
            )
        if not isinstance(self.tolerance_reason, str):
            raise problem(
                "The reason of a tolerance must be a text.",
                received=f"tolerance_reason={self.tolerance_reason!r}",
                expected="one sentence",
                fix="write tolerance_reason='The variance of a few units is small.'",
            )
        if not isinstance(self.unused, Mapping) or not all(map(is_text, self.unused)):
            raise problem(
                "The unused entries of a spec must stand under the names of weights or arguments.",
                received=f"unused={self.unused!r}",
                expected="a dict from names of weights to bool arrays, or to functions of a shape",
                fix="write unused={'U': lambda shape: np.eye(*shape, dtype=bool)}",
            )
        sizes = frozenset(_named_sizes(self.inputs, "inputs"))
        if self.constants is not None:
            sizes |= frozenset(_named_sizes(self.constants, "constants"))
        if self.cases is not _OF_CLASS:
            object.__setattr__(self, "cases", _checked_cases(self.cases))
        more = _checked_options("more_cases", self.more_cases)
        object.__setattr__(self, "more_cases", more)
        object.__setattr__(self, "aliases", _checked_options("aliases", self.aliases))
        object.__setattr__(self, "dims", _checked_dims(self.dims, sizes))
        for field in ("traits", "more_traits"):
            if getattr(self, field) is not _LEAST:
                claims = frozenset(map(check_trait, _several(self, field)))
                object.__setattr__(self, field, claims)
        object.__setattr__(self, "deviations", tuple(_several(self, "deviations")))
        object.__setattr__(self, "states", _checked_states(self.states))
        for deviation in self.deviations:
            if not isinstance(deviation, str):
                raise problem(
                    "A deviation of a spec must be a text.",
                    received=repr(deviation),
                    expected="one sentence per deviation",
                    fix="write deviations=('The gate has no bias; the paper has one.',)",
                )

    def __set_name__(self, owner: type, name: str) -> None:
        """Complete the spec of a class in whose body it stands."""
        setattr(owner, name, self.completed(owner))

    def completed(self, cls: type) -> CellSpec:
        """Return the spec with what its author left out, as the class of the cell says it.

        A class that is derived from `cellkit.Cell` says it by its class method `spec_defaults`.
        The registry and the conformance suite complete a spec themselves.

        Args:
            cls: The class of the cell.

        Returns:
            This spec, if nothing is left out; else a new one.

        Raises:
            ValueError: When something is left out that the class does not say either.
        """
        usual: dict[str, Any] = getattr(cls, "spec_defaults", dict)()
        found: dict[str, Any] = {}
        if self.paper is _OF_CLASS:
            found["paper"] = _said_paper(cls)
        if self.symbols is _OF_CLASS:
            found["symbols"] = usual.get("symbols")
        if self.traits is _LEAST and "traits" in usual:
            found["traits"] = usual["traits"]
        if self.more_traits:
            found["traits"] = found.get("traits", self.traits) | self.more_traits
            found["more_traits"] = frozenset()
        if self.cases is _OF_CLASS:
            found["cases"] = _with_more(usual.get("cases", {}), self.more_cases) or None
        elif self.more_cases:
            found["cases"] = _with_more(self.cases, self.more_cases)
        if self.more_cases:
            found["more_cases"] = {}
        for field in ("symbols", "cases"):
            if field in found and found[field] is None:
                raise problem(
                    f"The spec of {cls.__name__} has no {field}.",
                    received=f"no {field}=..., and a class that does not say them either",
                    expected=f"{field}, or a base class of cellkit's that brings them",
                    fix="write "
                    + (
                        "symbols=rename({'kernel': 'W', 'bias': 'b'})"
                        if field == "symbols"
                        else "cases={'default': {'units': 4}, 'relu': {'activation': 'relu'}}"
                    ),
                )
        if self.reference is _OF_CLASS:
            # Not at the top: the language of equations is needed by those who leave this out.
            from cellkit.equations.shown import shown_reference, shown_states

            symbols = found.get("symbols", self.symbols)
            found["reference"] = shown_reference(cls, symbols, self.states)
            found["states"] = self.states or shown_states(cls)
        return dataclasses.replace(self, **found) if found else self


def _said_paper(cls: type) -> Paper:
    """Return the paper in the docstring of a class, or raise."""
    paper = paper_of(cls.__doc__)
    if paper is None:
        raise problem(
            f"The spec of {cls.__name__} has no paper.",
            received="no paper=..., and a class whose docstring has no paragraph 'Paper: ...'",
            expected="cellkit.Paper(authors, year, title, identifier), or that paragraph",
            fix='write into the docstring: Paper: Cho et al. 2014, "Learning ...", arXiv:1406.1078',
        )
    return paper


def _with_more(
    usual: Mapping[str, dict[str, Any]], more: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return cases with others in the second place, where an author would put them."""
    first = dict(list(usual.items())[:1])
    return {**first, **more, **{name: o for name, o in usual.items() if name not in more}}


def _several(spec: CellSpec, field: str) -> Iterable[Any]:
    """Return a field that holds several texts; one text alone would be taken letter by letter."""
    value = getattr(spec, field)
    if isinstance(value, (frozenset, set, tuple, list)):
        return value
    raise problem(
        f"The {field} of a spec must be a collection of texts.",
        received=f"{field}={value!r}",
        expected="a set, tuple or list",
        fix=f"write {field}={{'...'}}" if field == "traits" else f"write {field}=('...',)",
    )


def _checked_options(field: str, value: object) -> dict[str, dict[str, Any]]:
    """Return a copy of a mapping from names to constructor arguments."""
    if not isinstance(value, Mapping):
        raise problem(
            f"The {field} of a spec must be a dict.",
            received=f"{field}={value!r}",
            expected="a dict from names to constructor arguments",
            fix=f"write {field}={{'default': {{'units': 4}}}}",
        )
    for name, options in value.items():
        named = isinstance(name, str) and name.strip()
        if named and field in ("cases", "more_cases") and callable(options):
            continue
        if not named or not isinstance(options, Mapping) or not all(map(is_text, options)):
            raise problem(
                f"An entry of the {field} of a spec is not a set of constructor arguments.",
                received=f"{name!r}: {options!r}",
                expected="a name, and a dict from argument names to values",
                fix="write for example 'relu': {'units': 3, 'activation': 'relu'}",
            )
    return {
        name: options if callable(options) else dict(options) for name, options in value.items()
    }


def _checked_cases(value: object) -> dict[str, dict[str, Any]]:
    cases = _checked_options("cases", value)
    if len(cases) < 2:
        raise problem(
            "A spec needs at least two cases.",
            received=f"{len(cases)}: {listed(cases) or 'none'}",
            expected="two or more named sets of constructor arguments",
            fix="add a case with other options, for example 'relu': {'activation': 'relu'}",
        )
    names = list(cases)
    for position, name in enumerate(names):
        for earlier in names[:position]:
            if cases[earlier] == cases[name]:
                raise problem(
                    "Two cases of a spec are the same.",
                    received=f"{earlier!r} and {name!r}, both {cases[name]!r}",
                    expected="cases that differ in at least one argument",
                    fix=f"change an argument of {name!r}, or remove it",
                )
    return cases


def _checked_states(value: object) -> tuple[str, ...]:
    """Return the names of states, checked: distinct texts."""
    names = tuple(value) if isinstance(value, (tuple, list)) else ()
    if isinstance(value, (tuple, list)) and all(map(is_text, names)):
        if len(set(names)) == len(names):
            return names
    raise problem(
        "The states of a spec must be named apart.",
        received=f"states={value!r}",
        expected="a tuple of different texts, one per state",
        fix="write states=('h', 'c')",
    )


def _checked_dims(value: object, sizes: frozenset[str]) -> dict[str, int | tuple[int, ...]]:
    entries: Mapping[Any, Any] = value if isinstance(value, Mapping) else {"": value}
    dims: dict[str, int | tuple[int, ...]] = {}
    for name, choice in entries.items():
        choices = tuple(choice) if isinstance(choice, (tuple, list)) else (choice,)
        if name not in sizes or not choices or not all(map(_is_size, choices)):
            raise problem(
                "The dims of a spec do not fit its inputs.",
                received=f"dims={value!r}",
                expected="a dict from named sizes of the inputs "
                f"({listed(sorted(sizes)) or 'there are none'}) to a positive int, "
                "or to a tuple of them",
                fix="name a size that occurs in inputs, for example dims={'features': (3, 5)}",
            )
        dims[name] = choices if isinstance(choice, (tuple, list)) else choice
    return dims


def _named_sizes(inputs: object, field: str) -> Iterator[str]:
    """Yield the named sizes of a structure of shapes, checking it on the way."""
    if isinstance(inputs, Mapping):
        children: Iterable[object] = inputs.values()
    elif isinstance(inputs, (list, tuple)) and any(map(_is_structure, inputs)):
        children = inputs
    elif isinstance(inputs, tuple) and all(_is_size(d) or _is_name(d) for d in inputs):
        yield from (size for size in inputs if isinstance(size, str))
        return
    else:
        children = ()
    children = list(children)
    if not children:
        raise problem(
            f"The {field} of a spec are not a structure of shapes.",
            received=repr(inputs),
            expected="a tuple of sizes (positive ints or names), or a dict, list or tuple of "
            "such shapes, not empty",
            fix="write ('features',) for a vector, [('a',), ('b', 3)] for a vector and a matrix",
        )
    for child in children:
        yield from _named_sizes(child, field)


def _is_structure(value: object) -> bool:
    return isinstance(value, (Mapping, list, tuple))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier()
