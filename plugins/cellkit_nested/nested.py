"""The nested cell of Keras' guide on recurrent layers, for any number of modalities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from cellkit.cells import Cell, declared_state, matmul, positive_int
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, Paper, custom
from cellkit.registry.reference import activation
from cellkit_nested._modalities import Modality, flatten, listed, modalities


@keras.saving.register_keras_serializable(package="cellkit_nested")
class NestedCell(Cell):
    """Adds up a linear map of each modality over time.

    Source: the Keras guide "Working with RNNs" (Zhu and Chollet 2019), section "RNNs with
    list/dict inputs, or nested inputs", https://keras.io/guides/working_with_rnns.

    `NestedCell(unit_1, unit_2, unit_3)` is the cell of the guide. It takes a vector and a matrix
    per step and multiplies both with the input weights; its states are the sums over time, its
    output is what the step contributes:

    ```
    o1 = W_1 @ x1                                          (unit_1,)
    o2[k, l] = sum over i, j of x2[i, j] * W_2_3[i, j, k, l]    (unit_2, unit_3)
    s1' = s1 + o1
    s2' = s2 + o2
    ```

    `NestedCell(units=...)` is the same for any modalities: every input x of shape `in` has a
    kernel W of shape `(*in, *out)`, which is summed over all axes of x:

    ```
    o = f(sum over all axes of x of x * W, + b)            f linear and no b by default
    s' = s + o
    ```

    The cell has no recurrent weights and is linear: a model of its own states can't tell in which
    order things happened. `GatedFusionCell` can, and is the one to train.

    Args:
        unit_1: Size of the output for the vector.
        unit_2: First size of the output for the matrix.
        unit_3: Second size of the output for the matrix.
        units: Instead of these three, a size (an int, for a vector) or shape (a tuple) per
            modality, in the structure of the inputs: `{"video": (4, 4), "audio": 8}`,
            `[8, (4, 4)]`. At the top level a list or tuple holds one entry per modality; below
            it, one that holds ints only is a shape.
        activation: f. Default `"linear"`, as in the guide.
        use_bias: True if there is a b. Default False, as in the guide.
        kernel_initializer: Initializer of the kernels. Default `"uniform"`, as in the guide.
        **kwargs: Options of `cellkit.Cell`. Without recurrent weights, those for them do nothing.

    Inputs: with three units, a structure of two leaves, `(batch, i1)` and `(batch, i2, i3)`: a
    list, tuple or dict, in any order, for they are told apart by their rank. With `units`, leaves
    `(batch, ...)` of any rank. States and outputs: with three units `[s1, s2]` and `(o1, o2)`,
    of shapes `(batch, unit_1)` and `(batch, unit_2, unit_3)`; with `units`, in its structure.

    Example:
    >>> import cellkit
    >>> import numpy as np
    >>> layer = cellkit.RNN(NestedCell(units={"video": (4, 4), "audio": 8}))
    >>> out = layer({"video": np.zeros((2, 5, 16, 16, 3)), "audio": np.zeros((2, 5, 20))})
    >>> tuple(out["audio"].shape), tuple(out["video"].shape)
    ((2, 8), (2, 4, 4))
    """

    def __init__(
        self,
        unit_1: int | None = None,
        unit_2: int | None = None,
        unit_3: int | None = None,
        *,
        units: Any = None,
        activation: Any = "linear",
        use_bias: bool = False,
        kernel_initializer: Any = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            **kwargs,
        )
        three = {"unit_1": unit_1, "unit_2": unit_2, "unit_3": unit_3}
        given = {name: value for name, value in three.items() if value is not None}
        if len(given) != (3 if units is None else 0):
            raise problem(
                "NestedCell needs either three units or `units`.",
                received=", ".join(f"{k}={v!r}" for k, v in {**given, "units": units}.items()),
                expected="NestedCell(unit_1, unit_2, unit_3) for a vector and a matrix per step, "
                "or NestedCell(units=...) with a size or shape per modality",
                fix="write e.g. NestedCell(10, 20, 30), or NestedCell(units={'video': (4, 4), "
                "'audio': 8})",
            )
        for name, value in given.items():
            positive_int(type(self), name, value)
        self.unit_1, self.unit_2, self.unit_3 = unit_1, unit_2, unit_3
        self.units = None if units is None else _sizes(units)

    @property
    def state_size(self) -> Any:
        """One state per modality, in the shape of its output."""
        if self.units is None:
            return [self.unit_1, (self.unit_2, self.unit_3)]
        return _sizes(self.units)

    @property
    def output_size(self) -> Any:
        """One output per modality, in the structure of the states."""
        declared = declared_state(self.state_size)
        if isinstance(self.units, int):
            return declared[0]
        return tuple(declared) if isinstance(declared, list) else declared

    def build(self, input_shape: Any) -> None:
        """Create one kernel per modality, and a bias where one is wanted."""
        super().build(input_shape)
        self._inputs = modalities(self, input_shape)
        pairs = _by_rank(self) if self.units is None else _by_path(self)
        self._order = [self._inputs.index(modality) for modality, _, _ in pairs]
        self.kernels = [self.add_kernel((*m.shape, *out), f"kernel_{n}") for m, out, n in pairs]
        self.biases = [self.add_bias(out, f"bias_{n}") for _, out, n in pairs]

    def project(self, inputs: Any) -> list[Any]:
        """Return what a step contributes, per modality in the order of the states."""
        x = flatten(self, inputs, self._inputs)
        contracted = [contract(x[i], w) for i, w in zip(self._order, self.kernels, strict=True)]
        return [
            self.activation(o if b is None else o + b)
            for o, b in zip(contracted, self.biases, strict=True)
        ]

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance one time step."""
        sums = [s + o for s, o in zip(keras.tree.flatten(states), projected, strict=True)]
        output = keras.tree.pack_sequence_as(self.output_size, projected)
        return output, keras.tree.pack_sequence_as(states, sums)


