"""Functions that equations may call: their names, how many arguments they take, and what for."""

from __future__ import annotations

import dataclasses

__all__ = ["FUNCTIONS", "Kind"]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A function of the language, and its effect on vectors.

    Args:
        shape: "elements" (element by element), "vector" (of the whole vector, as long as it),
            "single" (one number of the whole vector) or "special".
        least: The fewest arguments.
        most: The most arguments.
    """

    shape: str
    least: int = 1
    most: int = 1


_ELEMENTS = Kind("elements")

FUNCTIONS: dict[str, Kind] = {
    # The activations of the cell: options of its constructor.
    "s": _ELEMENTS,
    "tanh": _ELEMENTS,
    # Others, which stay as they are.
    **dict.fromkeys(
        "sigmoid relu exp log sqrt abs sin cos softplus logsigmoid log1p expm1 square sign floor "
        "softsign silu hard_sigmoid elu".split(),
        _ELEMENTS,
    ),
    "clip": Kind("elements", 3, 3),
    "mod": Kind("elements", 2, 2),
    "max": Kind("elements", 1, 16),  # of one vector: its largest element
    "min": Kind("elements", 1, 16),
    "softmax": Kind("vector"),
    "cumsum": Kind("vector"),
    "mean": Kind("single"),
    "var": Kind("single"),
    "sum": Kind("single"),
    "where": Kind("special", 3, 3),
    "repeat": Kind("special", 2, 2),
    "split": Kind("special", 1, 1),
}
