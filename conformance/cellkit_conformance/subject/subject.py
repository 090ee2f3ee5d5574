"""The thing under test: one constructor case of one cell, its layers, its weights, its oracle."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from cellkit.registry import cell_weights, set_cell_weights, variables_by_path
from cellkit_conformance.examples.strategies import PLAIN, Example, draw_values
from cellkit_conformance.outcome import SpecFailure, describe_error, trace_of
from cellkit_conformance.subject import backend, oracle, record
from cellkit_conformance.subject.draws import (
    concrete_shapes,
    constrained,
    narrow,
    random_weight,
    short,
)
from cellkit_conformance.subject.steps import call_cell, has_unbuilt, like_states
from cellkit_conformance.subject.targets import Target
from cellkit_conformance.subject.tolerance import Tolerance
from cellkit_conformance.trees import (
    Tree,
    children,
    difference,
    is_shape,
    leaves,
    map_shapes,
    map_trees,
    rebuild,
)

REFUSALS = (ValueError, TypeError, NotImplementedError, KeyError)
"""Errors by which a cell says that it does not take an argument."""


@dataclass(frozen=True)
class Returned:
    """Results of a layer in NumPy.

    Attributes:
        output: The output structure.
        states: The final states, or None where they were not asked for.
    """

    output: Tree
    states: Tree | None


class Subject:
    """One constructor case of a cell.

    All layers that a subject makes share one cell and so one set of weights, and there is one
    layer per set of options: compiled functions are reused from check to check.

    Args:
        target: The cell and its spec.
        case: A name in the spec's cases.
        layer: Makes the layer under test, with the signature of `keras.layers.RNN`.
        extra: Constructor arguments beyond the case's own, such as a dropout rate.
    """

    def __init__(
        self,
        target: Target,
        case: str,
        layer: Callable[..., Any],
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.target = target
        self.case = case
        self.extra = dict(extra or {})
        self.kwargs = {**target.arguments(case), **self.extra}
        self.make_layer = layer
        self.compiled: dict[Any, Any] = {}
        self.calls = record.calls()
        self._layers: dict[frozenset[tuple[str, Any]], Any] = {}
        self._weights_seed: tuple[int, float, bool] | None = None
        self._drawn: dict[tuple[int, float, bool], dict[str, np.ndarray]] = {}
        self._symbols: dict[tuple[int, float, bool], dict[str, np.ndarray]] = {}
        self._states: dict[Any, Tree | None] = {}
        self._found: tuple[list[int], dict[str, Any]] | None = None
        self.input_shapes = concrete_shapes(target.inputs, target.dims)

    # Cells and layers ---------------------------------------------------------------------------

    def fresh_cell(self) -> Any:
        """Make another cell of this case, not built."""
        given = {**self.target.arguments(self.case), **self.extra}
        if not self.target.takes_dtype:
            given.pop("dtype", None)
        with self._policy_around():
            return self.target.make(given)

    def _policy_around(self) -> contextlib.AbstractContextManager[None]:
        """Make the dtype of this subject that of the process, where the cell needs that.

        Layers that a cell makes inside follow the process and not the cell, unless its author has
        handed the dtype on. Where there is no spec, that is nobody's promise.
        """
        dtype = self.kwargs.get("dtype")
        if dtype is None or self.target.spec is not None and self.target.takes_dtype:
            return contextlib.nullcontext()
        return process_policy(dtype)

    @functools.cached_property
    def cell(self) -> Any:
        """The cell that all layers of this subject share, built."""
        return self.built_cell()

    def built_cell(self) -> Any:
        """Make another cell of this case, built."""
        cell = self.fresh_cell()
        self.build(cell)
        self.complete(cell)
        return cell

    @functools.cached_property
    def initial_weights(self) -> dict[str, np.ndarray]:
        """The weights of the cell as its initializers made them."""
        return cell_weights(self.cell)

    def build(self, cell: Any) -> None:
        """Build a cell for this subject's inputs; plain objects have nothing to build."""
        if isinstance(cell, keras.layers.Layer) and not cell.built:
            with self._policy_around():
                cell.build(self.step_shapes())
            cell.built = True

    def complete(self, cell: Any) -> None:
        """Call a cell without a spec once where layers inside it wait for that to be built.

        STR-06 says so; the other checks are not to stumble over weights that come later.
        """
        if self.target.spec is None and has_unbuilt(cell):
            x = map_shapes(
                lambda s: backend.to_tensor(np.zeros((1, *s), "float32")), self.input_shapes
            )
            states = self.make_layer(cell).get_initial_state(batch_size=1)
            with contextlib.suppress(Exception), self._policy_around():  # a check tells what it is
                call_cell(cell, x, list(states) if type(states) is tuple else states)

    def step_shapes(self, batch: int | None = None) -> Tree:
        """Give the shapes of one time step of input, batch first."""
        return map_shapes(lambda shape: (batch, *shape), self.input_shapes)

    def layer(self, **options: Any) -> Any:
        """Give the layer with these options; the same object for the same options.

        Args:
            **options: Of `keras.layers.RNN`, `return_state=True` unless given.
        """
        options = {"return_state": True, **self._policy, **options}
        key = frozenset(options.items())
        if key not in self._layers:
            self._layers[key] = self.make_layer(self.cell, **options)
        return self._layers[key]

    def fresh_layer(self, **options: Any) -> Any:
        """Make a layer of its own around a new cell with the same weights."""
        cell = self.fresh_cell()
        self.build(cell)
        self.complete(cell)
        set_cell_weights(cell, cell_weights(self.cell))
        return self.make_layer(cell, **{"return_state": True, **self._policy, **options})

    @property
    def _policy(self) -> dict[str, Any]:
        """The dtype of the cell, where this subject has one of its own: the layer's too."""
        return {"dtype": self.kwargs["dtype"]} if "dtype" in self.kwargs else {}

    @functools.cached_property
    def compute_dtype(self) -> str:
        """Dtype that the layer computes in."""
        return str(getattr(self.layer(return_sequences=True), "compute_dtype", "float32"))

    # Weights ------------------------------------------------------------------------------------

    def set_weights(self, seed: int, scale: float = 1.0, plain: bool = False) -> None:
        """Give the cell random, non-symmetric weights, biases included.

        Weights that do not train keep the values that the cell gave them, because such values mean
        something (a fixed reservoir, a basis). A weight that starts as one constant is drawn around
        it and keeps its sign, which a time constant or a rate needs.

        Args:
            seed: Of the weights; the same on every backend.
            scale: Smaller than one where a long run must not be chaotic.
            plain: True to round them, so that a program that lists them stays short.
        """
        key = (seed, scale, plain)
        if key == self._weights_seed:
            return
        if key not in self._drawn:
            self._drawn[key] = self._draw_weights(*key)
        weights, variables = self._drawn[key], self._variables
        if [*weights] == [*variables]:
            for name, variable in variables.items():
                variable.assign(weights[name])
        else:  # the cell has made or lost weights since: say so
            set_cell_weights(self.cell, weights)
        known = self.__dict__.pop("symbols", None)
        # Weights that do not train may have moved by the time somebody asked for the symbols.
        if self._weights_seed and known is not None and not self._moving:
            self._symbols[self._weights_seed] = known
        if key in self._symbols:
            self.__dict__["symbols"] = self._symbols[key]
        self._weights_seed = key

    def forget_weights(self) -> None:
        """Have all weights set anew, where somebody has changed them by hand."""
        self._weights_seed = None
        self.__dict__.pop("symbols", None)

    def forget_drawn(self) -> None:
        """Have weights that do not train set anew, which training may have moved."""
        if "cell" in self.__dict__ and self._moving:
            self._weights_seed = None

    @property
    def _variables(self) -> dict[str, Any]:
        """The cell's variables by path, found anew where it has others than before."""
        held = getattr(self.cell, "weights", ())
        if self._found is None or [id(v) for v in held] != self._found[0]:
            self._found = [id(v) for v in held], variables_by_path(self.cell)
        return self._found[1]

    @functools.cached_property
    def _trainable(self) -> set[str]:
        """Names of the weights that train; a cell may be a plain object, which has none."""
        trainable = {id(v) for v in getattr(self.cell, "trainable_variables", ())}
        return {name for name, v in self._variables.items() if id(v) in trainable}

    @property
    def _moving(self) -> bool:
        """Say whether there are weights that a step might move."""
        return not self._trainable.issuperset(self._variables)

    def _draw_weights(self, seed: int, scale: float, plain: bool) -> dict[str, np.ndarray]:
        weights, variables = {}, self._variables
        for index, (name, start) in enumerate(self.initial_weights.items()):
            if name in self._trainable:
                rng = np.random.default_rng([seed, index, 11])
                drawn = random_weight(start, rng, scale)
                drawn = (np.round(drawn, 1) + 0).astype(drawn.dtype) if plain else drawn
                weights[name] = constrained(variables[name], drawn)
            else:
                weights[name] = start
        valid = None if self.target.spec is None else self.target.spec.draw_weights
        if valid is None:
            return weights
        brought = valid(dict(weights))
        return {name: np.asarray(brought[name], kept.dtype) for name, kept in weights.items()}

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """Config that the reference is given: the cell's own, and the case's arguments."""
        own = self.cell.get_config() if isinstance(self.cell, keras.layers.Layer) else {}
        return {**own, **self.kwargs}

    @functools.cached_property
    def symbols(self) -> dict[str, np.ndarray]:
        """The current weights under the paper's symbols, in float64."""
        weights = {k: np.asarray(v, np.float64) for k, v in cell_weights(self.cell).items()}
        try:
            return self.target.spec.symbols.to_symbols(weights, self.config)
        except Exception as error:
            names = ", ".join(map(repr, weights)) or "none"
            raise SpecFailure(
                f"the `symbols` of the spec do not fit the weights of the cell, which are {names}: "
                f"{describe_error(error)}"
            ) from error

    # Data ---------------------------------------------------------------------------------------

    def inputs(self, example: Example) -> Tree:
        """Draw the inputs of an example: float32 leaves of shape (B, T, ...)."""
        rng = np.random.default_rng([example.seed, 1])
        lead = (example.batch, example.time)
        drawn = map_shapes(
            lambda shape: draw_values(example.values, (*lead, *shape), rng), self.input_shapes
        )
        return self.valid_inputs(drawn)

    def valid_inputs(self, inputs: Tree) -> Tree:
        """Bring inputs into the range that the spec says is valid, as of time gaps."""
        valid = self.target.draw_inputs
        return inputs if valid is None else valid(inputs)

    def states(self, example: Example) -> Tree | None:
        """Draw the initial states of an example, or None where it passes none."""
        return self.random_states(example) if example.initial_state else None

    def random_states(self, example: Example) -> Tree:
        """Draw states of every leaf's own shape and dtype; counters are small and not negative."""
        rng = np.random.default_rng([example.seed, 2])
        kind = PLAIN if example.values == PLAIN else "normal"

        if self.target.spec is None:
            reached = self._reached(example)
            if reached is not None:
                return map_trees(short, reached) if example.values == PLAIN else reached

        def draw(leaf: np.ndarray) -> np.ndarray:
            shape = (example.batch, *leaf.shape[1:])
            if leaf.dtype == bool:
                return rng.random(shape) < 0.5
            if leaf.dtype.kind in "iu":
                return rng.integers(0, 5, shape).astype(leaf.dtype)
            values = draw_values(kind, shape, rng)
            if leaf.dtype.kind == "c":
                values = values + 1j * draw_values(kind, shape, rng)
            return values.astype(leaf.dtype)

        return self.valid_states(map_trees(draw, self.template))

    def _reached(self, example: Example) -> Tree | None:
        """Give states that the cell itself reaches within two steps, or None where that fails.

        Nothing says which states a cell without a spec can have: a covariance is positive, and an
        address sums to one. What a cell has made of its own initial states is a state.
        """
        key = (example.batch, example.seed, example.weights, self._weights_seed)
        if key not in self._states:
            drawn = dataclasses.replace(example, time=2, seed=example.seed + 77)
            try:
                states = self.own_initial_states(example.batch)
                for t in range(2):
                    x = map_trees(lambda a, t=t: a[:, t], self.inputs(drawn))
                    x, before = (
                        map_trees(backend.to_tensor, x),
                        map_trees(backend.to_tensor, states),
                    )
                    _, new = call_cell(self.cell, x, before)
                    states = backend.to_numpy(like_states(states, new))
                    states = map_trees(lambda _, leaf: leaf, self.template, states)
                found = [leaf for leaf in leaves(states) if leaf.dtype.kind in "fc"]
                forms = zip(leaves(states), leaves(self.template), strict=True)
                fits = all((a.shape[1:], a.dtype) == (b.shape[1:], b.dtype) for a, b in forms)
                good = fits and all(np.isfinite(leaf).all() for leaf in found)
                self._states[key] = states if good else None
            except Exception:  # noqa: BLE001 (a check tells what a step raises)
                self._states[key] = None
        kept = self._states[key]
        return None if kept is None else map_trees(np.copy, kept)

    def valid_states(self, states: Tree) -> Tree:
        """Bring states into the range that the spec says is valid."""
        valid = self.target.spec.draw_states if self.target.spec is not None else None
        return states if valid is None else valid(states)

    def symbolic_inputs(self, batch: int | None = None, time: int | None = None) -> Tree:
        """Make Keras inputs, of unknown batch and time unless given.

        Entries of a dict are named by key.

        Args:
            batch: B, which a stateful layer has to know.
            time: T.
        """
        drawn = iter(leaves(self.inputs(Example(1, 1))))

        def make(node: Tree, name: str | None) -> Tree:
            if is_shape(node):
                dtype = str(next(drawn).dtype)
                return keras.Input(batch_shape=(batch, time, *node), name=name, dtype=dtype)
            named = [
                make(child, key if isinstance(key, str) else None) for key, child in children(node)
            ]
            return rebuild(node, named)

        return make(self.input_shapes, None)

    @functools.cached_property
    def template(self) -> Tree:
        """The states before the first step for a batch of one: structure, shapes and dtypes."""
        return self.own_initial_states(1)

    def own_initial_states(self, batch: int) -> Tree:
        """Ask the layer, and through it the cell, for the initial states."""
        layer = self.layer(return_sequences=True)
        states = layer.get_initial_state(batch_size=batch)
        states = list(states) if type(states) is tuple else states
        return backend.to_numpy(states)

    # Running ------------------------------------------------------------------------------------

    def run(
        self,
        layer: Any,
        inputs: Tree,
        states: Tree | None = None,
        mask: np.ndarray | None = None,
        training: bool | None = None,
        graph: bool = False,
    ) -> Returned:
        """Call a layer with NumPy data and take apart what it returns.

        Args:
            layer: One that this subject made.
            inputs: Leaves (B, T, ...).
            states: Initial states, or None.
            mask: (B, T), or None.
            training: Passed on where it is not None.
            graph: True if TensorFlow runs it in a graph, where many eager steps would take long.
        """
        call = record.Call("layer", layer, inputs, states, mask, training, stored=_stored(layer))
        self.calls.append(call)
        if graph and keras.backend.backend() == "tensorflow":
            result = backend.call_compiled(layer, inputs, states, mask, training)
        else:
            result = backend.call_layer(
                layer,
                map_trees(backend.to_tensor, inputs),
                None if states is None else map_trees(backend.to_tensor, states),
                None if mask is None else backend.to_tensor(mask),
                training,
            )
        found = self.unpack(layer, result)
        call.returned, call.output, call.new_states = result, found.output, found.states
        return found

    def note(
        self, layer: Any, data: tuple[Tree, Tree, np.ndarray | None], result: Any, graph: bool
    ) -> Returned:
        """Record a call that was made on the way to a gradient, and take apart what it gave.

        Args:
            layer: The layer.
            data: Inputs, states and mask.
            result: The return value of the layer.
            graph: True if TensorFlow ran it in a graph.
        """
        call = record.Call("layer", layer, *data, graph=graph)
        found = self.unpack(layer, result)
        call.returned, call.output, call.new_states = result, found.output, found.states
        self.calls.append(call)
        return found

    def unpack(self, layer: Any, result: Any) -> Returned:
        """Take apart what a layer returned, into NumPy."""
        output, states = self.split(layer, result)
        return Returned(
            backend.to_numpy(output), None if states is None else backend.to_numpy(states)
        )

    def split(self, layer: Any, result: Any) -> tuple[Any, Any]:
        """Split a layer's result into output and states, without converting anything."""
        if not layer.return_state:
            return result, None
        output, *states = result
        template = self.template
        if difference(template, states) is not None and len(states) == 1:
            states = states[0]
        return output, states

    def step_cell(
        self, inputs: Tree, states: Tree, cell: Any = None, training: bool = False
    ) -> tuple[Tree, Tree]:
        """Run one step of the cell itself, in NumPy.

        Args:
            inputs: Leaves (B, ...).
            states: The states.
            cell: Another cell than the shared one.
            training: The training flag.
        """
        cell = self.cell if cell is None else cell
        inputs, states = map_trees(narrow, inputs), map_trees(narrow, states)
        call = record.Call("step", cell, inputs, states, training=training)
        self.calls.append(call)
        output, new = call_cell(
            cell,
            map_trees(backend.to_tensor, inputs),
            map_trees(backend.to_tensor, states),
            training,
        )
        new = like_states(states, new)
        call.output, call.new_states = backend.to_numpy(output), backend.to_numpy(new)
        return call.output, call.new_states

    # The oracle ---------------------------------------------------------------------------------

    @property
    def has_reference(self) -> bool:
        """Say whether the spec has a NumPy reference of the step."""
        return self.target.spec is not None and self.target.spec.reference is not None

    def reference_step(self, inputs: Tree, states: Tree) -> tuple[Tree, Tree]:
        """Run one step of the reference, or of the cell itself where there is no reference."""
        if not self.has_reference:
            return self.step_cell(inputs, states)
        try:
            result = self.target.spec.reference(self.symbols, inputs, states, self.config)
        except SpecFailure:
            raise
        except Exception as error:
            said = f"the reference in the spec raises {describe_error(error)}"
            if isinstance(error, KeyError):
                said += f"; the symbols are {', '.join(map(repr, self.symbols)) or 'none'}"
            raise SpecFailure(f"{said}\n{trace_of(error)}") from error
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            kind = type(result).__name__
            said = f"the reference in the spec returns {kind}, and not (output, states)"
            raise SpecFailure(said)
        return result[0], result[1]

    def reference_states(self, batch: int, symbols: Mapping[str, np.ndarray] | None = None) -> Tree:
        """Give the initial states by the spec: its function, or zeros, or the cell's own.

        Args:
            batch: Number of rows.
            symbols: Other weights than the current ones.
        """
        if not self.has_reference:
            return self.own_initial_states(batch)
        if self.target.spec.initial_state is not None:
            symbols = self.symbols if symbols is None else symbols
            return self.target.spec.initial_state(symbols, batch, self.config)
        return map_trees(lambda leaf: np.zeros((batch, *leaf.shape[1:]), leaf.dtype), self.template)

    def expect(
        self,
        inputs: Tree,
        states: Tree | None = None,
        mask: np.ndarray | None = None,
        **options: Any,
    ) -> oracle.Run:
        """Run the oracle on the same data.

        Args:
            inputs: Leaves (B, T, ...).
            states: Initial states, or None for the reference's own.
            mask: (B, T), or None.
            **options: The layer's options; those that do not concern the loop are ignored.
        """
        batch = leaves(inputs)[0].shape[0]
        return oracle.run(
            self.reference_step,
            inputs,
            self.reference_states(batch) if states is None else states,
            mask=mask,
            go_backwards=options.get("go_backwards", False),
            zero_output_for_mask=options.get("zero_output_for_mask", False),
            resets=options.get("resets"),
            starts=self.reference_states(batch) if "resets" in options else None,
        )

    def tolerance(self, steps: int) -> Tolerance:
        """Give the tolerance model for a number of steps."""
        sizes = [int(np.prod(shape)) for shape in self._shape_list()]
        states = [int(np.prod(leaf.shape[1:])) for leaf in leaves(self.template)]
        multiplier = 1.0 if self.target.spec is None else self.target.spec.tolerance
        return Tolerance(self.compute_dtype, max(1, steps), sum(sizes) + sum(states), multiplier)

    def _shape_list(self) -> list[tuple[int, ...]]:
        found: list[tuple[int, ...]] = []
        map_shapes(found.append, self.input_shapes)
        return found


@contextlib.contextmanager
def process_policy(name: str) -> Iterator[None]:
    """Set the dtype policy of the process for a while."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _stored(layer: Any) -> list[np.ndarray] | None:
    """Copy what a stateful layer holds before a call; nothing of any other layer."""
    if not getattr(layer, "stateful", False) or not getattr(layer, "states", None):
        return None
    return [backend.to_numpy(leaf) for leaf in leaves(layer.states) if leaf is not None]
