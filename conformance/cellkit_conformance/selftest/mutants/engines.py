"""DEV, GRD: broken layers that differ by device, or by engine, recomputation and truncation."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops, tree

import cellkit
from cellkit.engines import EngineReport
from cellkit_conformance.selftest.mutants.base import BrokenLayer, breaks, first, is_traced

LSTM = cellkit.get("lstm").cls
"""A cell to which fast paths apply, which no canary is."""


@breaks("DEV-01", "DEV-04")
class OneDevice(BrokenLayer):
    """Results are brought to the first CPU, and are off by a hundredth on other devices."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Move the result."""
        if not isinstance(first(result), np.ndarray) and not is_traced(first(sequences)):
            device = first(sequences).device
            if str(device() if callable(device) else device).lower().endswith("1"):
                with keras.device("cpu:0"):
                    return tree.map_structure(
                        lambda y: ops.convert_to_tensor(1.01 * ops.convert_to_numpy(y)), result
                    )
        return result


def _half_the_gradient(x: Any) -> Any:
    """Keep the value of a tensor and halve its gradient."""
    return (x + ops.stop_gradient(x)) / 2


@breaks("DEV-02", cell=LSTM)
class EngineFillsGaps(BrokenLayer):
    """Any engine but the loop takes a masked step between two others for a valid one."""

    def call(
        self, sequences: Any, initial_state: Any = None, mask: Any = None, **kwargs: Any
    ) -> Any:
        """Fill the gaps of the mask."""
        if self.engine not in ("auto", "loop") and mask is not None:
            counts = ops.cast(mask, "int32")
            before = ops.cumsum(counts, axis=1)
            after = ops.flip(ops.cumsum(ops.flip(counts, axis=1), axis=1), axis=1)
            mask = ops.logical_and(before > 0, after > 0)
        return super().call(sequences, initial_state, mask, **kwargs)


@breaks("DEV-02", cell=LSTM)
class EngineHalves(BrokenLayer):
    """Any engine but the loop returns half of the gradients."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Change the gradient of the output."""
        result = super().call(*args, **kwargs)
        if self.engine in ("auto", "loop"):
            return result
        return self.on_output(result, _half_the_gradient)


@breaks("DEV-03", cell=LSTM)
class EngineInSilence(BrokenLayer):
    """The plain loop runs whichever engine was asked for."""

    def __init__(self, *args: Any, engine: str = "auto", **kwargs: Any) -> None:
        super().__init__(*args, engine=engine if engine == "auto" else "loop", **kwargs)


@breaks("DEV-03", cell=LSTM)
class EngineWithoutReasons(BrokenLayer):
    """The report says which engine ran, and not why the others did not."""

    def engine_report(self) -> EngineReport:
        """Leave the reasons out."""
        return dataclasses.replace(super().engine_report(), reasons={})


@breaks("GRD-12", cell=LSTM)
class RematHalves(BrokenLayer):
    """The second run of a chunk gives half of the gradients."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Change the gradient of the output."""
        result = super().call(*args, **kwargs)
        return self.on_output(result, _half_the_gradient) if self.remat else result


@breaks("GRD-12", cell=LSTM)
class RematForgetsMask(BrokenLayer):
    """With recomputation every step counts."""

    def call(
        self, sequences: Any, initial_state: Any = None, mask: Any = None, **kwargs: Any
    ) -> Any:
        """Drop the mask."""
        mask = None if self.remat else mask
        return super().call(sequences, initial_state, mask, **kwargs)


@breaks("GRD-13", cell=LSTM)
class NeverTruncates(BrokenLayer):
    """The whole gradient comes where a truncated one was asked for."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Forget the option for the time of the call."""
        return self.shortened(None, *args, **kwargs)

    def shortened(self, size: int | None, *args: Any, **kwargs: Any) -> Any:
        """Call with another length of the blocks."""
        asked, self.truncate_gradient = self.truncate_gradient, size
        try:
            return super().call(*args, **kwargs)
        finally:
            self.truncate_gradient = asked


@breaks("GRD-13", cell=LSTM)
class TruncatesEarly(NeverTruncates):
    """The blocks are shorter by one step than what was asked for."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Shorten the blocks for the time of the call."""
        size = self.truncate_gradient
        return self.shortened(None if size is None else max(1, size - 1), *args, **kwargs)


@breaks("GRD-13", cell=LSTM)
class TruncatesOutputs(BrokenLayer):
    """Each block starts from zeros, and not from the states before it."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Forget the initial states, which are those before the first block."""
        if self.truncate_gradient is not None:
            batch = first(sequences).shape[0]
            given["initial_state"] = tree.map_structure(
                ops.zeros_like, self.get_initial_state(batch)
            )
        return self.plain(sequences, given)
