"""The start of a worker: what is left out of it is there for who asks, and works as ever."""

import gc
import subprocess
import sys

import keras
import pytest

from cellkit_conformance.startup import uncollected

LATE = """
import sys
from cellkit_conformance.startup import Later, import_keras
import_keras("torch")
import keras, torch
from cellkit_conformance import footprint

def stands_in():
    return isinstance(sys.modules["torch._dynamo"], Later)

seed = keras.random.SeedGenerator(3)

def run(x):
    return 2 * x + keras.random.uniform((3,), seed=seed)

def start_again():
    seed.state.assign(keras.random.SeedGenerator(3).state)

want = run(torch.ones(3))
# Symbols let PyTorch ask for its compiler, to be left alone by it.
torch.ones(3, 4, device="meta") + torch.ones(4, device="meta")
kept = sys.modules["torch._dynamo"]._of_torch
assert stands_in() and len(kept) > 0, "the compiler was imported before anybody compiled"
assert not hasattr(sys.modules["torch._dynamo"], "__wrapped__") and stands_in()
assert not any(module is None for module in sys.modules.values()), "somebody may want to import it"
before = footprint.take("torch")

start_again()
got = torch.compile(run, backend="eager")(torch.ones(3))
assert torch.equal(got, want)
assert not stands_in() and torch._dynamo is sys.modules["torch._dynamo"]
assert not any(vars(function).get("__dynamo_disable") is function for function in kept)
broken = torch._dynamo.utils.counters["graph_break"]
assert any("torch.compiler.disable" in reason for reason in broken), broken
changes = footprint.changes(before, footprint.take("torch"))
assert not changes, changes

start_again()
assert torch.equal(run(torch.ones(3)), want)
print("done")
"""

FROM = """
import sys
from cellkit_conformance.startup import Later, import_keras
import_keras("torch")
{first}
assert not isinstance(sys.modules["torch._dynamo"], Later)
print("done")
"""

on_torch = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="it is about PyTorch's compiler"
)


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.endswith("done\n"), done.stderr


@on_torch
def test_the_compiler_that_comes_late_knows_what_not_to_compile():
    run(LATE)


@on_torch
@pytest.mark.parametrize(
    "first",
    [
        "import torch._dynamo.config",
        "import torch; torch.compiler.disable(lambda: 1)",
    ],
)
def test_who_asks_for_the_compiler_gets_it(first):
    run(FROM.format(first=first))


def test_garbage_is_collected_again_after_a_start_that_fails():
    frozen, thresholds = gc.get_freeze_count(), gc.get_threshold()
    with pytest.raises(ImportError), uncollected():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled() and gc.get_freeze_count() > frozen
    gc.unfreeze()
    gc.set_threshold(*thresholds)
