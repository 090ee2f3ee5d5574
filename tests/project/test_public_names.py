"""The built-in cells are written with what anybody may import: public names of public modules."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

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
