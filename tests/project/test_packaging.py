"""The wheel holds every package, and every entry point leads somewhere."""

import email
import importlib.metadata
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import cellkit
from cellkit import _distribution

pytestmark = pytest.mark.one_backend

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CELLS = PROJECT["entry-points"]["cellkit.cells"]


def build(target, folder, source=ROOT):
    """Build a wheel or an sdist with the installed hatchling, and return its path."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the working tree."""
    with zipfile.ZipFile(build("wheel", tmp_path_factory.mktemp("wheel"))) as file:
        yield file


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The sdist, built from the working tree."""
    return build("sdist", tmp_path_factory.mktemp("sdist"))


@pytest.mark.slow
def test_sdist_builds_the_same_wheel_and_so_does_a_second_build(wheel, sdist, tmp_path):
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    again = build("wheel", tmp_path / "again", source)
    assert again.name == Path(wheel.filename).name
    assert again.read_bytes() == Path(wheel.filename).read_bytes()


def test_sdist_holds_what_a_packager_needs_and_nothing_else(sdist):
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    needed = {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "SECURITY.md", "Makefile"}
    assert needed | {"examples/data/LICENSES.md", "tests/project/test_packaging.py"} <= names
    left_over = re.compile(
        r"(^|/)(\.git|\.github|\.ci|\.venv|__pycache__|reports|site|\.cache)(/|$)"
    )
    assert not [name for name in names if left_over.search(name)]
    assert sdist.stat().st_size < 5e6


def test_metadata_of_the_wheel(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    found = email.message_from_bytes(wheel.read(name))
    assert (found["Name"], found["Version"]) == ("keras-cellkit", cellkit.__version__)
    assert found["License-Expression"] == "Apache-2.0" and found["Requires-Python"] == ">=3.11"
    assert found["Description-Content-Type"] == "text/markdown"
    assert found.get_payload().startswith("# cellkit")
    needs = [need for need in found.get_all("Requires-Dist") if "extra ==" not in need]
    assert {re.match(r"[\w-]+", need)[0] for need in needs} == {"keras", "numpy", "rich", "typer"}
    assert Path(wheel.filename).stat().st_size < 2e6


def test_citation_names_the_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", text, re.MULTILINE)[1] == cellkit.__version__
    assert re.search(r"^license: (.*)$", text, re.MULTILINE)[1] == PROJECT["license"]


def test_releases_are_proved_and_built_before_they_are_published_without_a_password():
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    jobs = dict(re.findall(r"^  (\w+):\n((?:    .*\n|\n)+)", text[text.index("jobs:") :], re.M))
    assert list(jobs) == ["prove", "build", "publish"]
    assert ".ci/run" in jobs["prove"]
    assert "needs: prove" in jobs["build"] and "needs: build" in jobs["publish"]
    assert "id-token: write" in jobs["publish"] and "id-token" not in jobs["build"]
    assert PROJECT["name"] in jobs["publish"]
    assert not re.search(r"secrets\.|password|token:(?! write)", text)


def test_ci_tries_the_oldest_and_the_newest_keras_and_may_fail_on_what_comes(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "tools"), *sys.path])
    import other_keras

    assert f"keras>={other_keras.oldest()},<4" in PROJECT["dependencies"]
    assert other_keras.requirement("oldest") == [f"keras=={other_keras.oldest()}"]
    assert other_keras.requirement("newest") == ["keras"]
    assert other_keras.requirement("main") == ["--pre", "keras-nightly"]
    read_me = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"Keras {other_keras.oldest()}, the oldest that is allowed" in read_me
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "keras: [oldest, newest, main]" in text and "matrix.keras == 'main'" in text
    assert f"backend: [{', '.join(other_keras.BACKENDS)}]" in text
    for path in other_keras.TESTS:
        assert (ROOT / path).exists()


def test_wheel_holds_every_package_and_nothing_else(wheel):
    packages = {path.parent.name for path in ROOT.glob("plugins/*/__init__.py")}
    packages |= {"cellkit", "cellkit_conformance", "cellkit_bench"}
    names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == packages
    assert all(f"{package}/__init__.py" in names for package in packages)
    assert all(f"{package}/py.typed" in names for package in packages)


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


def test_pages_install_from_a_clone_while_nothing_is_published():
    seen = 0
    for path in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]:
        for line in re.findall(r".*pip install .*", path.read_text(encoding="utf-8")):
            assert "keras-cellkit" not in line or "published" in line, (path, line)
            seen += "-e '.[" in line
    assert seen >= 4


def test_constraints_pin_what_the_extras_name():
    wanted = [*PROJECT["dependencies"]]
    wanted += [need for extra in PROJECT["optional-dependencies"].values() for need in extra]
    names = {re.match(r"[\w-]+", need)[0] for need in wanted} - {"keras-cellkit"}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert names <= set(re.findall(r"^([\w-]+)==", pins, re.MULTILINE))
