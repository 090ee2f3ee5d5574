"""The options of `RNN`, checked."""

from __future__ import annotations

import difflib
from typing import Any

from cellkit.cells.named import check_dtype_name, resolve
from cellkit.cells.validate import plain_number
from cellkit.errors import problem
from cellkit.registry.registry import accepted_arguments, get, make

_OPTIONS = (
    "return_sequences",
    "return_state",
    "go_backwards",
    "stateful",
    "unroll",
    "zero_output_for_mask",
    "engine",
    "remat",
    "truncate_gradient",
)
_LAYER_OPTIONS = ("name", "dtype", "trainable", "activity_regularizer", "autocast")


def check_options(cls: type, kwargs: dict[str, Any]) -> None:
    """Reject unknown keywords, and names that Keras does not know."""
    known = ("cell", *_OPTIONS, *_LAYER_OPTIONS)
    unknown = [k for k in kwargs if k not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise problem(
            f"{cls.__name__} has no option `{unknown[0]}`.",
            received=", ".join(f"{k}={kwargs[k]!r}" for k in unknown),
            expected="one of " + ", ".join(known),
            fix=f"did you mean `{near[0]}`?"
            if near
            else "remove it; what belongs to the cell, give to the cell",
        )
    check_dtype_name(cls, kwargs.get("dtype"))
    resolve(cls, "activity_regularizer", kwargs.get("activity_regularizer"))


def check_unroll(unroll: Any) -> bool | int:
    """Return `unroll` if it is a flag or a number of steps, else raise a `ValueError`."""
    unroll = plain_number(unroll)
    if isinstance(unroll, bool) or (isinstance(unroll, int) and unroll >= 1):
        return unroll
    raise problem(
        "`unroll` is neither a flag nor a factor.",
        received=f"unroll={unroll!r}",
        expected="True, False, or a number of steps of 1 or more",
        fix="pass unroll=True to unroll fully, or e.g. unroll=8",
    )


def check_flags(cell: Any, flags: dict[str, Any]) -> None:
    """Reject a number after the name of a cell, which is meant for the cell: `RNN("lstm", 64)`."""
    for flag, value in flags.items():
        number = plain_number(value)
        if isinstance(cell, str) and isinstance(number, int) and number not in (0, 1):
            raise problem(
                f"`{flag}` of RNN is neither True nor False.",
                received=f"{flag}={value!r}, with the cell {cell!r}",
                expected="True or False; the arguments of a cell that is made by its name go by "
                "keyword",
                fix=f"write e.g. cellkit.RNN({cell!r}, units={value!r})",
            )


def cells_by_name(cell: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Make the cells that are given by their names, of the keywords that are not the layer's.

    Args:
        cell: A cell, the name of a registered one, or a list of cells and names.
        kwargs: Keywords of the layer, and of the cells where there is a name.

    Returns:
        The cell, or the list of cells, and the keywords of the layer.

    Raises:
        ValueError: If there is no such cell, or if it does not take the keywords.
    """
    cells = cell if isinstance(cell, (list, tuple)) else [cell]
    names = [name for name in cells if isinstance(name, str)]
    if not names:
        return cell, kwargs
    of_layer = {key: value for key, value in kwargs.items() if key in _LAYER_OPTIONS}
    of_cell = {key: value for key, value in kwargs.items() if key not in _LAYER_OPTIONS}
    for name in names:
        _check_for_options(name, of_cell)
    if "dtype" in kwargs:  # one word for both: the user sees one object
        of_cell["dtype"] = kwargs["dtype"]
    made = [make(name, of_cell, "cellkit.RNN") if isinstance(name, str) else name for name in cells]
    return (made if isinstance(cell, (list, tuple)) else made[0]), of_layer


def _check_for_options(name: str, kwargs: dict[str, Any]) -> None:
    """Reject a keyword that is a misspelt option of the layer rather than one of the cell's."""
    known = accepted_arguments(get(name).cls)
    for key, value in kwargs.items():
        near = difflib.get_close_matches(key, _OPTIONS, n=1, cutoff=0.8)
        if key not in known and near:
            raise problem(
                f"Neither the layer nor the cell {name!r} has an option `{key}`.",
                received=f"{key}={value!r}",
                expected="options of the layer (" + ", ".join(_OPTIONS) + ") or of the cell",
                fix=f"did you mean `{near[0]}`?",
            )


def check_remat(remat: Any) -> bool | int:
    """Return `remat` if it is a flag or a number of steps, else raise a `ValueError`."""
    remat = plain_number(remat)
    if isinstance(remat, bool) or (isinstance(remat, int) and remat >= 1):
        return remat
    raise problem(
        "`remat` is neither a flag nor a number of steps.",
        received=f"remat={remat!r}",
        expected="True, False, or the number of steps of a chunk, 1 or more",
        fix="pass remat=True, which takes chunks of about sqrt(time) steps",
    )


def check_truncation(steps: Any) -> int | None:
    """Return `steps` if it is None or a positive int, else raise a `ValueError`."""
    steps = plain_number(steps)
    if steps is None or (isinstance(steps, int) and not isinstance(steps, bool) and steps >= 1):
        return steps
    raise problem(
        "`truncate_gradient` is not a number of steps.",
        received=f"truncate_gradient={steps!r}",
        expected="None, or an int of 1 or more",
        fix="pass e.g. truncate_gradient=100",
    )


def engine_config(layer: Any) -> dict[str, Any]:
    """Return those options of how a layer runs that are not at their defaults.

    The defaults stay out of the configuration: it is then the one of `keras.layers.RNN`.
    """
    defaults = {"engine": "auto", "remat": False, "truncate_gradient": None}
    return {k: getattr(layer, k) for k, v in defaults.items() if getattr(layer, k) != v}
