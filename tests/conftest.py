"""One backend per process, one thread per worker, the same random numbers in every test.

The backend comes from ``KERAS_BACKEND`` (``torch`` when it is not set). The tests compare numbers
closely, so they run on the CPU unless the environment says otherwise, for example with
``CUDA_VISIBLE_DEVICES=0 JAX_PLATFORMS=cuda``.
"""

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
# A developer's own keras.json (another float type, another image format) must not change a result.
os.environ.setdefault("KERAS_HOME", str(Path(__file__).parents[1] / ".cache" / "keras"))

# Read by the frameworks while they are imported, so this stands before any of them.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Every worker of pytest-xdist is a process of its own: more threads than that only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
# Processes that tests start import Keras in half of the time.
PATH = [str(Path(__file__).parent / "helpers" / "quick_start")]
PATH += [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p not in PATH]
os.environ["PYTHONPATH"] = os.pathsep.join(PATH)


def pytest_addoption(parser):
    """Add the option that asks every test of every backend."""
    parser.addoption(
        "--everywhere", action="store_true", help="ask no backend only its part of the tests"
    )
    parser.addoption(
        "--part", action="store_true", help="take a part of the tests that are named, too"
    )
    parser.addoption(
        "--one-in", type=int, default=1, metavar="N", help="run one test in N, always the same ones"
    )


def pytest_configure(config):
    """Import Keras and what is around every test, except where workers run the tests."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return
    for plugin in ("cheap_start", "every_test"):  # in this order
        config.pluginmanager.import_plugin(plugin)
