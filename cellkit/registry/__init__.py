"""The registry: which cells there are, what each claims to be, and where its weights stand.

Nothing in here imports Keras before a cell is asked for.
"""

from cellkit.registry.guide import FAMILIES, TAGS, Guide, check_family, check_tag
from cellkit.registry.names import did_you_mean, is_text, listed
from cellkit.registry.registry import (
    PluginWarning,
    RegisteredCell,
    create,
    declarations,
    get,
    import_plugins,
    list_cells,
    problem_of,
    register,
    spec_of,
)
from cellkit.registry.spec import TRAITS, CellSpec, Paper, check_trait
from cellkit.registry.symbols import WeightMap, blocks, configured, custom, gate_blocks, rename
from cellkit.registry.weights import (
    cell_weights,
    export_weights,
    import_weights,
    set_cell_weights,
    variables_by_path,
)

__all__ = [
    "FAMILIES",
    "TAGS",
    "TRAITS",
    "CellSpec",
    "Guide",
    "Paper",
    "PluginWarning",
    "RegisteredCell",
    "WeightMap",
    "blocks",
    "cell_weights",
    "check_family",
    "check_tag",
    "check_trait",
    "create",
    "configured",
    "custom",
    "declarations",
    "did_you_mean",
    "export_weights",
    "gate_blocks",
    "get",
    "import_plugins",
    "import_weights",
    "is_text",
    "list_cells",
    "listed",
    "problem_of",
    "register",
    "rename",
    "set_cell_weights",
    "spec_of",
    "variables_by_path",
]
