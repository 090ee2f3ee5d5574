"""The output of a cell as a part of its next input."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import (
    CellWrapper,
    TensorSpec,
    as_dtype,
    declared_output,
    matmul,
    number,
    plus,
    positive_int,
)
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, Paper, rename
from cellkit.registry.reference import activation
from cellkit_wrappers._inside import TRAITS, around, below, known


@keras.saving.register_keras_serializable(package="cellkit_wrappers")
class FeedbackCell(CellWrapper):
    """Any cell, whose output, through a head, is a part of its next input.

    Papers: Jordan 1986, "Serial Order: A Parallel Distributed Processing Approach"; Williams and
    Zipser 1989, "A Learning Algorithm for Continually Running Fully Recurrent Neural Networks",
    doi:10.1162/neco.1989.1.2.270, for teacher forcing; Bengio et al. 2015, "Scheduled Sampling for
    Sequence Prediction with Recurrent Neural Networks", arXiv:1506.03099.

    ```
    o, s' = cell([x, p], s)         p is what was fed back, zeros at first
    y = W_y @ o + b_y               the head
    p' = y
    ```

    Where the inputs are `(x, target)`, the target of a step takes the place of its output as the
    next p: teacher forcing. In training each row of each step is fed its own output all the same
    with probability `sampling`. Raise it between epochs by `cell.sampling = 0.3`.

    Args:
        inner: The cell: any cell, a list of cells, or the name of a registered one.
        units: Number of units of a cell that is given by its name.
        head: The head: a number of outputs, which makes W_y and b_y, a Keras layer, or None, which
            feeds the cell's output back as it is.
        sampling: Rate, from 0 to 1, at which own outputs are fed back in spite of a target.
        **kwargs: Options of `cellkit.Cell`: `activation` of y (default linear), `kernel_*` for W_y,
            `bias_*` for b_y, `dropout` on x, `zoneout`, `seed`.

    Inputs: `(batch, features)`, or a pair of them and the targets, in the shape of y. States:
    `[s, p]`. Output: y.

    Raises:
        ValueError: If `sampling` is not a rate, the head not a layer, or the target not like y.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(FeedbackCell("lstm", units=8, head=2))
    >>> layer.cell.state_size
    [[8, 8], TensorSpec(shape=(2,), dtype=None, initializer='zeros', trainable=False)]
    """

    def __init__(
        self,
        inner: Any,
        *,
        units: int | None = None,
        head: Any = None,
        sampling: float = 0.0,
        activation: Any = "linear",
        **kwargs: Any,
    ) -> None:
        super().__init__(inner, units=units, activation=activation, **kwargs)
        if isinstance(head, bool) or not (head is None or isinstance(head, (int, keras.Layer))):
            raise problem(
                f"`head` of {type(self).__name__} is no head.",
                received=f"head={head!r}",
                expected="a number of outputs, a Keras layer, or None",
                fix="pass e.g. head=10, or keras.layers.Dense(10, activation='softmax')",
            )
        self.head = positive_int(type(self), "head", head) if isinstance(head, int) else head
        self.sampling = number(type(self), "sampling", sampling, at_least=0, at_most=1)

    @property
    def fed_size(self) -> int | None:
        """Width of what is fed back; None before that is known."""
        if isinstance(self.head, int):
            return self.head
        if isinstance(self.head, keras.Layer):
            width = getattr(self.head, "units", None)
            return width if isinstance(width, int) else None
        declared = getattr(self.inner, "output_size", None)
        leaves = [] if declared is None else keras.tree.flatten(declared_output(declared))
        return leaves[0].shape[0] if len(leaves) == 1 and len(leaves[0].shape) == 1 else None

    def own_states(self) -> list[TensorSpec]:
        """Return what was fed back last."""
        return [TensorSpec((self.fed_size,))]

    @property
    def output_size(self) -> Any:
        """Width of y; None where that follows only from building the cell."""
        return self.fed_size

    def build(self, input_shape: Any) -> None:
        """Build the cell for inputs and what is fed back, and the head."""
        self.build_own()
        x, target = _pair(input_shape, lambda v: all(d is None or isinstance(d, int) for d in v))
        if len(x) != 2 or x[-1] is None:
            raise problem(
                f"{type(self).__name__} takes one vector per time step.",
                received=f"inputs of one step with shape {tuple(x)}",
                expected="(batch, features) per step, or a pair of that and the targets",
                fix="flatten what a step holds into one feature axis",
            )
        width = self.fed_size
        if width is None:
            raise problem(
                f"{type(self).__name__} does not know how much is fed back.",
                received=f"head={self.head!r} on a {type(self.inner).__name__}",
                expected="a head with a number of `units`, or a cell with one vector as its output",
                fix="pass e.g. head=10",
            )
        shape = (x[0], x[-1] + width)
        self.inside.build(shape)
        output = self.inside.output_shape(shape)
        if isinstance(self.head, int):
            self.head_kernel = self.add_kernel((output[-1], width), "head_kernel")
            self.head_bias = self.add_bias((width,), "head_bias")
        elif self.head is not None and not self.head.built:
            self.head.build(output)
        if target is not None and tuple(target[1:]) != (width,):
            raise problem(
                f"The target of {type(self).__name__} is not like its output.",
                received=f"a target of one step with shape {tuple(target)}",
                expected=f"(batch, {width}), as what the head returns",
                fix="encode the target as the output is, e.g. one-hot for a softmax",
            )

    def drop_inputs(self, inputs: Any) -> Any:
        """Drop elements of x, and none of the target."""
        x, target = _pair(inputs, keras.ops.is_tensor)
        x = super().drop_inputs(x)
        return x if target is None else (x, target)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance the cell on its inputs and on what it said last."""
        (s, p), (x, target) = states, _pair(projected, keras.ops.is_tensor)
        u = keras.ops.concatenate([as_dtype(x, self.compute_dtype), p], axis=-1)
        o, s = self.inside.step(u, s)
        y = self._head(self.as_computed(o))
        return y, [s, y if target is None else self._forced(target, y)]

    def _head(self, o: Any) -> Any:
        if self.head is None:
            return self.activation(o)
        if not isinstance(self.head, int):
            return self.activation(as_dtype(self.head(o), self.compute_dtype))
        y = matmul(o, self.head_kernel)
        return self.activation(plus(y, self.head_bias))

    def _forced(self, target: Any, y: Any) -> Any:
        target = as_dtype(target, y.dtype)
        if not (self.sampling and self.in_training):
            return target
        draw = keras.random.uniform((keras.ops.shape(y)[0], 1), seed=self.seed_generator)
        return keras.ops.where(draw < self.sampling, y, target)


