"""Engines: the ways in which a layer may compute its loop over time.

Every engine computes the same function, that of the plain loop over `cell.call`, gradients
included; they differ in speed and in what they ask of the cell. An engine is an object,
`engine.Engine`, that says as data what it needs of a request, and runs one that meets its needs.

The rooms: `request` is what is asked for, `engine` what an engine is, `choose` finds the engine and
runs it, `shared` holds what all backends have in common, and `torch`, `jax` and `tensorflow` what
each does in its own way, under the same file names. `backend` is the backend of this process.
"""

from cellkit.engines.choose import ALIASES, ENGINES, NAMES, Choice, check_name, choose, report, run
from cellkit.engines.engine import OPTIONS, Engine, Need
from cellkit.engines.request import EngineReport, Options, Request

__all__ = [
    "ALIASES",
    "ENGINES",
    "NAMES",
    "OPTIONS",
    "Choice",
    "Engine",
    "EngineReport",
    "Need",
    "Options",
    "Request",
    "check_name",
    "choose",
    "report",
    "run",
]
