"""Plan of a run of measurements."""

from __future__ import annotations

import dataclasses
from typing import Any

CELLS = ("lstm", "gru", "simple_rnn", "peephole_lstm", "layer_norm_lstm", "min_gru")
"""The cells of the default run, those of them that are registered."""

MODES = ("inference", "training")


@dataclasses.dataclass(frozen=True)
class Work:
    """One cell on sequences of one shape; inputs and states are equally wide.

    Args:
        cell: A registered name or ``module:Class``.
        batch: Rows.
        length: Time steps.
        width: Features of the inputs, and units of the cell.
    """

    cell: str
    batch: int = 32
    length: int = 100
    width: int = 128


@dataclasses.dataclass(frozen=True)
class BenchPlan:
    """Measurements that every backend makes.

    Args:
        main: Measured with all contestants.
        curves: Measured with a few contestants, for the curves over length, batch and width.
        streaming: Measured step by step, on a batch of one.
        memory: Measured in a process of its own per contestant.
        seconds: Approximate seconds that the contestants of one work and mode run in all.
        rounds: Turns of each of them; fewer where they are slow.
        engines: Engines of `cellkit.RNN` to be measured beside the one it chooses.
    """

    main: tuple[Work, ...]
    curves: tuple[Work, ...] = ()
    streaming: tuple[Work, ...] = ()
    memory: tuple[Work, ...] = ()
    seconds: float = 1.2
    rounds: int = 7
    engines: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BenchPlan:
        """Make a plan from what `to_json` returned."""
        works = {
            name: tuple(Work(**work) for work in data[name])
            for name in ("main", "curves", "streaming", "memory")
        }
        return cls(**{**data, **works, "engines": tuple(data["engines"])})

    def count(self) -> int:
        """Return how many steps of progress a backend reports, beside those for memory."""
        return len(self.main) + len(self.curves) + len(self.streaming)


def default_plan(cells: tuple[str, ...], engines: tuple[str, ...] = ()) -> BenchPlan:
    """BenchPlan a whole run: every cell at one shape, and the curves of the first one."""
    first = cells[0]
    curves = [Work(first, length=length) for length in (25, 400)]
    curves += [Work(first, batch=batch) for batch in (1, 256)]
    curves += [Work(first, width=width) for width in (32, 512)]
    return BenchPlan(
        main=tuple(Work(cell) for cell in cells),
        curves=tuple(curves),
        streaming=(Work(first, batch=1),),
        memory=(Work(first, length=1000),),
        engines=engines,
    )


def quick_plan(cells: tuple[str, ...], engines: tuple[str, ...] = ()) -> BenchPlan:
    """BenchPlan a run of less than a minute per backend: fewer turns, no curves, no memory."""
    return BenchPlan(
        main=tuple(Work(cell) for cell in cells),
        streaming=(Work(cells[0], batch=1),),
        seconds=0.6,
        rounds=5,
        engines=engines,
    )
