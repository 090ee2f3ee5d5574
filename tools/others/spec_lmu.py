"""The spec of `keras_lmu:LMUCell`; its recurrent dropout is that of the memory's own connection."""

import keras

import cellkit
import cellkit.registry

spec = cellkit.CellSpec(
    reference=None,
    paper=cellkit.Paper(
        "Voelker et al.", 2019, "Legendre Memory Units", "https://github.com/nengo/keras-lmu"
    ),
    symbols=cellkit.registry.rename({}),
    inputs=("features",),
    cases={
        "default": lambda: {
            "memory_d": 2,
            "order": 3,
            "theta": 4.0,
            "hidden_cell": keras.layers.SimpleRNNCell(4),
            "hidden_to_memory": True,
            "memory_to_memory": True,
        },
        "plain": lambda: {
            "memory_d": 2,
            "order": 3,
            "theta": 4.0,
            "hidden_cell": keras.layers.SimpleRNNCell(3),
        },
    },
    traits=frozenset({"masking", "dropout", "recurrent_dropout"}),
)