def _pair(inputs: Any, is_leaf: Any) -> tuple[Any, Any]:
    """Return x and the target, which is None where x stands alone."""
    if not isinstance(inputs, (list, tuple)) or (inputs and is_leaf(inputs)):
        return inputs, None
    if len(inputs) == 2:
        return inputs[0], inputs[1]
    raise problem(
        "A feedback cell takes its inputs, or a pair of inputs and targets.",
        received=f"{len(inputs)} inputs",
        expected="x, or (x, target)",
        fix="concatenate what the cell is to see into one x",
    )


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    s, p = states
    o, s = known(config).step(below(w, "inner."), np.concatenate([x, p], axis=1), s)
    y = o if config["head"] is None else o @ w["W_y"] + w.get("b_y", 0.0)
    y = activation(config["activation"])(y)
    return y, [s, y]


FeedbackCell.spec = CellSpec(
    paper=Paper(
        "Williams and Zipser",
        1989,
        "A Learning Algorithm for Continually Running Fully Recurrent Neural Networks",
        "doi:10.1162/neco.1989.1.2.270",
    ),
    unused={"sampling": True},  # it is about targets, which these inputs have none of
    guide=Guide(
        "wrapper",
        "Use it when what a cell said last decides what comes next, as in generation and control.",
        ("language", "wraps cells"),
    ),
    reference=reference,
    symbols=around(rename({"head_kernel": "W_y", "head_bias": "b_y"}, optional=True)),
    cases={
        "default": {"inner": "lstm", "units": 4, "head": 2},
        "softmax": {"inner": "gru", "units": 4, "head": 3, "activation": "softmax"},
        "no_head": {"inner": "simple_rnn", "units": 3},
        "dropout": {"inner": "gru", "units": 4, "head": 2, "dropout": 0.4, "seed": 1},
    },
    traits=TRAITS,
    deviations=(
        "Scheduled sampling of the paper draws one number per step and row, and a schedule for it; "
        "here the rate is set from outside.",
    ),
).completed(FeedbackCell)
