"""The few things that Keras does not offer in one way on all backends: gradients, mostly.

Imported in workers only; it imports Keras, and with it the backend that the process was given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from cellkit.engines.backend import backend as engine_backend
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.trees import Tree, is_branch, map_trees, paths

Loss = Callable[[Any, Any], Any]
"""Makes the scalar to differentiate of what a layer returns, and of further data."""


@dataclass(frozen=True)
class Gradients:
    """Gradients of a scalar, as NumPy arrays; None where nothing connects the two.

    Attributes:
        inputs: By path of the input leaf.
        states: By path of the initial state leaf; empty where none was passed.
        weights: By path of the trainable variable.
        result: The return value of the layer on the way, as the backend's tensors.
    """

    inputs: Mapping[str, np.ndarray | None]
    states: Mapping[str, np.ndarray | None]
    weights: Mapping[str, np.ndarray | None]
    result: Any = None

    def items(self) -> list[tuple[str, np.ndarray | None]]:
        """List all gradients with a name that says what they belong to."""
        kinds = (("input", self.inputs), ("state", self.states), ("weight", self.weights))
        return [(f"{kind} {name}".strip(), g) for kind, group in kinds for name, g in group.items()]


def to_tensor(array: Any) -> Any:
    """Make a tensor of the array's own dtype."""
    array = np.asarray(array, order="C")  # `ascontiguousarray` gives a scalar an axis
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.convert_to_tensor(array)  # a third of what Keras takes, thousands of times
    return keras.ops.convert_to_tensor(array, dtype=str(array.dtype))


def to_numpy(tree: Tree) -> Tree:
    """Turn every leaf into a NumPy array; half precisions that NumPy lacks become float32."""
    return map_trees(_leaf_to_numpy, tree)


def _leaf_to_numpy(leaf: Any) -> np.ndarray:
    if keras.backend.standardize_dtype(getattr(leaf, "dtype", "float32")) == "bfloat16":
        leaf = keras.ops.cast(leaf, "float32")
    # A copy: on some backends the array is a view of a buffer that a later call overwrites.
    return np.array(keras.ops.convert_to_numpy(leaf))


def is_floating(array: Any) -> bool:
    """Say whether one can differentiate with respect to an array."""
    return np.asarray(array).dtype.kind in "fc"


def differentiate(
    layer: Any,
    loss: Loss,
    inputs: Tree,
    states: Tree | None,
    counts: np.ndarray,
    *,
    mask: Any = None,
    training: bool = False,
    compiled: dict[Any, Any] | None = None,
    graph: bool = False,
    losses: bool = False,
) -> Gradients:
    """Differentiate a scalar of what a layer returns.

    Args:
        layer: A built recurrent layer.
        loss: Scalar of the layer's result and of `counts`.
        inputs: Structure of NumPy arrays (B, T, ...).
        states: Initial states as NumPy arrays, or None.
        counts: Further data of the loss.
        mask: A bool array (B, T), or None.
        training: Passed to the layer.
        compiled: Store of JAX's compiled functions from call to call; a function is found by
            the layer, the loss and the presence of states and mask.
        graph: True if TensorFlow runs it in a graph.
        losses: True to add the layer's own losses.

    Returns:
        The gradients with respect to every floating input, initial state and trainable weight.

    Raises:
        NotApplicable: The backend has no gradients.
    """
    need_gradients()
    call: Callable[..., Any] = {
        "tensorflow": _differentiate_tensorflow,
        "torch": _differentiate_torch,
        "jax": _differentiate_jax,
    }[keras.backend.backend()]
    if graph and keras.backend.backend() == "tensorflow":
        call = _in_graph(call)
    names = [variable.path for variable in layer.trainable_variables]
    mask = None if mask is None else to_tensor(mask)
    (g_inputs, g_states, g_weights), result = call(
        layer,
        loss,
        map_trees(to_tensor, inputs),
        _tensors(states),
        to_tensor(counts),
        mask,
        training,
        compiled,
        losses,
    )
    g_weights = [None if g is None else _leaf_to_numpy(g) for g in g_weights]
    return Gradients(
        {k: None if g is None else _leaf_to_numpy(g) for k, g in g_inputs.items()},
        {k: None if g is None else _leaf_to_numpy(g) for k, g in g_states.items()},
        dict(zip(names, g_weights, strict=True)),
        result,
    )


