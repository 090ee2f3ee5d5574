"""Devices: their names, what is refused, and a run on one that is not the default."""

import pytest

from cellkit.cli import main
from cellkit_conformance import edition, places
from cellkit_conformance.outcome import Outcome
from cellkit_conformance.report.expected import read
from cellkit_conformance.run.plan import RunPlan
from cellkit_conformance.run.runner import Runner

pytestmark = pytest.mark.one_backend

CELL = '''\
import keras


class Cell(keras.layers.SimpleRNNCell):
    """Refuses to be made anywhere but on the second processor."""

    def __init__(self, units=3):
        super().__init__(units)
        place = str(keras.ops.zeros((1,)).device)
        if "1" not in place:
            raise RuntimeError(f"made on {place}")

    def get_config(self):
        return {"units": self.units}
'''


def test_a_place_is_a_backend_and_a_device():
    assert places.place("torch") == "torch"
    assert places.place("torch", "gpu:0") == "torch@gpu:0"
    for name in ("torch", "jax@cpu:1"):
        assert places.place(places.backend_of(name), places.device_of(name)) == name


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ([], ["cpu"]),
        (["cpu:0,CPU"], ["cpu"]),
        (["gpu", "cpu:1"], ["gpu:0", "cpu:1"]),
        (["cuda:1"], ["gpu:1"]),
        (["cpu,all"], ["all"]),
    ],
)
def test_devices_are_read(asked, found):
    assert places.read_devices(asked) == found


def test_all_devices_are_the_processor_and_the_first_of_each_other_kind():
    reported = ["cpu:0", "cpu:1", "gpu:0", "gpu:1"]
    assert places.choose(["all"], reported, "jax") == ["cpu", "gpu:0"]
    assert places.choose(["cpu", "gpu:1"], reported, "jax") == ["cpu", "gpu:1"]


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        ("warp drive", ["'warp drive' is not a name of a device", "--device warp drive"]),
        ("gpu:9", ["torch reports no device gpu:9", "--device gpu:9", "one or more of all, cpu"]),
    ],
)
def test_a_device_that_is_not_there_is_refused(asked, parts, capsys):
    assert main(["conform", "lstm", "--backend", "torch", "--device", asked]) == 64
    text = capsys.readouterr().err
    assert all(part in text for part in [*parts, "How to fix"]), text


@pytest.mark.slow
def test_checks_run_on_the_device(tmp_path):
    """Two workers of one backend, each on its own processor."""
    file = tmp_path / "placed.py"
    file.write_text(CELL, encoding="utf-8")
    plan = RunPlan([f"{file}:Cell"], ["jax", "jax@cpu:1"], edition.select(["STR-01"]))
    there, elsewhere = (unit.results[0] for unit in reversed(Runner(plan).run()))
    assert there.backend == "jax@cpu:1"
    assert there.outcome is Outcome.PASS, there.message
    assert elsewhere.outcome is Outcome.ERROR
    assert "--device" not in elsewhere.reproduce
    assert "made on" in elsewhere.message
    assert "--backend jax --device cpu:1" in plan.command("lstm", "jax@cpu:1", "STR-01")


def test_a_failure_is_expected_on_one_device(tmp_path):
    file = tmp_path / "expected.toml"
    file.write_text(
        '[[expected]]\ncell = "lstm"\nrequirement = "MSK-03"\nreason = "r"\n'
        'backends = ["torch@gpu:0"]\n',
        encoding="utf-8",
    )
    assert read(file)[0].backends == ("torch@gpu:0",)
