"""The spec of torchrecurrent's `PeepholeLSTMCell`, behind the adapter."""

import cellkit
import cellkit.registry

spec = cellkit.CellSpec(
    reference=None,
    paper=cellkit.Paper(
        "Martinuzzi",
        2025,
        "torchrecurrent",
        "https://github.com/MartinuzziFrancesco/torchrecurrent",
    ),
    symbols=cellkit.registry.rename({}),
    inputs=(3,),
    cases={
        "default": {"units": 4, "name_of_cell": "PeepholeLSTMCell", "states": 2},
        "small": {"units": 2, "name_of_cell": "PeepholeLSTMCell", "states": 2},
    },
    traits=frozenset({"masking"}),
)
