"""A stateless scope that remembers which variables were read and written in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from cellkit import _keras_compat as compat


class Recorder(keras.StatelessScope):
    """Collects writes to variables and losses instead of letting them happen.

    Reads of variables that have no value here are answered by the enclosing scope, so that
    recorders nest.

    Args:
        values: Pairs of a variable and the value it has inside, as stored.

    Attributes:
        read: The variables that were read and have no value here, by their ids.
        dtypes: In which dtypes their readers saw them.
        written: The variables that were written, by their ids.
    """

    def __init__(self, values: Iterable[tuple[keras.Variable, Any]] = ()) -> None:
        super().__init__(collect_losses=True, initialize_variables=False)
        # Not by the constructor: it would round the values where a mixed-precision scope is open,
        # also for layers inside that keep to float32.
        self.state_mapping.update({id(variable): value for variable, value in values})
        self.read: dict[int, keras.Variable] = {}
        self.dtypes: dict[int, set[str]] = {}
        self.written: dict[int, keras.Variable] = {}

    def get_current_value(self, variable: keras.Variable) -> Any:
        """Return the value of `variable` here or in an enclosing scope, None if it has none."""
        value = super().get_current_value(variable)
        if value is None:
            self.read[id(variable)] = variable
            self.dtypes.setdefault(id(variable), set()).add(str(variable.dtype))
            enclosing = self.original_scope
            value = None if enclosing is None else enclosing.get_current_value(variable)
        return value

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        """Remember a write."""
        self.written[id(update[0])] = update[0]
        super().add_update(update)


def current_values(variables: Iterable[keras.Variable]) -> list[Any]:
    """Return values of variables as stored, those of an enclosing stateless call if there is one.

    No mixed-precision scope casts them; see `compat.raw_value`.
    """
    with Recorder() as scope:
        return [compat.raw_value(v, scope) for v in variables]
