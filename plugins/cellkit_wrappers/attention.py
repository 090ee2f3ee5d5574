"""Attention to a memory, inside of the recurrence."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np

from cellkit.cells import (
    CellWrapper,
    TensorSpec,
    as_dtype,
    choice,
    declared_output,
    matmul,
    plus,
    positive_int,
    vector_size,
)
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, Paper, rename
from cellkit.registry.reference import activation
from cellkit_wrappers._inside import TRAITS, around, below, known

SCORES = ("additive", "multiplicative")


@keras.saving.register_keras_serializable(package="cellkit_wrappers")
class AttentionCell(CellWrapper):
    """Any cell, which reads at every step from a memory, where its output tells it to look.

    Papers: Bahdanau, Cho and Bengio 2015, "Neural Machine Translation by Jointly Learning to Align
    and Translate", arXiv:1409.0473, for the additive score; Luong, Pham and Manning 2015,
    "Effective Approaches to Attention-based Neural Machine Translation", arXiv:1508.04025, for the
    multiplicative one, the order of the step and feeding what was read.

    ```
    o, s' = cell([x, r], s)                 r is what was read last; x alone with feed=False
    q = W_q @ o
    e_i = v . tanh(q + W_m @ m_i + b_q)     score="additive", for every place i of the memory m
    e_i = q . m_i                           score="multiplicative"
    a = softmax(e)                          over the places that the mask keeps
    r' = sum over i of a_i * m_i
    y = [o, r']                             or tanh(W_y @ [o, r'] + b_y) with `output_units`
    ```

    The memory comes as `constants=(memory, memory_mask)` of the layer, or `constants=memory`: of
    shape `(batch, places, width)` and `(batch, places)`, True where a place counts. What stands
    at other places has no effect; a row without any place reads zeros.

    Args:
        inner: The cell: any cell, a list of cells, or the name of a registered one.
        memory_units: Width of the memory.
        units: Number of units of a cell that is given by its name.
        score: `"additive"` or `"multiplicative"`.
        score_units: Width of q in the additive score. Default: that of the memory.
        feed: True where the vector that was read is a part of the next input. Default True.
        output_units: Width of y. Default None: y is the output and what was read, side by side.
        return_weights: True for the output `{"output": y, "weights": a}`.
        **kwargs: Options of `cellkit.Cell`: `activation` for both tanh, `kernel_*` for all W,
            `bias_*` for all b, `dropout` on x, `zoneout`.

    Inputs: `(batch, features)`. States: those of the cell; `[s, r]` with `feed`. Output: y, of
    width `output_units`, or as wide as o and the memory together.

    Raises:
        ValueError: If the memory is missing or has another shape.

    Example:
    >>> import cellkit
    >>> import numpy as np
    >>> decoder = cellkit.RNN(AttentionCell("gru", memory_units=5, units=8), return_sequences=True)
    >>> memory, mask = np.ones((2, 7, 5), "float32"), np.ones((2, 7), bool)
    >>> tuple(decoder(np.ones((2, 4, 3), "float32"), constants=(memory, mask)).shape)
    (2, 4, 13)
    """

    uses_constants: ClassVar[bool] = True

    def __init__(
        self,
        inner: Any,
        memory_units: int,
        *,
        units: int | None = None,
        score: str = "additive",
        score_units: int | None = None,
        feed: bool = True,
        output_units: int | None = None,
        return_weights: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(inner, units=units, **kwargs)
        self.memory_units = positive_int(type(self), "memory_units", memory_units)
        self.score = choice(type(self), "score", score, SCORES)
        for name, value in (("score_units", score_units), ("output_units", output_units)):
            setattr(self, name, None if value is None else positive_int(type(self), name, value))
        self.feed = bool(feed)
        self.return_weights = bool(return_weights)

    def own_states(self) -> list[TensorSpec]:
        """Return what was read last, where it is fed back."""
        return [TensorSpec((self.memory_units,))] if self.feed else []

    @property
    def output_size(self) -> Any:
        """Width of y; with `return_weights` the shapes of both outputs."""
        width = self.output_units
        if width is None:
            inner = getattr(self.inner, "output_size", None)
            leaves = [] if inner is None else keras.tree.flatten(declared_output(inner))
            if len(leaves) != 1 or len(leaves[0].shape) != 1:
                return None
            width = leaves[0].shape[0] + self.memory_units
        if not self.return_weights:
            return width
        return {"output": TensorSpec((width,)), "weights": TensorSpec((None,))}

    def build(self, input_shape: Any) -> None:
        """Build the cell for inputs and what was read, and create the weights of the score."""
        self.build_own()
        width = self.memory_units
        features = vector_size(self, input_shape)
        shape = (input_shape[0], features + width if self.feed else features)
        self.inside.build(shape)
        output = vector_size(self, self.inside.output_shape(shape))
        queried = (self.score_units or width) if self.score == "additive" else width
        self.query_kernel = self.add_kernel((output, queried), "query_kernel")
        if self.score == "additive":
            self.memory_kernel = self.add_kernel((width, queried), "memory_kernel")
            self.score_bias = self.add_bias((queried,), "score_bias")
            self.score_kernel = self.add_kernel((queried, 1), "score_kernel")
        if self.output_units:
            self.output_kernel = self.add_kernel(
                (output + width, self.output_units), "output_kernel"
            )
            self.output_bias = self.add_bias((self.output_units,), "output_bias")

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance the cell, look at the memory, and read."""
        x = as_dtype(projected, self.compute_dtype)
        memory, keys, counts = self.constants
        self._check_batch(memory, x.shape[0])
        if self.feed:
            s, r = states
            o, s = self.inside.step(keras.ops.concatenate([x, r], axis=-1), s)
        else:
            o, s = self.inside.step(projected, states)
        o = self.as_computed(o)
        a = _shares(self._scores(o, keys), counts)
        r = keras.ops.sum(keras.ops.expand_dims(a, -1) * memory, axis=1)
        y = keras.ops.concatenate([o, r], axis=-1)
        if self.output_units:
            y = matmul(y, self.output_kernel)
            y = self.activation(plus(y, self.output_bias))
        y = {"output": y, "weights": a} if self.return_weights else y
        return y, [s, r] if self.feed else s

    def _check_batch(self, memory: Any, batch: int | None) -> None:
        """Raise a three-part `ValueError` unless there is a memory for each row."""
        if batch != memory.shape[0] and isinstance(batch, int) and isinstance(memory.shape[0], int):
            raise problem(
                f"The memory of {type(self).__name__} has another batch than its inputs.",
                received=f"a memory of shape {tuple(memory.shape)} for {batch} rows",
                expected=f"({batch}, places, {self.memory_units}), one memory for each row",
                fix="pass the memory of the same rows, or repeat one for all of them with "
                "`keras.ops.repeat(memory, batch, axis=0)`",
            )

    def project_constants(self, constants: Any) -> tuple[Any, Any, Any]:
        """Return the memory, what a query is compared with, and where places count.

        Args:
            constants: The memory, or the memory and its mask.

        Returns:
            The memory with zeros at places that do not count; W_m @ m + b_q, or m itself; and 1
            or 0 for each place, `(batch, places)`.
        """
        name = type(self).__name__
        memory, mask = _memory_and_mask(name, constants)
        if memory.shape[-1] != self.memory_units:
            raise problem(
                f"The memory of {name} has another width than it was made for.",
                received=f"a memory of shape {tuple(memory.shape)}",
                expected=f"(batch, places, {self.memory_units}), as `memory_units` says",
                fix=f"make the cell with memory_units={memory.shape[-1]}",
            )
        memory = as_dtype(memory, self.compute_dtype)
        if mask is None:
            counts = keras.ops.ones_like(memory[..., 0])
        else:
            mask = keras.ops.cast(mask, "bool")
            counts = keras.ops.cast(mask, memory.dtype)
            zeros = keras.ops.zeros_like(memory)
            memory = keras.ops.where(keras.ops.expand_dims(mask, -1), memory, zeros)
        if self.score == "multiplicative":
            return memory, memory, counts
        keys = matmul(memory, self.memory_kernel)
        return memory, plus(keys, self.score_bias), counts

    def _scores(self, o: Any, keys: Any) -> Any:
        """Return one score per place, `(batch, places)`."""
        q = keras.ops.expand_dims(matmul(o, self.query_kernel), 1)
        if self.score == "multiplicative":
            return keras.ops.sum(keys * q, axis=-1)
        v = keras.ops.squeeze(self.score_kernel, -1)
        return keras.ops.sum(self.activation(keys + q) * v, axis=-1)


