"""Cells whose inputs are nested: `NestedCell` and `GatedFusionCell`.

Both take any structure of modalities per time step. The first is the linear cell of Keras' guide,
the second a gated one to train.
"""

from cellkit_nested.gated_fusion import GatedFusionCell
from cellkit_nested.nested import NestedCell

__all__ = ["GatedFusionCell", "NestedCell"]
