"""The built-in cells are written with what anybody may import: public names of public modules."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from cellkit import _former_names

pytestmark = pytest.mark.one_backend

PLUGINS = Path(__file__).parents[2] / "plugins"
PUBLIC = (
    "cellkit",
    "cellkit.cells",
    "cellkit.errors",
    "cellkit.registry",
    "cellkit.registry.reference",
)
FILES = sorted(PLUGINS.rglob("*.py"))


def imported(tree):
    """Return the modules of cellkit that a file imports from, with the names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cellkit":
            yield node.module, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "cellkit":
                    yield alias.name, []


def test_there_are_plugins():
    assert len(FILES) > 60


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}.{f.stem}")
def test_a_plugin_imports_public_names_alone(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for module, names in imported(tree):
        assert module in PUBLIC, f"{module} is not public"
        for name in names:
            assert not name.startswith("_")
            assert hasattr(import_module(module), name)
            listed = getattr(import_module(module), "__all__", None)
            assert listed is None or name in listed, f"{module}.{name}"
    private = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "cellkit"
        and node.attr.startswith("_")
    }
    assert not private


@pytest.mark.parametrize("name", sorted(_former_names.NAMES))
def test_a_former_name_of_a_module_leads_to_the_name_of_today_and_tells_it_once(name):
    today = _former_names.NAMES[name]
    expected = import_module(today)
    sys.modules.pop(name, None)
    with pytest.warns(DeprecationWarning, match=f"write {today}") as told:
        assert import_module(name) is expected
        assert import_module(name) is expected
    assert len(told) == 1 and told[0].filename == __file__


@pytest.mark.slow
def test_a_former_name_is_told_to_the_line_that_reads_it():
    code = "import cellkit, keras\n\ncellkit.cell.matmul\ncellkit.cell"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("DeprecationWarning") == 1
    assert "<string>:3: DeprecationWarning: cellkit.cell is a former name" in done.stderr
