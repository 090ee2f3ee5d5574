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
from cellkit import _distribution

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
    (own, *_) = [found for found in _distribution.installed() if found.ours]
    assert cellkit.__version__ == own.version
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## ([\d.]+)", changelog, re.MULTILINE)[1] == cellkit.__version__


def test_name_of_the_distribution_is_the_one_that_hints_give():
    assert PROJECT["name"] == _distribution.NAME
    needs = [need for extra in PROJECT["optional-dependencies"].values() for need in extra]
    own = [need for need in needs if "cellkit" in need]
    assert own and all(need.startswith(f"{_distribution.NAME}[") for need in own)
    named = set().union(*(re.search(r"\[(.*)\]", need)[1].split(",") for need in own))
    assert named <= set(PROJECT["optional-dependencies"])


def test_every_page_and_template_installs_the_distribution_by_its_name():
    """`pip install cellkit` would bring another project's distribution, without an error."""
    texts = [
        path
        for folder in ("docs", "cellkit", "conformance", "examples", "tools", "plugins")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in {".md", ".py", ".j2"}
    ]
    seen = 0
    for path in [*texts, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile"]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w-])cellkit\[[a-z]", text), path
        for line in re.findall(r"pip install (?!-e|--)[^\n`;]*", text):
            assert not re.search(r"(?<![\w-])cellkit(?![\w-])", line), (path, line)
            seen += "keras-cellkit" in line
    assert seen


def test_constraints_pin_what_the_extras_name():
    wanted = [*PROJECT["dependencies"]]
    wanted += [need for extra in PROJECT["optional-dependencies"].values() for need in extra]
    names = {re.match(r"[\w-]+", need)[0] for need in wanted} - {"keras-cellkit"}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert names <= set(re.findall(r"^([\w-]+)==", pins, re.MULTILINE))
