"""DST: broken layers that look at how they are distributed."""

from __future__ import annotations

import sys
from typing import Any

import keras

from cellkit_conformance.selftest.mutants.base import BrokenLayer, breaks, first


def replicas() -> int:
    """Count the replicas that train, and the devices that share a kernel."""
    distribution = keras.distribution.distribution()
    if distribution is not None:
        return int(distribution.device_mesh.devices.size)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return int(tf.distribute.get_strategy().num_replicas_in_sync)
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        return int(torch.distributed.get_world_size())
    return 1


@breaks("DST-01", "DST-02", "DST-04")
class SumsOverReplicas(BrokenLayer):
    """Outputs are divided by the number of devices, as if somebody added them up."""

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Divide the outputs."""
        return self.on_output(result, lambda y: y / replicas())


@breaks("DST-03")
class ForgetsInReplicas(BrokenLayer):
    """A replica begins every batch with the states of another row."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Turn the stored states round."""
        if self.stateful and replicas() > 1 and self.states:
            rows = first(sequences).shape[0]
            order = [*range(1, rows), 0]
            turned = [keras.ops.take(s.value, order, axis=0) for s in first_level(self.states)]
            given = {**given, "initial_state": keras.tree.pack_sequence_as(self.states, turned)}
        return self.plain(sequences, given)


def first_level(states: Any) -> list[Any]:
    """List the variables of stored states."""
    return list(keras.tree.flatten(states))
