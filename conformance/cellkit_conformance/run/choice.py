"""The choice of what runs: cells, backends, devices and parts, from the words of a command."""

from __future__ import annotations

import re

from cellkit import registry
from cellkit._distribution import install_command
from cellkit.errors import problem
from cellkit.registry.names import did_you_mean
from cellkit_conformance.places import BACKENDS, CPU, INFERENCE, choose, place
from cellkit_conformance.run.mistyped import check_target
from cellkit_conformance.run.process import Process, WorkerGone
from cellkit_conformance.run.runner import installed_backends


def read_shard(text: str | None) -> tuple[int, int] | None:
    """Read `1/4`."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise problem(
            "The shard cannot be read.",
            received=f"--shard {text}",
            expected="i/n with i from 1 to n, such as 1/4",
            fix="run 1/4, 2/4, 3/4 and 4/4 for the whole",
        )
    return int(found[1]), int(found[2])


def choose_backends(names: list[str]) -> tuple[list[str], list[str]]:
    """Turn what was asked for into backends to use, and backends that are not there."""
    there = installed_backends()
    asked = [part.strip() for text in names for part in text.split(",") if part.strip()]
    if "all" in asked:
        usual = {name: found for name, found in there.items() if name not in INFERENCE}
        named = [name for name in asked if name in INFERENCE]
        asked = [name for name, installed in usual.items() if installed] + named
        missing = [name for name, installed in usual.items() if not installed]
    else:
        missing = []
    unknown = [name for name in asked if name not in BACKENDS]
    if unknown or not asked:
        raise problem(
            f"There is no backend {unknown[0]!r}." if unknown else "No backend is installed.",
            received=f"--backend {','.join(names)}",
            expected=f"all, or one or more of {', '.join(BACKENDS)}",
            fix=_or(did_you_mean(unknown[0], BACKENDS)) + "leave it out for all that train"
            if unknown
            else f"install one, for example: {install_command('torch')}",
        )
    return list(dict.fromkeys(asked)), missing


def _or(question: str) -> str:
    """Go on after a question that `did_you_mean` may have asked."""
    return f"{question}or " if question else ""


def choose_places(backends: list[str], asked: list[str]) -> list[str]:
    """Name the devices that were asked for; a process of each backend says which it has."""
    if asked == [CPU]:
        return backends
    found = []
    for backend in backends:
        try:
            probe = Process(backend, {"profile": "quick", "seed": 0, "layer": "cellkit"})
        except WorkerGone:  # the run will say so
            found.append(backend)
            continue
        probe.close()
        found += [place(backend, name) for name in choose(asked, probe.hello["devices"], backend)]
    return found


def choose_cells(names: list[str]) -> list[str]:
    """Check the names of registered cells; of `module:Class` see `check_target`."""
    known = sorted(registry.declarations())
    for name in names:
        if ":" in name:
            check_target(name)
        elif name not in known:
            raise problem(
                f"No cell is called {name!r}.",
                received=name,
                expected="a registered cell (see `cellkit list`), module:Class or file.py:Class",
                fix=_or(did_you_mean(name, known)) + "name the class, such as my_lab.cells:MyCell",
            )
    if not names and not known:
        raise problem(
            "No cell is registered.",
            received="no cell, and none is installed",
            expected="the name of a cell, module:Class or file.py:Class",
            fix="install a plugin, or name a class, such as my_lab.cells:MyCell",
        )
    return list(dict.fromkeys(names)) or known
