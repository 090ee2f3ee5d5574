"""What is around every test: which are asked, the same random numbers, and nothing left behind."""

import sys
from collections import defaultdict
from pathlib import Path

import keras
import portions
import pytest
from nursery import Nursery
from portions import BACKEND

from cellkit.cells import effects
from cellkit.registry import registry
from cellkit_conformance.run import process


def pytest_collection_modifyitems(config, items):
    """Run tests with the mark `one_backend` on Torch alone, and of the others each backend's part.

    Of tests that somebody names, by their file, their name or a keyword, none is left out.
    """
    named = config.option.keyword or not all(Path(a).is_dir() for a in config.args)
    asked = set(items)
    if config.getoption("part") or not (named or config.getoption("everywhere")):
        asked = of_every_day(asked)
    if BACKEND != "torch":
        asked = {item for item in asked if "one_backend" not in item.keywords}
    part = config.getoption("one_in")
    asked = {item for item in asked if portions.is_in_part(item.nodeid, part)}
    if len(asked) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in asked])
        items[:] = [item for item in items if item in asked]


def of_every_day(items):
    """Choose what is run when nobody asks for everything.

    That leaves out tests with the mark `full`, of tests with the mark `part` all but some cases,
    and what is dealt to other backends.
    """
    items = {item for item in items if "full" not in item.keywords}
    parts = defaultdict(set)
    for item in items:
        if mark := item.get_closest_marker("part"):
            parts[mark.args[0]].add(item.nodeid)
    left = {name for of, names in parts.items() for name in names - portions.some(names, of)}
    items = {item for item in items if item.nodeid not in left}
    if BACKEND == "torch":
        return items
    dealt = portions.dealt((item.path, item.nodeid) for item in items)
    return {item for item in items if item.nodeid in dealt or is_its_own(item)}


def is_its_own(item):
    """Say whether a test is left to no other backend: it says so, or they skip it."""
    conditions = [mark.args[0] for mark in item.iter_markers("skipif") if mark.args]
    return "each_backend" in item.keywords or (bool(conditions) and not any(conditions))


@pytest.fixture(autouse=True)
def same_start():
    """Give every test the same seeds, and take back what it changed in Keras' global settings."""
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    keras.utils.set_random_seed(20170207)
    yield
    keras.config.set_dtype_policy(policy)
    keras.config.set_floatx(floatx)


@pytest.fixture(autouse=True)
def nothing_held():
    """Fail a test that leaves a cell being tried: calls in other threads would wait for that."""
    stream = sys.stdout
    yield
    held = 0
    while effects._alone._is_owned():
        effects._alone.release()
        held += 1
    assert not held, f"{held} trials of a step were begun and not ended"
    assert not isinstance(sys.stdout, effects._Printed) or sys.stdout is stream


@pytest.fixture(autouse=True)
def cheap_compilation(request):
    """Switch most of XLA's optimisations off: the tests compile much and compute little.

    Tests of memory ask for the real thing, and so does the conformance suite, in its own processes.
    """
    name = request.node.name
    if BACKEND != "jax" or name.startswith("test_p3") or "memory" in name:
        yield
        return
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def nursery():
    """Make a nursery of workers, which imports Keras when the first is asked for."""
    found = Nursery(process.launch)
    yield found
    found.close()


@pytest.fixture(scope="module", autouse=True)
def forked_workers(nursery):
    """Fork the workers that tests start in this process; their commands start them anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "launch", nursery.start)
        yield


@pytest.fixture
def own_registry():
    """Let a test register cells without leaving them to the next one."""
    with registry.forgotten():
        yield


@pytest.fixture(scope="session")
def backend() -> str:
    """Name the backend that this process runs on."""
    return BACKEND