def contract(x: Any, kernel: Any) -> Any:
    """Sum ``x * kernel`` over all axes of `x` but the first, as one matrix product.

    Args:
        x: Tensor of shape `(rows, *in)`.
        kernel: Weight of shape `(*in, *out)`.

    Returns:
        Tensor of shape `(rows, *out)`, in the dtype of its operands on every backend.
    """
    rank = len(x.shape) - 1
    if rank == 1 and len(kernel.shape) == 2:
        return matmul(x, kernel)
    inner, out = math.prod(kernel.shape[:rank]), tuple(kernel.shape[rank:])
    matrix = keras.ops.reshape(kernel, (inner, math.prod(out)))
    product = matmul(keras.ops.reshape(x, (-1, inner)), matrix)
    return keras.ops.reshape(product, (-1, *out))


def _sizes(units: Any, top: bool = True) -> Any:
    """Return `units` with plain dicts and tuples, checked."""
    if isinstance(units, Mapping) and units:
        return {key: _sizes(value, top=False) for key, value in units.items()}
    if isinstance(units, (list, tuple)) and units:
        if not top and not any(isinstance(u, (Mapping, list, tuple)) for u in units):
            return tuple(positive_int(NestedCell, "units", u) for u in units)
        return tuple(_sizes(value, top=False) for value in units)
    return positive_int(NestedCell, "units", units)


def _by_rank(cell: NestedCell) -> list[tuple[Modality, tuple[int, ...], str]]:
    """Pair the guide's units with the vector and the matrix among the inputs."""
    ranked = sorted(cell._inputs, key=lambda m: len(m.shape))
    if [len(m.shape) for m in ranked] != [1, 2]:
        raise problem(
            "NestedCell(unit_1, unit_2, unit_3) takes a vector and a matrix per time step.",
            received=listed(cell._inputs),
            expected="two inputs, of shapes (batch, i1) and (batch, i2, i3) per step, so "
            "(batch, time, i1) and (batch, time, i2, i3) for the layer",
            fix="pass both in a list, tuple or dict; for other modalities write "
            "NestedCell(units=...) with a size or shape for each",
        )
    vector, matrix = ranked
    return [
        (vector, (cell.unit_1,), "1"),
        (matrix, (cell.unit_2, cell.unit_3), "2_3"),
    ]


