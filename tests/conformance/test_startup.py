"""The start of a worker: what is left out of it is there for who asks."""

import gc
import subprocess
import sys

import keras
import pytest

from cellkit_conformance.run.startup import uncollected

START = """
import sys
from cellkit_conformance.run.startup import OPTIONAL, import_keras
import_keras(sys.argv[1])
assert not any(module is None for module in sys.modules.values()), "somebody may want to import it"
import keras
assert keras.backend.backend() == sys.argv[1]
for name in OPTIONAL[sys.argv[1]]:
    assert name not in sys.modules, name
"""


def test_what_was_left_out_may_still_be_imported():
    subprocess.run([sys.executable, "-c", START, keras.backend.backend()], check=True)


def test_garbage_is_collected_again_after_a_start_that_fails():
    frozen, thresholds = gc.get_freeze_count(), gc.get_threshold()
    with pytest.raises(ImportError), uncollected():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled() and gc.get_freeze_count() > frozen
    gc.unfreeze()
    gc.set_threshold(*thresholds)
