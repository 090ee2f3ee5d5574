"""`EquationCell` and `define`: the Keras cell that a text of equations makes."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import keras

from cellkit.cells import (
    Cell,
    LinearCell,
    StandardWeights,
    TensorSpec,
    has_standard_activations,
    split,
    vector_size,
)
from cellkit.cells.memo import Memo
from cellkit.equations import arguments
from cellkit.equations.analyse import Analysis, analyse, check_all
from cellkit.equations.declare import Declaration, declare
from cellkit.equations.initializers import checked_initializers, initializer, joined
from cellkit.equations.inputs import map_names, shapes_of, tensors_of
from cellkit.equations.layout import Layout, Weight, layout_of
from cellkit.equations.parse import parse
from cellkit.equations.program import Program
from cellkit.equations.restore import plain
from cellkit.equations.sizes import Size
from cellkit.equations.spec import spec_of
from cellkit.equations.standard import standard_letters
from cellkit.errors import problem

__all__ = ["EquationCell", "LinearEquationCell", "define"]


class _Equations(type(Cell)):  # type: ignore[misc]
    """Makes classes of cells: reads their equations, and derives the linear ones for the scan."""

    def __new__(
        mcs,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        **declared: Any,
    ) -> Any:
        """Make a class; see `EquationCell` for what may be declared."""
        text = namespace.get("equations")
        if text is None:
            if declared:
                raise problem(
                    f"{name} declares something of equations that it does not have.",
                    received=", ".join(f"{k}={v!r}" for k, v in declared.items()),
                    expected="an attribute `equations` that holds a text",
                    fix="write `equations = ...` in the class",
                )
            return super().__new__(mcs, name, bases, namespace)
        initializers = declared.pop("initializers", {})
        made = _declared(name, text, declared)
        analyses = check_all(made)
        arguments.check(made, Cell)
        linear = all(analysis.linear is not None for analysis in analyses)
        if linear:
            bases = tuple(LinearEquationCell if b is EquationCell else b for b in bases)
        namespace["declaration"] = made
        namespace["__doc__"] = _with_equations(namespace.get("__doc__"), made)
        namespace["initializers"] = checked_initializers(initializers, analyses)
        if "__init__" not in namespace:
            namespace["__init__"] = arguments.constructor(made)
        own_spec = "spec" in namespace
        cls = super().__new__(mcs, name, bases, namespace)
        if not own_spec:
            cls.spec = spec_of(cls, analyses)
        return cls

    def __init__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **declared: Any
    ) -> None:
        super().__init__(name, bases, namespace)


def _declared(name: str, text: Any, declared: dict[str, Any]) -> Declaration:
    known = ("inputs", "states", "output", "sizes", "numbers", "trainable")
    unknown = [key for key in declared if key not in known]
    if unknown:
        raise problem(
            f"{name} declares something unknown of its equations.",
            received=", ".join(f"{key}={declared[key]!r}" for key in unknown),
            expected="one of " + ", ".join((*known, "initializers")),
            fix="remove it",
        )
    return declare(name, text, **declared)


def _with_equations(doc: str | None, declaration: Declaration) -> str:
    """Return a docstring with the equations in front of its arguments."""
    shown = f"```\n{declaration.source.strip(chr(10))}\n```"
    if doc is None:  # as Python leaves it with -OO
        return f"{declaration.name}, made of equations.\n\n{shown}\n"
    doc = inspect.cleandoc(doc)
    head, arguments, rest = doc.partition("\nArgs:\n")
    return f"{head.rstrip()}\n\n{shown}\n" + (f"{arguments}{rest}\n" if arguments else "")


class EquationCell(Cell, metaclass=_Equations):
    """Base class of cells that are written as equations.

    A subclass has an attribute `equations`, a text in the language of `cellkit.define`, and
    declares beside its base class what the text can't say::

        class LSTMPCell(cellkit.EquationCell, sizes={"P": "projection_units"}):
            equations = \"\"\"
            i, f, o = s(W @ x + U @ h + b)
            g = tanh(W_g @ x + U_g @ h + b_g)
            c' = f * c + i * g
            h' = P @ (o * tanh(c'))
            \"\"\"

    The class gets its constructor from the text (its options, its numbers with a default, its
    named sizes), its weights, its step, and a `cellkit.CellSpec` with the reference. The paper is
    the one of its docstring, or the attribute `paper`; `guide`, `deviations` and `aliases` are the
    class's own, and ``dataclasses.replace`` changes the rest. A linear recurrence makes it a
    `cellkit.LinearCell`.

    Args:
        units: Positive int, the number of units.
        **kwargs: The options, numbers and sizes of the text, and options of `cellkit.Cell`.
    """

    equations: ClassVar[str]
    declaration: ClassVar[Declaration]
    initializers: ClassVar[dict[str, Any]]
    paper: ClassVar[Any] = None
    guide: ClassVar[Any] = None
    deviations: ClassVar[tuple[str, ...]] = ()
    aliases: ClassVar[Mapping[str, dict[str, Any]]] = {}
    spec: ClassVar[Any]
    definition: ClassVar[dict[str, Any] | None] = None

    def __init__(self, units: int, **kwargs: Any) -> None:
        if not hasattr(type(self), "declaration"):
            raise problem(
                f"{type(self).__name__} has no equations.",
                received="a class without an attribute `equations`",
                expected="a subclass with a text in the language of `cellkit.define`",
                fix="derive a class and write `equations = ...` in it, or call `cellkit.define`",
            )
        own, rest = arguments.own(type(self), kwargs)
        arguments.check_activations(type(self), self._analyses(own), rest)
        super().__init__(units, **rest)
        self.equation_input_sizes: dict[str, int] = {}
        self.equation_weights: dict[str, Any] = {}
        self._results = Memo()
        for name, value in own.items():
            setattr(self, name, value)
        if self.recurrent_dropout and not self.analysis.drops:
            raise problem(
                f"{type(self).__name__} has no recurrent product to drop states from.",
                received=f"recurrent_dropout={self.recurrent_dropout}",
                expected="recurrent_dropout=0.0",
                fix="use `dropout`, which drops inputs",
            )

    @classmethod
    def _analyses(cls, own: Mapping[str, Any]) -> Analysis:
        """Return the analysis of the text for these constructor arguments."""
        made = cls.declaration
        options = {name: own[name] for name in made.options}
        counts = {name: own[name] for name in made.numbers if name in own}
        return analyse(made, options, counts)

    @property
    def analysis(self) -> Analysis:
        """The analysis of the text, for the options of this cell."""
        own = {name: getattr(self, name) for name in arguments.names(self.declaration)}
        result: Analysis = self._results.memoize("analysis", lambda: self._analyses(own))
        return result

    @property
    def layout(self) -> Layout:
        """The layout of the letters of the text in the weights."""
        result: Layout = self._results.memoize("layout", lambda: layout_of(self.analysis))
        return result

    @property
    def program(self) -> Program:
        """The step, ready to run. The cell must be built."""
        result: Program = self._results.memoize(
            "program", lambda: Program(self, self.analysis, self.layout, self._size_values())
        )
        return result

    # Sizes ---------------------------------------------------------------------------------------

    def _size_values(self) -> dict[str, int]:
        """Return the numbers behind the named sizes, as far as they are known."""
        sizes = {name: getattr(self, name) or self.units for name in self.declaration.size_names}
        return {"units": self.units, **sizes, **self.equation_input_sizes}

    def _number(self, size: Size, what: str) -> int:
        values = self._size_values()
        missing = [name for name in size.names if name not in values]
        if missing:
            raise problem(
                f"{type(self).__name__} does not know the size of `{what}` yet.",
                received="a cell that is not built",
                expected=f"a built cell: the size is {size}",
                fix="build the cell or its layer first, or call it once",
            )
        number = size.at(values)
        if number.denominator != 1 or number < 1:
            raise problem(
                f"A size of {type(self).__name__} is not a positive integer.",
                received=f"`{what}` of {size} = {number}",
                expected=f"sizes for which {size} is 1 or more, and whole",
                fix="choose other units: "
                + ", ".join(f"{name}={values[name]}" for name in size.names),
            )
        return int(number)

    @property
    def state_size(self) -> Any:
        """The sizes of the states; of one state its size alone."""
        found = self._sizes()
        return found[0] if len(found) == 1 else found

    def _sizes(self) -> list[Any]:
        """Return the size of each state."""
        known = self._size_values()
        found: list[Any] = []
        for name, node in self.analysis.old.items():
            size = self.analysis.size(node)
            # Sizes that follow the inputs are unknown before there are inputs.
            free = any(part not in known for part in size.names)
            found.append(TensorSpec((None,)) if free else self._number(size, name))
        return found

    @property
    def output_size(self) -> Any:
        """The size of the output."""
        analysis = self.analysis
        return self._number(analysis.size(analysis.output), analysis.output_name)

    # Weights -------------------------------------------------------------------------------------

    def build(self, input_shape: Any) -> None:
        """Create the weights of the text."""
        shapes = dict(zip(self.declaration.input_names, self._shapes(input_shape), strict=True))
        analysis = self.analysis
        for name, shape in shapes.items():
            width, size = vector_size(self, shape), analysis.size(analysis.inputs[name])
            if len(size.terms) == 1 and size.names[0] not in self._size_values():
                self.equation_input_sizes[size.names[0]] = width
            if width != self._number(size, name):
                raise problem(
                    f"An input of {type(self).__name__} has the wrong size.",
                    received=f"`{name}` with {width} features",
                    expected=f"{self._number(size, name)} features: {size}",
                    fix="change the inputs, or the number of units",
                )
        super().build(input_shape)
        for weight in self.layout.weights:
            variable = self._create(weight)
            if variable is not None:
                self.equation_weights[weight.name] = variable
        for name in ("kernel", "recurrent_kernel", "bias"):
            setattr(self, name, self.equation_weights.get(name))

    def _shapes(self, given: Any) -> list[Any]:
        """Return the shapes of the inputs in the order of their names."""
        structure = self.declaration.inputs
        found = shapes_of(structure, given)
        if found is None:
            raise problem(
                f"{type(self).__name__} takes other inputs.",
                received=f"inputs of one step with shapes {given}",
                expected=f"the structure {structure!r}, one vector for each name",
                fix="pass one tensor for each input of the equations, in this structure",
            )
        return found

    def _flat(self, inputs: Any) -> list[Any]:
        return tensors_of(self.declaration.inputs, inputs)

    def _create(self, weight: Weight) -> Any:
        """Create one weight, or return None for biases that the cell does without."""
        widths = [self._number(size, weight.name) for size in weight.widths]
        options: dict[str, Any] = {}
        chosen = self._initializer(weight, widths)
        if chosen is not None:
            options["initializer"] = chosen
        if weight.rows is not None:
            shape = (self._number(weight.rows, weight.name), sum(widths))
            add = self.add_recurrent_kernel if weight.recurrent else self.add_kernel
            return add(shape, weight.name, **options)
        if weight.role == "bias":
            return self.add_bias((sum(widths),), weight.name, **options)
        if weight.role == "vector":
            add = self.add_recurrent_kernel if weight.recurrent else self.add_kernel
            return add((sum(widths),), weight.name, **options)
        return self.add_weight(shape=(), name=weight.name, **options)

    def _initializer(self, weight: Weight, widths: list[int]) -> Any:
        """Return what a weight starts from, or None for the option of its role."""
        own = [self.initializers.get(name) for name in weight.parameters]
        usual: Any = {
            "bias": self.bias_initializer,
            "kernel": self.kernel_initializer,
            "recurrent_kernel": self.recurrent_initializer,
            "scalar": "zeros",
            # An orthogonal matrix is none of the vectors that could be drawn.
            "vector": "ones" if weight.name.startswith("gamma") else "random_uniform",
        }[weight.role]
        if weight.name in self.declaration.trainable:
            usual = keras.initializers.Constant(getattr(self, weight.name))
        if all(i is None for i in own):
            return usual if weight.role in ("scalar", "vector") else None
        return joined([usual if i is None else i for i in own], widths)

    # The step ------------------------------------------------------------------------------------

    def drop_inputs(self, inputs: Any) -> Any:
        """Drop elements of the inputs that are vectors: time gaps come through whole."""
        names = self.declaration.input_names
        if len(names) == 1:
            return super().drop_inputs(inputs)
        sizes = {name: self.analysis.size(self.analysis.inputs[name]) for name in names}
        flat = iter(self._flat(inputs))

        def dropped(name: str) -> Any:
            x = next(flat)
            return x if sizes[name].number == 1 else self._drop_input(x, name)

        return map_names(dropped, self.declaration.inputs)

    def _drop_input(self, x: Any, name: str) -> Any:
        if not (self.dropout and self.in_training):
            return x
        return self._drop(x, self.dropout, ("inputs", name))

    def project(self, inputs: Any) -> Any:
        """Compute what depends on the inputs alone."""
        return self.program.project(self._flat(inputs))

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        return self.program.step(projected, states)

    def standard(self) -> StandardWeights | None:
        """Return the weights of a text that says the standard LSTM or GRU, by gate."""
        found = self._results.memoize("standard", lambda: standard_letters(self.analysis))
        if found is None or not has_standard_activations(self):
            return None
        kind, letters = found
        gates = {"lstm": "ifgo", "gru": "zrn"}[kind]
        kernel = self._side_by_side([letters[f"W_{gate}"] for gate in gates])
        recurrent = self._side_by_side([letters[f"U_{gate}"] for gate in gates])
        if not self.use_bias:
            return StandardWeights(kind, kernel, recurrent, None)
        bias = self._side_by_side([letters[f"b_{gate}"] for gate in gates])
        if kind == "lstm":
            return StandardWeights(kind, kernel, recurrent, bias)
        own = self._side_by_side([letters["b_hn"]])
        zeros = keras.ops.zeros((2 * self.units,), dtype=own.dtype)
        return StandardWeights(kind, kernel, recurrent, bias, keras.ops.concatenate([zeros, own]))

    def _side_by_side(self, names: list[str]) -> Any:
        """Return the weights of these letters side by side: a variable, if they lie so already."""
        (index, first), *rest = (self.layout.where[name] for name in names)
        weight = self.layout.weights[index]
        variable = self.equation_weights[weight.name]
        places = [first, *(place for _, place in rest)]
        if places == list(range(len(weight.parameters))):
            return variable
        value = variable.value
        widths = [self._number(size, weight.name) for size in weight.widths]
        pieces = split(value, widths)
        return keras.ops.concatenate([pieces[place] for place in places], axis=-1)

    # Configuration -------------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return every constructor argument; of a cell made by `define` the text as well."""
        config = super().get_config()
        if self.definition is not None:
            config["equations"] = dict(self.definition)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> EquationCell:
        """Make a cell from what `get_config` returned."""
        saved = config.get("equations")
        if saved is not None and parse(saved["equations"]) != cls.declaration.text:
            raise problem(
                f"The saved cell has other equations than the class {cls.__name__} of today.",
                received=_dedented(saved["equations"]),
                expected=_dedented(cls.equations),
                fix="define the class with the text that was saved, or under another name",
            )
        config = {name: value for name, value in config.items() if name != "equations"}
        cell: EquationCell = super().from_config(config)
        return cell


