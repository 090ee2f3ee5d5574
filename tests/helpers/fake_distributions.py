"""Distributions made on the spot: folders that look like something pip has installed."""

import textwrap

CELL = """
class Counter:
    '''Counts its steps.'''

    state_size = 1

    def __init__(self, units=1):
        self.units = units

    def call(self, inputs, states, training=False):
        return inputs, [states[0] + 1]
"""


def install(folder, distribution, cells=None, modules=None, version="1.0"):
    """Put a distribution into `folder`, which has to be on the path of the process that reads it.

    Args:
        folder: The folder, in the place of site-packages.
        distribution: Name of the distribution.
        cells: ``"module:Class"`` by name of the cell.
        modules: Source by name of the module; a `CELL` module for every target by default.
        version: Version of the distribution.
    """
    cells = {} if cells is None else cells
    if modules is None:
        modules = {target.partition(":")[0]: CELL for target in cells.values()}
    information = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    )
    lines = [f"{name} = {target}" for name, target in cells.items()]
    (information / "entry_points.txt").write_text("\n".join(["[cellkit.cells]", *lines, ""]))
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(textwrap.dedent(source))
