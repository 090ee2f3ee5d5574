"""What a user installs: the wheel holds every package, and every entry point leads somewhere."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import cellkit

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CELLS = PROJECT["entry-points"]["cellkit.cells"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the working tree with the installed hatchling."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        yield file


def test_wheel_holds_every_package_and_nothing_else(wheel):
    packages = {path.parent.name for path in ROOT.glob("plugins/*/__init__.py")}
    packages |= {"cellkit", "cellkit_conformance", "cellkit_bench"}
    names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == packages
    assert all(f"{package}/__init__.py" in names for package in packages)
    assert "cellkit/py.typed" in names


def test_wheel_holds_every_file_of_the_packages(wheel):
    for folder in ("", "plugins/", "conformance/"):
        for source in ROOT.glob(f"{folder}cellkit*/**/*.*"):
            if "__pycache__" not in source.parts:
                assert str(source.relative_to(ROOT / folder)) in wheel.namelist()


def test_wheel_carries_licence_and_entry_points(wheel):
    (entry_points,) = (n for n in wheel.namelist() if n.endswith(".dist-info/entry_points.txt"))
    text = wheel.read(entry_points).decode()
    assert "cellkit = cellkit.cli:main" in text
    assert all(f"{name} = {target}" in text for name, target in CELLS.items())
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())


@pytest.mark.parametrize("name", sorted(CELLS))
def test_entry_point_leads_to_a_class(name):
    (entry,) = importlib.metadata.entry_points(group="cellkit.cells", name=name)
    # An installation older than pyproject.toml would test something else.
    assert entry.value == CELLS[name]
    assert entry.load().__name__ == CELLS[name].partition(":")[2]


def test_one_version():
    assert cellkit.__version__ == importlib.metadata.version("cellkit")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## ([\d.]+)", changelog, re.MULTILINE)[1] == cellkit.__version__


def test_constraints_pin_what_the_extras_name():
    wanted = [*PROJECT["dependencies"]]
    wanted += [need for extra in PROJECT["optional-dependencies"].values() for need in extra]
    names = {re.match(r"[\w-]+", need)[0] for need in wanted} - {"cellkit"}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert names <= set(re.findall(r"^([\w-]+)==", pins, re.MULTILINE))
