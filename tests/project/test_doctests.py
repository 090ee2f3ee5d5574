"""The examples in the docstrings run, and print what they say."""

import doctest
import importlib
import os
import pkgutil

import pytest

from cellkit._distribution import is_own
from cellkit.registry import registry

OTHER_BACKENDS = {"jax", "tensorflow", "torch"} - {os.environ["KERAS_BACKEND"]}


def packages() -> list[str]:
    """Return cellkit and the packages of the cells that come with it."""
    declared = (cell for found in registry.declarations().values() for cell in found)
    plugins = {cell.target.split(":")[0] for cell in declared if is_own(cell.distribution)}
    return ["cellkit", *sorted(plugins)]


def modules() -> list[str]:
    """Return every module in them, but for those of the other backends and `__main__`."""
    found = []
    for package in packages():
        path = importlib.import_module(package).__path__
        found += [package, *(m.name for m in pkgutil.walk_packages(path, f"{package}."))]
    left_out = tuple(f"{mark}{backend}" for mark in "._" for backend in OTHER_BACKENDS)
    return [name for name in found if not name.endswith((*left_out, "__main__"))]


def parameters() -> list[object]:
    """Return the modules, those of plugins for one backend: conformance runs their cells on all."""
    once = pytest.mark.one_backend
    return [
        pytest.param(name, marks=once if name.startswith("cellkit_") else ()) for name in modules()
    ]


@pytest.mark.parametrize("name", parameters())
def test_examples_of_a_module(name, own_registry):
    module = importlib.import_module(name)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for example in doctest.DocTestFinder().find(module, name):
        runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)
