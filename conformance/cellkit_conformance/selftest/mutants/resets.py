"""RST: broken layers that begin a sequence at the wrong step, or by half."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops, tree

from cellkit_conformance.selftest.mutants.base import BrokenLayer, breaks


class BrokenResets(BrokenLayer):
    """Changes the flags that a call is given; mutants say how."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Run on other flags."""
        if given["resets"] is not None:
            given = {**given, "resets": self.flags(np.array(given["resets"], bool), given)}
        return self.plain(sequences, given)

    def flags(self, resets: np.ndarray, given: dict[str, Any]) -> np.ndarray:
        """Return the flags; overridden by mutants."""
        return resets


@breaks("RST-01", "RST-04")
class LateReset(BrokenResets):
    """A reset comes one step late."""

    def flags(self, resets: np.ndarray, given: dict[str, Any]) -> np.ndarray:
        """Shift the flags."""
        return np.concatenate([np.zeros_like(resets[:, :1]), resets[:, :-1]], axis=1)


@breaks("RST-01", "RST-04")
class FirstResetIgnored(BrokenResets):
    """A reset at the first step does nothing."""

    def flags(self, resets: np.ndarray, given: dict[str, Any]) -> np.ndarray:
        """Take the first flag away."""
        return np.concatenate([np.zeros_like(resets[:, :1]), resets[:, 1:]], axis=1)


@breaks("RST-02")
class ResetBehindInReverse(BrokenResets):
    """A backward run begins anew behind the marked step, where a forward run would."""

    def flags(self, resets: np.ndarray, given: dict[str, Any]) -> np.ndarray:
        """Shift the flags of a backward run."""
        if not self.go_backwards:
            return resets
        return np.concatenate([np.zeros_like(resets[:, :1]), resets[:, :-1]], axis=1)


@breaks("RST-02")
class SegmentsReadForwards(BrokenLayer):
    """A backward run cuts at the step with which a segment begins forwards."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Make resets of segments as a forward run would."""
        if given["segments"] is not None:
            numbers = np.array(given["segments"])
            resets = np.array(given["resets"], bool)
            resets[:, 1:] |= numbers[:, 1:] != numbers[:, :-1]
            given = {**given, "resets": resets, "segments": None}
        return self.plain(sequences, given)


@breaks("RST-01")
class ResetHeldBack(BrokenResets):
    """A reset at a masked step does nothing."""

    def flags(self, resets: np.ndarray, given: dict[str, Any]) -> np.ndarray:
        """Take the flags of masked steps away."""
        if given["mask"] is None:
            return resets
        return resets & np.array(given["mask"], bool)


@breaks("RST-01")
class OutputNotReset(BrokenLayer):
    """The states begin anew, and the output before is held on."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Hold outputs where they are zero."""
        if given["resets"] is None or given["mask"] is None:
            return result
        keep = np.array(given["mask"], bool)

        def held(y: Any) -> Any:
            y = np.array(ops.convert_to_numpy(y))
            for t in range(1, y.shape[1]):
                y[~keep[:, t], t] = y[~keep[:, t], t - 1]
            return ops.convert_to_tensor(y)

        return self.on_output(result, held)


@breaks("RST-01", "RST-04")
class StatesNotReset(BrokenLayer):
    """The output that is held becomes zero, and the states go on."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Run without resets, and set held outputs to zero behind one."""
        result = self.plain(sequences, {**given, "resets": None})
        if given["resets"] is None or given["mask"] is None:
            return result
        begun, shown = np.array(given["resets"], bool), np.array(given["mask"], bool)

        def cut(y: Any) -> Any:
            y = np.array(ops.convert_to_numpy(y))
            for row, t in zip(*np.nonzero(begun & ~shown), strict=True):
                y[row, t] = 0
            return ops.convert_to_tensor(y)

        return self.on_output(result, cut)


@breaks("RST-03")
class GradientLeaks(BrokenLayer):
    """The numbers are right, and the output has a gradient by all inputs of its row."""

    def call(
        self, sequences: Any, initial_state: Any = None, mask: Any = None, **kwargs: Any
    ) -> Any:
        """Add the inputs, and take them away without their gradient."""
        result = super().call(sequences, initial_state, mask, **kwargs)
        if kwargs.get("resets") is None:
            return result
        rows = sum(
            ops.sum(ops.reshape(x, (ops.shape(x)[0], -1)), axis=1) for x in tree.flatten(sequences)
        )
        nothing = rows - ops.stop_gradient(rows)

        def leaking(y: Any) -> Any:
            shape = (-1, *[1] * (len(y.shape) - 1))
            return y + keras.ops.cast(ops.reshape(nothing, shape), y.dtype)

        return self.on_output(result, leaking)