def _shares(scores: Any, counts: Any) -> Any:
    """Return the softmax over the places that count; zeros where there are none."""
    dtype = keras.backend.standardize_dtype(scores.dtype)
    half = dtype in ("float16", "bfloat16")
    e, counts = (as_dtype(x, "float32") if half else x for x in (scores, counts))
    if scores.shape[-1] == 1:  # all to the one place; Keras warns of such a softmax
        return as_dtype(0 * e + counts, dtype)
    # Far below every score, and finite: rows without any place have no NaN in their gradient.
    return as_dtype(keras.ops.softmax(e + 1e9 * (counts - 1), axis=-1) * counts, dtype)


def _memory_and_mask(name: str, constants: Any) -> tuple[Any, Any]:
    """Return the two constants, the second None where there is no mask."""
    given = list(constants) if isinstance(constants, (list, tuple)) else [constants]
    shapes = [tuple(getattr(x, "shape", ())) for x in given]
    fits = 1 <= len(given) <= 2 and len(shapes[0]) == 3 and shapes[0][-1] is not None
    if fits and len(given) == 2:
        fits = len(shapes[1]) == 2 and all(
            a is None or b is None or a == b for a, b in zip(shapes[0], shapes[1], strict=False)
        )
    if not fits:
        raise problem(
            f"The constants of {name} are no memory.",
            received=f"{len(given)} constant(s) of shape {', '.join(map(str, shapes))}",
            expected="memory (batch, places, width), and where wanted memory_mask (batch, places)",
            fix="pass `constants=(memory, memory_mask)`, e.g. the outputs of an encoder and its "
            "mask",
        )
    return given[0], given[1] if len(given) == 2 else None