def _by_path(cell: NestedCell) -> list[tuple[Modality, tuple[int, ...], str]]:
    """Pair `units` with the inputs that stand at the same place in their structure."""
    declared = declared_state(cell.state_size)
    specs = {tuple(p): s.shape for p, s in keras.tree.flatten_with_path(declared)}
    if isinstance(cell.units, int):
        specs = {(): specs[0,]}
    inputs = {m.path: m for m in cell._inputs}
    if set(specs) != set(inputs):
        raise problem(
            "The inputs of NestedCell do not have the structure of its units.",
            received=listed(cell._inputs),
            expected=f"one input per entry of units={cell.units!r}",
            fix="pass the inputs in that structure (dicts with the same keys), or name a size for "
            "each input in `units`",
        )
    return [(inputs[path], shape, inputs[path].name) for path, shape in specs.items()]


def reference(w: Any, inputs: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    f = activation(config["activation"])
    if config["units"] is None:
        leaves = inputs.values() if isinstance(inputs, Mapping) else inputs
        x1, x2 = sorted(leaves, key=np.ndim)
        o1 = f(np.einsum("bi,ij->bj", x1, w["W_1"]) + w.get("b_1", 0))
        o2 = f(np.einsum("bij,ijkl->bkl", x2, w["W_2_3"]) + w.get("b_2_3", 0))
        return (o1, o2), [states[0] + o1, states[1] + o2]
    named = isinstance(inputs, Mapping)
    outputs = {}
    for name, x in inputs.items() if named else enumerate(inputs):
        o = np.tensordot(x, w[f"W_{name}"], axes=x.ndim - 1)
        outputs[name] = f(o + w.get(f"b_{name}", 0))
    if named:
        return outputs, {name: states[name] + o for name, o in outputs.items()}
    return tuple(outputs.values()), [states[i] + o for i, o in outputs.items()]


def _renamed(old: tuple[str, str], new: tuple[str, str]) -> Any:
    """Return a function that replaces the first word of the names of weights or symbols."""
    words = dict(zip(old, new, strict=True))

    def rename(arrays: Any, config: Any) -> dict[str, Any]:
        split = {name: name.split("_", 1) for name in arrays}
        return {f"{words[word]}_{rest}": arrays[name] for name, (word, rest) in split.items()}

    return rename


NestedCell.spec = CellSpec(
    paper=Paper(
        "Zhu and Chollet", 2019, "Working with RNNs", "https://keras.io/guides/working_with_rnns"
    ),
    guide=Guide(
        "several inputs",
        "Use it when you want the smallest example of a cell with a structure of inputs.",
        ("tiny", "several inputs"),
    ),
    reference=reference,
    inputs={"location": ("i1",), "pressure": ("i2", "i3")},
    symbols=custom(
        to_symbols=_renamed(("kernel", "bias"), ("W", "b")),
        from_symbols=_renamed(("W", "b"), ("kernel", "bias")),
    ),
    cases={
        "guide": {"unit_1": 3, "unit_2": 2, "unit_3": 4},
        "named": {"units": {"location": (2, 3), "pressure": 4}},
        "bias": {
            "units": {"location": 3, "pressure": (2, 2, 2)},
            "use_bias": True,
            "activation": "tanh",
        },
    },
    traits={"masking", "stateful", "dropout", "zoneout"},
    deviations=(
        "The guide's cell has neither the form with `units`, nor biases, nor activations.",
        "The guide takes its two inputs in this order; here their ranks tell them apart.",
    ),
)
