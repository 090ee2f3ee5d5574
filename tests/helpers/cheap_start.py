"""Start of a process with tests: its backend and Keras, imported as cheaply as can be.

`conftest.py` has set by then what the frameworks read while they are imported.
"""

import importlib.util
import os

from cellkit_conformance.run.startup import cheap_flags, import_keras, uncollected

BACKEND = os.environ["KERAS_BACKEND"]

if importlib.util.find_spec("torch"):
    # Before TensorFlow: in the other order the two crash in one process.
    import torch

    torch.set_num_threads(1)

if BACKEND == "jax":
    # The tests compile much and compute little; see also `cheap_compilation`. Processes that a test
    # starts are told nothing of this.
    import jax

    FLAGS = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = cheap_flags()
    jax.devices()  # which has XLA read them
    if FLAGS is None:
        del os.environ["XLA_FLAGS"]
    else:
        os.environ["XLA_FLAGS"] = FLAGS

with uncollected():
    import_keras(BACKEND)
