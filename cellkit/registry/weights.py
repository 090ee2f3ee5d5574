"""The weights of a cell as arrays, by their paths or by the symbols of the paper.

`import_weights` gives a built cell the weights of another implementation, under the paper's
symbols (see `cellkit.registry.symbols`):

```python
import_weights(cell, {"W_i": ..., "U_i": ..., "b_i": ..., "W_f": ...})
```
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cellkit.errors import problem
from cellkit.registry.names import did_you_mean, listed
from cellkit.registry.registry import spec_of
from cellkit.registry.spec import CellSpec
from cellkit.registry.symbol_parts import as_arrays

if TYPE_CHECKING:
    from cellkit.registry.symbol_parts import Arrays


def cell_weights(cell: Any) -> Arrays:
    """Return the weights of a built cell as NumPy arrays, by their path inside the cell.

    A weight of the cell itself has its own name, ``"kernel"``. One of a sub-layer has the name
    of the attribute that holds the sub-layer before it, ``"norm/gamma"``, and a sub-layer in a
    list its position, ``"cells/0/kernel"``: names that do not depend on what else was made in
    the process. Seeds are not weights.

    Args:
        cell: A built cell.

    Returns:
        The arrays by path.

    Raises:
        ValueError: When the cell is not built, or two weights have the same path.
    """
    import keras

    return {
        path: keras.ops.convert_to_numpy(variable)
        for path, variable in variables_by_path(cell).items()
    }


def set_cell_weights(cell: Any, weights: Mapping[str, Any]) -> None:
    """Set all weights of a built cell. Either all of them change, or none.

    Args:
        cell: A built cell.
        weights: An array for every path that `cell_weights` gives.

    Raises:
        ValueError: When a weight is missing, unknown, or of the wrong shape.
    """
    variables = variables_by_path(cell)
    arrays = as_arrays(weights)
    unknown = [path for path in arrays if path not in variables]
    missing = [path for path in variables if path not in arrays]
    if unknown or missing:
        said = [f"unknown: {listed(unknown)}"] if unknown else []
        said += [f"missing: {listed(missing)}"] if missing else []
        raise problem(
            f"The weights are not those of the cell {type(cell).__name__}.",
            received="; ".join(said),
            expected=listed(variables) or "no weights",
            fix=(did_you_mean(unknown[0], variables) if unknown else "")
            + "pass one array for every path that cell_weights(cell) has",
        )
    for path, variable in variables.items():
        if tuple(arrays[path].shape) != tuple(variable.shape):
            raise problem(
                f"The weight {path!r} has the wrong shape.",
                received=f"shape {tuple(arrays[path].shape)}",
                expected=f"shape {tuple(variable.shape)}",
                fix="check the sizes the cell was made and built with, and the orientation: "
                "matrices are (in, out)",
            )
    for path, variable in variables.items():
        variable.assign(arrays[path])


def import_weights(cell: Any, symbols: Mapping[str, Any], *, spec: CellSpec | None = None) -> None:
    """Set the weights of a built cell from the symbols of its paper.

    The way to bring weights from another framework: name its arrays by the symbols that the
    cell's documentation uses. Either all weights change, or none.

    Args:
        cell: A built cell.
        symbols: Arrays by symbol, e.g. ``{"W_i": ..., "U_i": ..., "b_i": ...}``. Matrices are
            (in, out): transpose those of PyTorch.
        spec: The cell's spec; by default the one it was registered with.

    Raises:
        ValueError: When a symbol is missing, unknown or of the wrong shape, or when the cell is
            not built or has no spec.

    Example:
    ```python
    cell = cellkit.create("simple_rnn", units=4)
    cell.build((None, 3))
    torch_rnn = torch.nn.RNN(3, 4)
    cellkit.import_weights(cell, {
        "W": torch_rnn.weight_ih_l0.detach().numpy().T,
        "U": torch_rnn.weight_hh_l0.detach().numpy().T,
        "b": (torch_rnn.bias_ih_l0 + torch_rnn.bias_hh_l0).detach().numpy(),
    })
    ```
    """
    spec = _spec_of(cell, spec)
    set_cell_weights(cell, spec.symbols.from_symbols(symbols, _config_of(cell)))


def export_weights(cell: Any, *, spec: CellSpec | None = None) -> Arrays:
    """Return the weights of a built cell under the symbols of its paper.

    Args:
        cell: A built cell.
        spec: The cell's spec; by default the one it was registered with.

    Returns:
        Arrays by symbol; what `import_weights` takes.

    Raises:
        ValueError: When the cell is not built or has no spec.
    """
    spec = _spec_of(cell, spec)
    return spec.symbols.to_symbols(cell_weights(cell), _config_of(cell))


def _spec_of(cell: Any, spec: CellSpec | None) -> CellSpec:
    if spec is None:
        spec = spec_of(type(cell))
    if not isinstance(spec, CellSpec):
        raise problem(
            f"Nothing says which symbols the weights of {type(cell).__name__} have.",
            received=f"spec={spec!r}",
            expected="a cell whose class has a CellSpec, or spec=CellSpec(...)",
            fix="pass spec=..., or use cell_weights and set_cell_weights, which need none",
        )
    return spec.completed(type(cell))


def _config_of(cell: Any) -> dict[str, Any]:
    # A plain object is a valid cell, and has no configuration.
    get_config = getattr(cell, "get_config", None)
    return {} if get_config is None else dict(get_config())


def variables_by_path(cell: Any) -> dict[str, Any]:
    """Return the variables of a built cell by path."""
    if not getattr(cell, "built", True):
        raise problem(
            f"The cell {type(cell).__name__} has no weights yet: it is not built.",
            received="a cell that is not built",
            expected="a cell that was built or called",
            fix="call cell.build((None, features)), or the layer that holds it, first",
        )
    found: dict[str, Any] = {}
    for path, variable in _walk(cell, "", set()):
        if path in found:
            raise problem(
                f"Two weights of {type(cell).__name__} have the same path.",
                received=f"{path!r} twice",
                expected="one path per weight",
                fix="give each weight a name of its own: add_weight(name=...)",
            )
        found[path] = variable
    return found


def _walk(owner: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield path and variable of `owner` first, then of the layers it holds."""
    # On PyTorch a Keras layer is a torch module, which keeps other modules apart.
    own = getattr(owner, "__dict__", {})
    attributes = {**own, **own.get("_modules", {})}
    # Keras and torch keep lists of all sub-layers as well, under these private names.
    names = [name for name in attributes if name not in ("_layers", "_modules")]
    # A public name is the one that the author meant.
    names.sort(key=lambda name: name.startswith("_"))
    children = [child for name in names for child in _layers_in(attributes[name], name)]
    below = {id(v) for _, child in children for v in child.weights}
    for variable in getattr(owner, "weights", ()):
        if id(variable) not in seen and id(variable) not in below:
            seen.add(id(variable))
            yield prefix + _name_of(variable, attributes), variable
    for name, child in children:
        if id(child) not in seen:
            seen.add(id(child))
            yield from _walk(child, f"{prefix}{name}/", seen)


def _layers_in(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the layers that an attribute holds, alone or in lists and dicts."""
    import keras

    if isinstance(value, keras.layers.Layer):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _layers_in(item, f"{name}/{key}")
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from _layers_in(item, f"{name}/{position}")


def _name_of(variable: Any, attributes: Mapping[str, Any]) -> str:
    """Return the name of a weight, or its attribute where Keras made a name up."""
    if re.fullmatch(r"variable(_\d+)?", variable.name):
        for name, value in attributes.items():
            if value is variable:
                return name
    return str(variable.name)