def has_gradients() -> bool:
    """Say whether this backend differentiates, and so trains."""
    return engine_backend.differentiates


def need_gradients() -> None:
    """Leave a check that differentiates or trains, where the backend does neither.

    Raises:
        NotApplicable: The backend has no gradients.
    """
    if not has_gradients():
        raise NotApplicable(f"{engine_backend.name} has no gradients, and trains nothing")


def _tensors(states: Tree | None) -> Tree | None:
    return None if states is None else map_trees(to_tensor, states)


def call_layer(layer: Any, inputs: Tree, states: Any, mask: Any, training: Any) -> Any:
    """Call a layer with the arguments that are there; Keras tells a None from an absence.

    Args:
        layer: The layer.
        inputs: Tensors.
        states: Initial states or None.
        mask: Mask or None.
        training: Flag or None.
    """
    given = {"initial_state": states, "mask": mask, "training": training}
    return layer(inputs, **{key: value for key, value in given.items() if value is not None})


def _floating(tree: Tree | None) -> dict[str, Any]:
    if tree is None:
        return {}
    return {
        path: leaf
        for path, leaf in paths(tree)
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(leaf.dtype))
    }


def _replace(tree: Tree | None, values: Mapping[str, Any], prefix: str = "") -> Tree | None:
    """Put values into a tree by path."""
    if tree is None:
        return None
    names = iter([path for path, _ in paths(tree)])
    return map_trees(lambda leaf: values.get(next(names), leaf), tree)


def _differentiate_tensorflow(
    layer: Any,
    loss: Loss,
    inputs: Tree,
    states: Tree | None,
    counts: Any,
    mask: Any,
    training: bool,
    compiled: dict[Any, Any] | None,
    losses: bool,
) -> Any:
    import tensorflow as tf

    of_inputs, of_states = _floating(inputs), _floating(states)
    weights = [variable.value for variable in layer.trainable_variables]
    with tf.GradientTape() as tape:
        for leaf in (*of_inputs.values(), *of_states.values()):
            tape.watch(leaf)
        result = call_layer(layer, inputs, states, mask, training)
        value = loss(result, counts) + (_sum(layer.losses) if losses else 0.0)
    return _densify(tf, tape.gradient(value, (of_inputs, of_states, weights))), result


def _sum(losses: Any) -> Any:
    """Add up the losses of a layer."""
    return sum(losses, start=0.0)


