"""Cells: the base classes, what they are written with, and what runs a cell for a layer.

All that a plugin needs is found here by public names.
"""

from cellkit.cells.cell import Cell, training_mode
from cellkit.cells.gated import GatedCell
from cellkit.cells.initializers import ChronoInitializer
from cellkit.cells.linear import LinearCell
from cellkit.cells.matrix import MatrixCell
from cellkit.cells.named import resolve
from cellkit.cells.operations import (
    log_sigmoid,
    matmul,
    normalize,
    plus,
    precise,
    rms_normalize,
    softplus,
    split,
)
from cellkit.cells.parallel import ParallelCell, as_dtype
from cellkit.cells.standard import StandardWeights, has_standard_activations
from cellkit.cells.structure import TensorSpec, declared_output, declared_state
from cellkit.cells.time_gaps import TimeGaps, check_gaps, constant_gap, features_beside_gap
from cellkit.cells.validate import (
    choice,
    number,
    positive_int,
    positive_number,
    probability,
    vector_size,
)
from cellkit.cells.wrapper import CellWrapper, InnerCell

__all__ = [
    "Cell",
    "CellWrapper",
    "ChronoInitializer",
    "GatedCell",
    "InnerCell",
    "LinearCell",
    "MatrixCell",
    "ParallelCell",
    "StandardWeights",
    "TensorSpec",
    "TimeGaps",
    "as_dtype",
    "check_gaps",
    "choice",
    "constant_gap",
    "declared_output",
    "declared_state",
    "features_beside_gap",
    "has_standard_activations",
    "log_sigmoid",
    "matmul",
    "normalize",
    "number",
    "plus",
    "positive_int",
    "positive_number",
    "precise",
    "probability",
    "resolve",
    "rms_normalize",
    "softplus",
    "split",
    "training_mode",
    "vector_size",
]
