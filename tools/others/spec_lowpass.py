"""The spec of keras-spiking's `LowpassCell` and `AlphaCell`, as wide as their inputs."""

import cellkit
import cellkit.registry

spec = cellkit.CellSpec(
    reference=None,
    paper=cellkit.Paper(
        "Applied Brain Research", 2020, "keras-spiking", "https://github.com/nengo/keras-spiking"
    ),
    symbols=cellkit.registry.rename({}),
    inputs=(4,),
    cases={
        "default": {"size": (4,), "tau_initializer": 0.1, "dt": 0.01},
        "slow": {"size": (4,), "tau_initializer": 0.5, "dt": 0.01},
    },
    traits=frozenset({"masking"}),
)
