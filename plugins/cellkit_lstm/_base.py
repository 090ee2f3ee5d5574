"""Parts that the variants of the LSTM share: two states, and biases that start by remembering."""

from __future__ import annotations

from typing import Any, ClassVar

from cellkit.cells import ChronoInitializer, GatedCell


class LSTMBase(GatedCell):
    """Gates i, f, g, o, and states h and c.

    Args:
        units: Number of units H.
        unit_forget_bias: True if the biases of the forget gate start at one. Default True: a new
            cell then remembers (Jozefowicz et al. 2015, "An Empirical Exploration of Recurrent
            Network Architectures").
        max_time: Longest dependency in steps, for chrono initialisation of the biases of the
            forget and input gates (`cellkit.cells.ChronoInitializer`), which then replaces
            the ones. Default None, because it is a property of the data.
        **kwargs: Options of `cellkit.Cell`.
    """

    gates: ClassVar[dict[str, str]] = {
        "i": "recurrent_activation",
        "f": "recurrent_activation",
        "g": "activation",
        "o": "recurrent_activation",
    }

    def __init__(
        self,
        units: int,
        *,
        unit_forget_bias: bool = True,
        max_time: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        self.unit_forget_bias = bool(unit_forget_bias)
        self.max_time = max_time
        if max_time is not None:
            ChronoInitializer(max_time)  # which refuses what is not a number of steps

    @property
    def state_size(self) -> list[int]:
        """Sizes of h and c."""
        return [self.units, self.units]

    def gate_bias_initializers(self) -> dict[str, Any]:
        """Start the forget gate open, for one step or for up to `max_time`."""
        if self.max_time is None:
            return {"f": "ones"} if self.unit_forget_bias else {}
        forget = ChronoInitializer(self.max_time, seed=self.seed)
        return {"f": forget, "i": ChronoInitializer(self.max_time, negate=True, seed=forget.seed)}