def reference(w: Any, x: Any, states: Any, config: Any, constants: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    memory, tanh = constants[0], activation(config["activation"])
    mask = constants[1] if len(constants) > 1 else np.ones(memory.shape[:2])
    if config["feed"]:
        s, r = states
        o, s = known(config).step(below(w, "inner."), np.concatenate([x, r], axis=1), s)
    else:
        o, s = known(config).step(below(w, "inner."), x, states)
    q = o @ w["W_q"]
    if config["score"] == "additive":
        hidden = tanh(q[:, None] + memory @ w["W_m"] + w.get("b_q", 0.0))
        e = hidden @ w["v"][:, 0]
    else:
        e = np.einsum("bd,bpd->bp", q, memory)
    a = mask * np.exp(e - e.max(axis=1, keepdims=True))
    a = a / np.maximum(a.sum(axis=1, keepdims=True), 1e-300)  # nothing is read without a place
    r = np.einsum("bp,bpd->bd", a, memory)
    y = np.concatenate([o, r], axis=1)
    if config["output_units"]:
        y = tanh(y @ w["W_y"] + w.get("b_y", 0.0))
    y = {"output": y, "weights": a} if config["return_weights"] else y
    return y, [s, r] if config["feed"] else s


AttentionCell.spec = CellSpec(
    paper=Paper(
        "Bahdanau, Cho and Bengio",
        2015,
        "Neural Machine Translation by Jointly Learning to Align and Translate",
        "arXiv:1409.0473",
    ),
    guide=Guide(
        "wrapper",
        "Use it when each step has to look something up in another sequence, as in translation.",
        ("language", "speech", "wraps cells"),
    ),
    reference=reference,
    constants=[("places", 5), ("places",)],
    draw_constants=lambda constants: [constants[0], (constants[1] > -0.5).astype("int32")],
    symbols=around(
        rename({"query_kernel": "W_q"})
        | rename(
            {
                "memory_kernel": "W_m",
                "score_bias": "b_q",
                "score_kernel": "v",
                "output_kernel": "W_y",
                "output_bias": "b_y",
            },
            optional=True,
        )
    ),
    cases={
        "default": {"inner": "gru", "memory_units": 5, "units": 4},
        "multiplicative": {
            "inner": "lstm",
            "memory_units": 5,
            "units": 4,
            "score": "multiplicative",
        },
        "no_feed": {
            "inner": "lstm",
            "memory_units": 5,
            "units": 3,
            "feed": False,
            "score_units": 5,
        },
        "weights": {
            "inner": "gru",
            "memory_units": 5,
            "units": 4,
            "output_units": 3,
            "return_weights": True,
        },
        "no_bias": {
            "inner": "gru",
            "memory_units": 5,
            "units": 3,
            "output_units": 2,
            "use_bias": False,
        },
        "dropout": {
            "inner": "gru",
            "memory_units": 5,
            "units": 4,
            "dropout": 0.4,
            "use_bias": False,
            "seed": 1,
        },
    },
    traits=TRAITS,
    deviations=(
        "The additive score of Bahdanau et al. sees the state before the step; here, as Luong et "
        "al. order it, the output after it.",
        "Luong et al. feed tanh(W_y @ [o, r']) back; here r' itself is fed back.",
        "The additive score has a bias b_q.",
    ),
).completed(AttentionCell)