def _in_graph(call: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function of `differentiate` run in a graph of TensorFlow."""
    import tensorflow as tf

    def run(
        layer: Any,
        loss: Loss,
        inputs: Tree,
        states: Tree | None,
        counts: Any,
        mask: Any,
        training: bool,
        compiled: dict[Any, Any] | None,
        losses: bool,
    ) -> Any:
        def graph(x: Tree, s: Tree | None, c: Any, m: Any) -> Any:
            return call(layer, loss, x, s, c, m, training, compiled, losses)

        # Called at once, TensorFlow would take all of these for one that it traces too often.
        data = inputs, states, counts, mask
        return tf.function(graph, autograph=False).get_concrete_function(*data)(*data)

    return run


def _densify(tf: Any, gradients: Any) -> Any:
    """Turn the gradients of gathers into plain tensors."""
    if isinstance(gradients, tf.IndexedSlices):
        return tf.convert_to_tensor(gradients)
    if is_branch(gradients):
        return map_trees(lambda g: _densify(tf, g), gradients)
    return gradients


def _differentiate_torch(
    layer: Any,
    loss: Loss,
    inputs: Tree,
    states: Tree | None,
    counts: Any,
    mask: Any,
    training: bool,
    compiled: dict[Any, Any] | None,
    losses: bool,
) -> Any:
    import torch

    def leaf_of_graph(x: Any) -> Any:
        return x.detach().clone().requires_grad_(True)

    of_inputs = {k: leaf_of_graph(v) for k, v in _floating(inputs).items()}
    of_states = {k: leaf_of_graph(v) for k, v in _floating(states).items()}
    weights = [variable.value for variable in layer.trainable_variables]
    result = call_layer(
        layer, _replace(inputs, of_inputs), _replace(states, of_states), mask, training
    )
    targets = [*of_inputs.values(), *of_states.values(), *weights]
    value = loss(result, counts) + (_sum(layer.losses) if losses else 0.0)
    found = list(torch.autograd.grad(value, targets, allow_unused=True))
    first, second = len(of_inputs), len(of_inputs) + len(of_states)
    gradients = (
        dict(zip(of_inputs, found[:first], strict=True)),
        dict(zip(of_states, found[first:second], strict=True)),
        found[second:],
    )
    return gradients, map_trees(lambda leaf: leaf.detach(), list(result))


def _differentiate_jax(
    layer: Any,
    loss: Loss,
    inputs: Tree,
    states: Tree | None,
    counts: Any,
    mask: Any,
    training: bool,
    compiled: dict[Any, Any] | None,
    losses: bool,
) -> Any:
    import jax

    key = (id(layer), loss, states is None, mask is None, training, losses)
    functions = {} if compiled is None else compiled
    if key not in functions:

        def value(
            of_inputs: Any,
            of_states: Any,
            weights: Any,
            others: Any,
            inputs: Tree,
            states: Tree | None,
            counts: Any,
            mask: Any,
        ) -> Any:
            inputs, states = _replace(inputs, of_inputs), _replace(states, of_states)
            given = {"initial_state": states, "mask": mask, "training": training}
            given = {name: entry for name, entry in given.items() if entry is not None}
            result, _, own = layer.stateless_call(
                weights, others, inputs, return_losses=True, **given
            )
            return loss(result, counts) + (_sum(own) if losses else 0.0), result

        functions[key] = jax.jit(jax.grad(value, argnums=(0, 1, 2), has_aux=True))
    weights = [variable.value for variable in layer.trainable_variables]
    others = [variable.value for variable in layer.non_trainable_variables]
    return functions[key](
        _floating(inputs), _floating(states), weights, others, inputs, states, counts, mask
    )


def without_gradients() -> contextlib.AbstractContextManager[object]:
    """Run what is in the block without recording gradients; the other backends never do unasked."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def can_compile() -> bool:
    """Say whether this backend compiles at a price that a check can pay; Torch takes far longer."""
    return keras.backend.backend() != "torch"


def call_compiled(
    layer: Any,
    inputs: Tree,
    states: Tree | None = None,
    mask: Any = None,
    training: bool | None = None,
    xla: bool = False,
) -> Any:
    """Call a built layer inside a compiled function.

    Args:
        layer: A layer that was built.
        inputs: NumPy arrays (B, T, ...).
        states: Initial states in NumPy, or None.
        mask: (B, T), or None.
        training: Passed on where it is not None.
        xla: True if TensorFlow compiles with XLA, and not only into a graph.

    Returns:
        What the layer returned.

    Raises:
        NotApplicable: The backend compiles nothing.
    """
    if not has_gradients():
        raise NotApplicable(f"{engine_backend.name} compiles nothing that a check could call")
    x, states = map_trees(to_tensor, inputs), _tensors(states)
    mask = None if mask is None else to_tensor(mask)
    if not layer.built:
        layer.build(map_trees(np.shape, inputs))
    name = keras.backend.backend()
    if name == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(
            lambda x, s, m: call_layer(layer, x, s, m, training), jit_compile=xla
        )
        return compiled(x, states, mask)
    if name == "torch":
        import torch

        compiled = torch.compile(lambda x, s, m: call_layer(layer, x, s, m, training))
        return compiled(x, states, mask)
    import jax

    given = {"training": training} if training is not None else {}

    def run(trainable: Any, others: Any, x: Any, states: Any, mask: Any) -> Any:
        optional = {"initial_state": states, "mask": mask}
        optional = {key: value for key, value in optional.items() if value is not None}
        return layer.stateless_call(trainable, others, x, **optional, **given)[0]

    return jax.jit(run)(
        [v.value for v in layer.trainable_variables],
        [v.value for v in layer.non_trainable_variables],
        x,
        states,
        mask,
    )
