"""The spec of `ncps.keras:LTCCell`: each instance has a wiring of its own."""

import ncps.wirings

import cellkit
import cellkit.registry

spec = cellkit.CellSpec(
    reference=None,
    paper=cellkit.Paper("Hasani et al.", 2021, "Liquid Time-constant Networks", "arXiv:2006.04439"),
    symbols=cellkit.registry.rename({}),
    inputs=("features",),
    cases={
        "default": lambda: {"wiring": ncps.wirings.FullyConnected(4)},
        "small": lambda: {"wiring": ncps.wirings.FullyConnected(3, 2), "ode_unfolds": 3},
    },
    traits=frozenset({"masking"}),
)
