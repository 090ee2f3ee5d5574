"""ERR: broken layers that take bad input, or refuse it in another way."""

from __future__ import annotations

from typing import Any

from keras import ops, tree

from cellkit_conformance.selftest.mutants.base import BrokenLayer, breaks, first


@breaks("ERR-01")
class TakesOneRow(BrokenLayer):
    """An initial state of one row is repeated for all."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Repeat the row."""
        states, batch = given["initial_state"], first(sequences).shape[0]
        if states is not None and first(states).shape[0] == 1:
            rows = tree.map_structure(
                lambda s: ops.repeat(ops.convert_to_tensor(s), batch, axis=0), states
            )
            given = {**given, "initial_state": rows}
        return self.plain(sequences, given)


@breaks("ERR-01", "ERR-02")
class OtherErrors(BrokenLayer):
    """Bad input ends in whatever the backend raises."""

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Hide the reason."""
        try:
            return self.plain(sequences, given)
        except ValueError as error:
            raise RuntimeError("shapes cannot be multiplied") from error


@breaks("ERR-03")
class BreaksOnError(BrokenLayer):
    """After an error the layer computes something else."""

    broken = False

    def run(self, sequences: Any, given: dict[str, Any]) -> Any:
        """Remember that there was an error."""
        try:
            return self.plain(sequences, given)
        except ValueError:
            self.broken = True
            raise

    def after(self, result: Any, sequences: Any, given: dict[str, Any]) -> Any:
        """Change the output from then on."""
        return self.on_output(result, lambda y: y + 1.0) if self.broken else result