class LinearEquationCell(EquationCell, LinearCell):
    """Base class that a linear recurrence gets: its cell can be scanned."""

    @property
    def state_size(self) -> Any:
        """The states, not rounded to 16 bits."""
        # Not by the property of the base class, which PyTorch's compiler cannot read.
        specs = [
            TensorSpec(s.shape if isinstance(s, TensorSpec) else s, dtype=self.accumulator_dtype)
            for s in self._sizes()
        ]
        return specs[0] if len(specs) == 1 else specs

    def coefficients(self, projected: Any) -> tuple[Any, Any]:
        """Return what each state is multiplied with, and what is added to it."""
        return self.program.coefficients(projected)

    def read(self, states: Any, projected: Any) -> Any:
        """Return the output of a step."""
        # Wide states meet gates of 16 bits here, which TensorFlow multiplies in one dtype alone.
        states = [self.as_output(state) for state in keras.tree.flatten(states)]
        return self.as_output(self.program.read(projected, states))

    # The scan stands for this step and for no other.
    step = LinearCell.step


def define(
    name: str,
    equations: str,
    *,
    package: str = "cellkit_equations",
    inputs: Any = "x",
    states: tuple[str, ...] | None = None,
    output: str | None = None,
    sizes: Mapping[str, Any] | None = None,
    trainable: tuple[str, ...] = (),
    initializers: Mapping[str, Any] | None = None,
    paper: Any = None,
    guide: Any = None,
    numbers: Mapping[str, float] | None = None,
    **more_numbers: float,
) -> type[EquationCell]:
    """Make the class of a cell from its equations.

    Args:
        name: Of the class, such as ``"LiGRUCell"``.
        equations: The text, one definition a line; the documentation's page on equations has the
            language.
        package: Under which Keras registers the class.
        inputs: The names of the inputs, in the structure in which a layer takes them:
            ``("x", "dt")``. The first one is ``features`` wide.
        states: The names of the states in their order. Default: that of the text, `h` before
            others.
        output: The name of what is given out. Default: `y` if it is defined, else the first state.
        sizes: Sizes by the name of a matrix (of what it makes), a vector or a state: numbers, or
            names, which become arguments of the constructor. An index stands for all its
            numbers: ``{"P_k": 5}``.
        trainable: The numbers that are trained.
        initializers: Initializers by the letters of the weights, where the option of their role
            will not do: ``{"b_f": "ones"}``.
        paper: The `cellkit.Paper` that the equations are from.
        guide: The `cellkit.Guide` that says when to use the cell.
        numbers: Numbers of the text with their defaults: they become arguments of the constructor,
            as those with a line ``leaky = 1.0`` of their own do.
        **more_numbers: The same, each as a keyword: ``leaky=1.0``.

    Returns:
        A class of cells.

    Raises:
        ValueError: The text makes no sense; in three parts, with the line and a caret under the
            place.

    Example:
    >>> import cellkit
    >>> LiGRUCell = cellkit.define(
    ...     "LiGRUCell",
    ...     '''
    ...     z  = s(W_z @ x + U_z @ h + b_z)          update gate
    ...     n  = relu(W_n @ x + U_n @ h + b_n)       candidate
    ...     h' = z * h + (1 - z) * n
    ...     ''',
    ...     package="my_lab",
    ... )
    >>> layer = cellkit.RNN(LiGRUCell(64, dropout=0.1), return_sequences=True)
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 10, 64)
    """
    for what, value in (("name", name), ("package", package)):
        if not isinstance(value, str) or not value.isidentifier():
            raise problem(
                f"The {what} of a cell is not a name.",
                received=f"{what}={value!r}",
                expected="a text of letters, digits and underscores",
                fix=f"write for example {what}="
                + repr("LiGRUCell" if what == "name" else "my_lab"),
            )
    declared: dict[str, Any] = {
        "inputs": inputs,
        "states": states,
        "output": output,
        "sizes": dict(sizes or {}),
        "numbers": {**(numbers or {}), **more_numbers},
        "trainable": tuple(trainable),
    }
    namespace = {
        "__module__": sys._getframe(1).f_globals.get("__name__", __name__),
        "__doc__": f"{name}, made of equations.",
        "__qualname__": name,
        "equations": equations,
        "paper": paper,
        "guide": guide,
    }
    cls: Any = _Equations(
        name, (EquationCell,), namespace, initializers=initializers or {}, **declared
    )
    cls.definition = {
        "name": name,
        "package": package,
        "equations": equations,
        **{key: plain(value) for key, value in declared.items() if key != "numbers" and value},
        "numbers": dict(declared["numbers"]),
    }
    if initializers:
        cls.definition["initializers"] = {
            key: keras.initializers.serialize(initializer(value))
            for key, value in initializers.items()
        }
    registered: type[EquationCell] = keras.saving.register_keras_serializable(package=package)(cls)
    return registered


def _dedented(text: Any) -> str:
    return parse(text).source.strip("\n")
