"""Initializers that recurrent cells need and Keras lacks, and draws that never repeat."""

from __future__ import annotations

import json
import random
from typing import Any

import keras

from cellkit.errors import problem

__all__ = ["ChronoInitializer"]


@keras.saving.register_keras_serializable(package="cellkit")
class ChronoInitializer(keras.initializers.Initializer):
    """Biases of a forget gate that remembers for between one and `max_time` steps.

    Paper: Tallec and Ollivier 2018, "Can recurrent neural networks warp time?", arXiv:1804.11188.

    ```
    b_f = log(u),  u uniform in [1, max_time - 1]
    b_i = -b_f
    ```

    A gate with the bias log(u) forgets about one part in u + 1 per step. For the pair of forget and
    input gate, make a second one with `negate=True` and the seed of the first.

    Args:
        max_time: The longest dependency to be learned, in steps; at least 2. The length of the
            sequences is a good choice.
        negate: True to return the negative, for the input gate. Default False.
        seed: Int seed. Two initializers of one seed draw the same numbers. Default None: a random
            seed, found in the attribute `seed`.

    Raises:
        ValueError: If `max_time` is below 2.

    Example:
    >>> forget = ChronoInitializer(100, seed=1)
    >>> input_gate = ChronoInitializer(100, negate=True, seed=forget.seed)
    >>> float(keras.ops.max(keras.ops.abs(forget((5,)) + input_gate((5,)))))
    0.0
    """

    def __init__(self, max_time: float, negate: bool = False, seed: int | None = None) -> None:
        number = isinstance(max_time, (int, float)) and not isinstance(max_time, bool)
        if not number or not 2 <= max_time < float("inf"):
            raise problem(
                "`max_time` of a chrono initialisation is not a number of steps.",
                received=f"max_time={max_time!r}",
                expected="a number of 2 or more: the longest dependency, in steps",
                fix="pass e.g. the length of the sequences, max_time=100",
            )
        self.max_time = max_time
        self.negate = bool(negate)
        # From Python's generator, as in Keras, so that keras.utils.set_random_seed rules it.
        self.seed = random.randint(1, int(1e9)) if seed is None else seed

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """Return biases of this shape.

        Args:
            shape: Shape of the bias.
            dtype: Its dtype. Default: Keras' float type.
        """
        u = keras.random.uniform(shape, 1.0, self.max_time - 1.0, dtype=dtype, seed=self.seed)
        return -keras.ops.log(u) if self.negate else keras.ops.log(u)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        return {"max_time": self.max_time, "negate": self.negate, "seed": self.seed}


# Far from 1, so that weights of layers that are seeded 1, 2, 3, ... stay apart as well.
_SEED_OFFSET = 0x2545F491


class Draws:
    """The draws of the initializers of one cell, no two of which give the same numbers.

    An initializer draws the same numbers at every call for one shape: two kernels, or the biases
    of two gates, would start equal and receive equal gradients.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[Any, ...], int] = {}

    def next(self, initializer: Any, shape: Any) -> Any:
        """Return an initializer like this one that draws other numbers than those before it.

        Args:
            initializer: Anything that `keras.initializers.get` takes. The first one of a seed
                keeps its seed; a second one of the same shape gets another, derived from it.
            shape: Shape of what it is to draw.
        """
        initializer = keras.initializers.get(initializer)
        if not _is_described(initializer):
            return initializer
        config = initializer.get_config()
        seed = config.get("seed")
        if isinstance(seed, dict):
            return initializer  # a generator, which never repeats itself: a copy of it would
        if isinstance(seed, bool) or not isinstance(seed, int):
            return initializer.clone()
        name = (type(initializer), tuple(shape), json.dumps(config, sort_keys=True, default=repr))
        count = self._counts[name] = self._counts.get(name, -1) + 1
        return type(initializer).from_config(
            {**config, "seed": (seed + count * _SEED_OFFSET) % 2**31 if count else seed}
        )


def _is_described(initializer: Any) -> bool:
    """Tell whether an initializer can be made again from its configuration."""
    base = keras.initializers.Initializer
    return isinstance(initializer, base) and type(initializer).get_config is not base.get_config
