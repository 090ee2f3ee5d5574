"""The spec of keras-spiking's `SpikingActivationCell`."""

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
        "default": {"size": (4,), "activation": "relu", "dt": 0.01},
        "long": {"size": (4,), "activation": "relu", "dt": 0.1},
    },
    # What it gives in training is the smooth activation, by design.
    traits=frozenset({"masking", "stop_gradient", "noise"}),
)
