"""What is known about a cell beside its code: paper, reference, cases, traits, symbols.

A `CellSpec` stands beside a cell's class. It carries what nobody can derive from the code: the
paper, a NumPy reference of one step written from that paper, the inputs the cell takes, how to
construct it, what it claims. The conformance suite verifies the claims; documentation and the
command line read the rest.

Nothing here imports Keras, so that a spec can be read without choosing a backend.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cellkit.errors import problem
from cellkit.registry.names import did_you_mean, is_text, listed
from cellkit.registry.symbols import WeightMap

if TYPE_CHECKING:
    pass

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
        + "claim a known trait; write one of your own with a colon, for example 'my_lab:sparse'",
    )


@dataclasses.dataclass(frozen=True)
class Paper:
    """Where a cell comes from.

    Args:
        authors: The authors, e.g. ``"Cho et al."`` or all of them.
        year: Year of publication.
        title: Title of the paper.
        identifier: What finds it: ``"arXiv:1406.1078"``, ``"doi:10.1162/neco.1997.9.8.1735"``,
            or an address.

    Example:
    >>> paper = Paper("Cho et al.", 2014, "Learning Phrase Representations", "arXiv:1406.1078")
    >>> print(paper)
    Cho et al. (2014): Learning Phrase Representations. arXiv:1406.1078
    >>> paper.url
    'https://arxiv.org/abs/1406.1078'
    """

    authors: str
    year: int
    title: str
    identifier: str

    def __post_init__(self) -> None:
        """Check the four fields.

        Raises:
            ValueError: When one of them is empty or is no text, year or identifier.
        """
        for field in ("authors", "title"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value.strip():
                raise problem(
                    f"The {field} of a paper must be a text.",
                    received=f"{field}={value!r}",
                    expected="a text that is not empty",
                    fix=f"write the {field} as the paper gives them",
                )
        if isinstance(self.year, bool) or not isinstance(self.year, int) or self.year < 1000:
            raise problem(
                "The year of a paper must be a year.",
                received=f"year={self.year!r}",
                expected="an int with four digits",
                fix="write the year of publication, for example year=1997",
            )
        if not isinstance(self.identifier, str) or not re.match(r"\w+:\S", self.identifier):
            raise problem(
                "The identifier of a paper must say what kind it is.",
                received=f"identifier={self.identifier!r}",
                expected="'arXiv:...', 'doi:...', 'isbn:...' or an address",
                fix="put the kind before the number, for example 'arXiv:1406.1078'",
            )

    @property
    def url(self) -> str | None:
        """The address of the paper, or None when its identifier gives none."""
        kind, _, number = self.identifier.partition(":")
        if kind.lower() == "arxiv":
            return f"https://arxiv.org/abs/{number}"
        if kind.lower() == "doi":
            return f"https://doi.org/{number}"
        return self.identifier if kind.lower() in ("http", "https") else None

    def __str__(self) -> str:
        """Return the paper as one line of a bibliography."""
        return f"{self.authors} ({self.year}): {self.title}. {self.identifier}"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CellSpec:
    """What stands beside a cell's class: what it computes, takes and claims.

    It is the class attribute ``spec`` of the cell, or is passed to `cellkit.register`. Everything
    is checked when the spec is made.

    Args:
        reference: One step in NumPy, ``reference(w, inputs, states, config) -> (output,
            new_states)``, written from the paper. `w` holds the paper's symbols as float64 arrays
            (matrices are (in, out), so ``x @ W``), `inputs` is one time step in the cell's
            structure, each leaf (batch, ...), `states` has the cell's state structure (a list for
            flat cells), `config` is ``get_config()`` with the case's options. None where there
            is none; the cell is then not compared with numbers.
        inputs: The inputs of one time step, as a structure of shapes without batch and time. A
            size is an int, or a text that names a size to be drawn: ``("features",)``, or
            ``{"video": ("h", "w", 3), "audio": ("f",)}``.
        cases: At least two sets of constructor arguments, by name.
        paper: Where the cell comes from.
        symbols: The map between the paper's symbols and the cell's weights.
        constants: The constants that the cell takes at every step, as a structure of shapes like
            `inputs`, without the batch axis: ``[("places", 3)]``. Its sizes may be named too. The
            reference takes them as a fifth argument `constants`. None: it takes none.
        initial_state: ``(w, batch, config) -> states`` in NumPy. None: zeros.
        traits: What the cell claims, out of `TRAITS` or of the form ``"kind:detail"``. A trait
            that is not claimed is denied, and that is verified too.
        tolerance: Factor on the limit of every comparison with the reference.
        deviations: Where the cell, or other implementations of it, depart from the paper.
        aliases: Names under which frozen outputs know a form of the cell, with the constructor
            arguments of that form: ``{"gru_reset_before": {"reset_after": False}}``.
        dims: Sizes that named sizes of `inputs` and `constants` are held at (an int) or drawn
            from (a tuple).
        states: The paper's names of the states, one per leaf in their order, such as
            ``("h", "c")``: a frozen file may hold them in another order. Empty: by position.
        configure: ``(hyper, arrays) -> constructor arguments`` of a frozen file, from its
            hyper-parameters and its arrays (``"w.U_i"``, ``"state0.h"``, ``"y"``, ...), beyond
            those of its alias. None where the number of units says it all.
        draw_states: ``states -> states`` in NumPy, which brings random states into the range that
            the states of this cell have. None: any number is one.
        draw_inputs: ``inputs -> inputs`` in NumPy, which brings random inputs, leaves of shape
            (batch, time, ...), into the range that this cell takes, such as time gaps that are
            not negative. None: any number will do.

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

    reference: Callable[..., Any] | None
    inputs: Any
    cases: Mapping[str, dict[str, Any]]
    paper: Paper
    symbols: WeightMap
    constants: Any = None
    initial_state: Callable[..., Any] | None = None
    traits: frozenset[str] = frozenset({"masking"})
    tolerance: float = 1.0
    deviations: tuple[str, ...] = ()
    aliases: Mapping[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    dims: Mapping[str, int | tuple[int, ...]] = dataclasses.field(default_factory=dict)
    states: tuple[str, ...] = ()
    configure: Callable[..., Any] | None = None
    draw_states: Callable[..., Any] | None = None
    draw_inputs: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        """Check every field, and keep copies that the caller can't change.

        Raises:
            ValueError: When a field is not what it should be.
        """
        for field in ("reference", "initial_state", "configure", "draw_states", "draw_inputs"):
            value = getattr(self, field)
            if value is not None and not callable(value):
                raise problem(
                    f"The {field} of a spec can't be called.",
                    received=f"{field}={value!r}",
                    expected="a function, or None where there is none",
                    fix=f"pass the function itself, for example {field}=my_{field}",
                )
        if not isinstance(self.paper, Paper):
            raise problem(
                "The paper of a spec must be a cellkit.Paper.",
                received=f"paper={self.paper!r}",
                expected="cellkit.Paper(authors, year, title, identifier)",
                fix="write paper=Paper('Cho et al.', 2014, 'Learning ...', 'arXiv:1406.1078')",
            )
        if not isinstance(self.symbols, WeightMap):
            raise problem(
                "The symbols of a spec must be a weight map.",
                received=f"symbols={self.symbols!r}",
                expected="what gate_blocks, rename, blocks or custom of cellkit.spec return",
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
        sizes = frozenset(_named_sizes(self.inputs, "inputs"))
        if self.constants is not None:
            sizes |= frozenset(_named_sizes(self.constants, "constants"))
        object.__setattr__(self, "cases", _checked_cases(self.cases))
        object.__setattr__(self, "aliases", _checked_options("aliases", self.aliases))
        object.__setattr__(self, "dims", _checked_dims(self.dims, sizes))
        object.__setattr__(self, "traits", frozenset(map(check_trait, _several(self, "traits"))))
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
        if not named or not isinstance(options, Mapping) or not all(map(is_text, options)):
            raise problem(
                f"An entry of the {field} of a spec is not a set of constructor arguments.",
                received=f"{name!r}: {options!r}",
                expected="a name, and a dict from argument names to values",
                fix="write for example 'relu': {'units': 3, 'activation': 'relu'}",
            )
    return {name: dict(options) for name, options in value.items()}


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


# --- weights of a cell that is built ---------------------------------------------------------
