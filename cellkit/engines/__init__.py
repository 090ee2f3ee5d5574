"""Engines: the ways in which a layer may compute its loop over time.

Every engine computes the same function, that of the plain loop over `cell.call`, gradients
included; they differ in speed and in what they ask of the cell. An engine is a module with two
functions::

    why_not(request) -> str | None    # the reason why it does not apply, or None
    run(request) -> (last, outputs, states)

and perhaps a third, ``slower(request) -> str | None``: the reason why "auto" is better off with an
engine further down, though this one applies.

`run` returns the leaves of the last output, those of all outputs `(batch, time, ...)` in the order
processed (None unless `request.collect`), and those of the final states. When it runs, the inputs
of masked steps are zeros already, so that what stands in the padding reaches nothing (but for JAX's
plain loop, which sees to that).

The rooms: `request` is what is asked for, `choose` finds the engine and runs it, `shared` holds
what all backends have in common, and `torch`, `jax` and `tensorflow` what each does in its own way,
under the same file names. `backend` is the backend of this process.
"""

from cellkit.engines.choose import ENGINES, NAMES, check_name, choose, report, run, run_with
from cellkit.engines.request import EngineReport, Request

__all__ = [
    "ENGINES",
    "NAMES",
    "EngineReport",
    "Request",
    "check_name",
    "choose",
    "report",
    "run",
    "run_with",
]
