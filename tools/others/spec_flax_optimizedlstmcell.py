"""The spec of flax.linen's `OptimizedLSTMCell`, behind the adapter."""

import cellkit
import cellkit.registry

spec = cellkit.CellSpec(
    reference=None,
    paper=cellkit.Paper("Heek et al.", 2024, "Flax", "https://github.com/google/flax"),
    symbols=cellkit.registry.rename({}),
    inputs=(3,),
    cases={
        "default": {"units": 4, "name_of_cell": "OptimizedLSTMCell", "states": 2},
        "small": {"units": 2, "name_of_cell": "OptimizedLSTMCell", "states": 2},
    },
    traits=frozenset({"masking"}),
)
