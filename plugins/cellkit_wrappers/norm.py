"""A norm after the step of a cell."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cellkit.cells import CellWrapper, as_dtype, choice, normalize, positive_number, rms_normalize
from cellkit.errors import problem
from cellkit.registry import CellSpec, Guide, Paper, rename
from cellkit_wrappers._inside import TRAITS, around, known

KINDS = ("layer", "rms")
PLACES = ("outputs", "states")


@keras.saving.register_keras_serializable(package="cellkit_wrappers")
class NormCell(CellWrapper):
    """Any cell, with a norm of its outputs or of its states.

    Papers: Ba, Kiros and Hinton 2016, "Layer Normalization", arXiv:1607.06450; Zhang and Sennrich
    2019, "Root Mean Square Layer Normalization", arXiv:1910.07467.

    ```
    o, s~ = cell(x, s)
    N(v) = g * (v - mean(v)) / sqrt(var(v) + epsilon) + b       kind="layer"
    N(v) = g * v / sqrt(mean(v ** 2) + epsilon)                 kind="rms"
    y, s' = N(o), s~                                            on="outputs"
    y, s' = o, N(s~)                                            on="states"
    ```

    Means are taken over the last axis. Each output, or each state of a floating dtype, has a g and
    a b of its own. An output that is a state of the cell stays that state: it is normalised too.

    Args:
        inner: The cell: any cell, a list of cells, or the name of a registered one.
        units: Number of units of a cell that is given by its name.
        kind: `"layer"` or `"rms"`.
        on: `"outputs"`, or `"states"`.
        epsilon: Added to the variance. Default 1e-5.
        **kwargs: Options of `cellkit.Cell`: `use_bias` for b, `dropout` on x, `zoneout`.

    Inputs: those of the cell. States: those of the cell. Output: y, in the shape of o.

    Example:
    >>> import cellkit
    >>> layer = cellkit.RNN(NormCell("gru", units=8, on="states", kind="rms"))
    >>> layer.compute_output_shape((None, 10, 3))
    (None, 8)
    """

    def __init__(
        self,
        inner: Any,
        *,
        units: int | None = None,
        kind: str = "layer",
        on: str = "outputs",
        epsilon: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(inner, units=units, **kwargs)
        self.kind = choice(type(self), "kind", kind, KINDS)
        self.on = choice(type(self), "on", on, PLACES)
        self.epsilon = positive_number(type(self), "epsilon", epsilon)

    def build(self, input_shape: Any) -> None:
        """Build the cell, and create g and b for all that is normalised."""
        super().build(input_shape)
        if self.on == "states":
            specs = keras.tree.flatten(self.state_spec())
            widths = [s.shape[-1:] if _is_float(s) else None for s in specs]
        else:
            shapes = self.inside.output_shape(input_shape)
            widths = [s[-1:] for s in _shapes(shapes)]
        if () in widths or (None,) in widths:
            raise problem(
                f"{type(self).__name__} finds no axis to take means over.",
                received=f"{self.on} of {type(self.inner).__name__} whose last axis is unknown, or "
                "that are single numbers",
                expected="a last axis of known size",
                fix="normalise a cell whose outputs or states are vectors",
            )
        self.gains = [
            None if w is None else self.add_weight(shape=w, name=f"gain_{i}", initializer="ones")
            for i, w in enumerate(widths)
        ]
        shifts = self.kind == "layer"
        self.shifts = [
            self.add_bias(w, f"shift_{i}") if shifts and w is not None else None
            for i, w in enumerate(widths)
        ]

    def project(self, inputs: Any) -> Any:
        """Return what the cell makes of its inputs alone."""
        return self.inside.prepare(inputs)

    def step(self, projected: Any, states: Any) -> tuple[Any, Any]:
        """Advance the cell, and normalise."""
        o, news = self.inside.advance(projected, states)
        if self.on == "outputs":
            return self._normalised(o), news
        normal = self._normalised(news)
        # Where the output is one of the states, it must stay that state.
        pairs = zip(keras.tree.flatten(news), keras.tree.flatten(normal), strict=True)
        by_identity = {id(old): new for old, new in pairs}
        return keras.tree.map_structure(lambda y: by_identity.get(id(y), y), o), normal

    def _normalised(self, values: Any) -> Any:
        leaves = [
            v if gain is None else self._normal(v, gain, shift)
            for v, gain, shift in zip(
                keras.tree.flatten(values), self.gains, self.shifts, strict=True
            )
        ]
        return keras.tree.pack_sequence_as(values, leaves)

    def _normal(self, v: Any, gain: Any, shift: Any) -> Any:
        dtype = keras.backend.standardize_dtype(v.dtype)
        norm = normalize if self.kind == "layer" else rms_normalize
        normal = norm(v, self.epsilon) * as_dtype(keras.ops.convert_to_tensor(gain), dtype)
        return (
            normal
            if shift is None
            else normal + as_dtype(keras.ops.convert_to_tensor(shift), dtype)
        )


def _is_float(spec: Any) -> bool:
    return bool(keras.backend.is_float_dtype(spec.dtype))


def _shapes(shapes: Any) -> list[tuple[int | None, ...]]:
    """Return the shapes of a structure, in the order in which Keras flattens it."""
    if isinstance(shapes, dict):
        return [s for key in sorted(shapes) for s in _shapes(shapes[key])]
    if all(size is None or isinstance(size, int) for size in shapes):
        return [tuple(shapes)]
    return [s for child in shapes for s in _shapes(child)]


def reference(w: Any, x: Any, states: Any, config: Any) -> tuple[Any, Any]:
    """Compute one step from the equations."""
    o, news = known(config).step_alone(w, x, states)

    def normal(v: Any, i: int) -> Any:
        mean = v.mean(axis=-1, keepdims=True) if config["kind"] == "layer" else 0.0
        square = ((v - mean) ** 2).mean(axis=-1, keepdims=True)
        return w[f"g_{i}"] * (v - mean) / np.sqrt(square + config["epsilon"]) + w.get(f"b_{i}", 0.0)

    if config["on"] == "outputs":
        return normal(o, 0), news
    # The first state of the cells in the cases of the spec is their output.
    news = [normal(s, i) if f"g_{i}" in w else s for i, s in enumerate(news)]
    return news[0], news


_NAMES = {f"gain_{i}": f"g_{i}" for i in range(4)} | {f"shift_{i}": f"b_{i}" for i in range(4)}

NormCell.spec = CellSpec(
    paper=Paper("Ba, Kiros and Hinton", 2016, "Layer Normalization", "arXiv:1607.06450"),
    guide=Guide(
        "wrapper",
        "Use it when magnitudes drift over many steps, or with the depth of a stack.",
        ("normalised", "wraps cells"),
    ),
    reference=reference,
    symbols=around(rename(_NAMES, optional=True)),
    cases={
        "default": {"inner": "lstm", "units": 4},
        "states": {"inner": "lstm", "units": 4, "on": "states"},
        "counter": {"inner": "clockwork", "units": 4, "on": "states"},
        "rms": {"inner": "gru", "units": 5, "kind": "rms"},
        "rms_states": {"inner": "gru", "units": 5, "kind": "rms", "on": "states"},
        "dropout": {"inner": "gru", "units": 4, "dropout": 0.4, "use_bias": False, "seed": 1},
    },
    traits=TRAITS,
    deviations=(
        "The paper normalises inside of the step; see `layer_norm_lstm` for that. Here the step is "
        "any cell's, and what comes out of it is normalised.",
    ),
).completed(NormCell)
