"""The spec of HGQ's recurrent cells."""

import cellkit
import cellkit.registry

spec = cellkit.CellSpec(
    reference=None,
    paper=cellkit.Paper(
        "Sun et al.",
        2024,
        "Gradient-based Automatic Quantization",
        "arXiv:2405.00645",
    ),
    symbols=cellkit.registry.rename({}),
    inputs=("features",),
    cases={"default": {"units": 4}, "small": {"units": 3, "activation": "tanh"}},
    # Rounding has steps where it is flat.
    traits=frozenset({"masking", "dropout", "recurrent_dropout", "stop_gradient", "quantized"}),
)
