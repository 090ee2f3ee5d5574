"""The state of this machine: Python, Keras, each backend with its devices, each plugin.

Backends and plugins are tried in processes of their own: a process can hold one backend only, and
one that crashes or hangs while it is imported must not take the report with it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

from cellkit import _backends, _distribution
from cellkit._backends import BACKENDS, INFERENCE
from cellkit._distribution import install_command
from cellkit.registry import registry

__all__ = ["BACKENDS", "Finding", "Report", "examine"]

# Run in a process of its own. It imports Keras on the backend, computes something, and prints what
# it found as the last line: imports may print before it.
_PROBE = """
import json, os
import keras
keras.ops.convert_to_numpy(keras.ops.matmul(keras.ops.ones((2, 3)), keras.ops.ones((3, 2))))
name = keras.backend.backend()
if name == "tensorflow":
    import tensorflow as tf
    devices = [d.name.removeprefix("/physical_device:") for d in tf.config.list_physical_devices()]
elif name == "torch":
    import torch
    devices = ["cpu"]
    cuda = range(torch.cuda.device_count())
    devices += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in cuda]
    devices += ["mps"] if torch.backends.mps.is_available() else []
elif name == "openvino":
    import openvino
    devices = openvino.Core().available_devices
elif name == "numpy":
    devices = ["cpu"]
else:
    import jax
    devices = [str(d) for d in jax.devices()]
x64 = bool(jax.config.jax_enable_x64) if name == "jax" else None
print("\\n" + json.dumps({"backend": name, "devices": devices, "x64": x64}))
"""

_PROBE_PLUGINS = """
import json, warnings
warnings.simplefilter("ignore")
from cellkit.registry import registry
found = {name: registry.problem_of(name) for name in registry.declarations()}
print("\\n" + json.dumps({name: error and str(error) for name, error in found.items()}))
"""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        subject: The thing that was looked at.
        state: ``"ok"``, ``"note"`` (worth knowing), ``"absent"`` (not installed, not needed) or
            ``"broken"``.
        text: The finding.
        fix: The remedy, a command where there is one; "" where none is needed.
    """

    subject: str
    state: str
    text: str
    fix: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """All findings, in groups.

    Args:
        groups: Findings by the title of their group.
    """

    groups: Mapping[str, tuple[Finding, ...]]

    @property
    def healthy(self) -> bool:
        """True if nothing is broken."""
        return all(f.state != "broken" for found in self.groups.values() for f in found)

    @property
    def to_do(self) -> tuple[str, ...]:
        """The remedies, each once; where nothing is broken, what is worth doing."""
        findings = [finding for found in self.groups.values() for finding in found]
        state = "note" if self.healthy else "broken"
        return tuple(dict.fromkeys(f.fix for f in findings if f.fix and f.state == state))

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON takes it."""
        return {
            "healthy": self.healthy,
            "to_do": list(self.to_do),
            "groups": {
                title: [dataclasses.asdict(finding) for finding in found]
                for title, found in self.groups.items()
            },
        }


def examine(timeout: float = 120.0, progress: Callable[[str], None] | None = None) -> Report:
    """Look at everything that cellkit needs.

    Args:
        timeout: Seconds after which a backend or a plugin that is still being imported is broken.
        progress: Is told what is being tried, since that takes seconds.

    Returns:
        The report.
    """
    configured, configuration = _configuration()
    tried = {}
    for name in BACKENDS:
        _tell(progress, f"Trying {name} ...")
        tried[name] = _backend(name, configured, timeout)
    working = [name for name, findings in tried.items() if findings[0].state == "ok"]
    backends = [finding for findings in tried.values() for finding in findings]
    if not working:
        backends.append(
            Finding("backends", "broken", "none of them works", _backends.advice(configured, []))
        )
    for name in INFERENCE:
        backends += _for_inference(name, configured, timeout)
    usable = configured if configured in working else next(iter(working), None)
    _tell(progress, "Trying the plugins ...")
    return Report(
        {
            "Versions": tuple(_versions()),
            "Configuration": tuple(configuration),
            "Backends": tuple(backends),
            "Plugins": tuple(_plugins(usable, timeout)),
        }
    )


def _tell(progress: Callable[[str], None] | None, text: str) -> None:
    if progress is not None:
        progress(text)


def _versions() -> list[Finding]:
    found = [Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")]
    found += _own_versions()
    for name in ("keras", "numpy"):
        version = _version(name)
        if version is None:
            found.append(Finding(name, "broken", "not installed", f"pip install {name}"))
        else:
            found.append(Finding(name, "ok", version))
    return found


def _own_versions() -> list[Finding]:
    """Return what there is to say of cellkit's own distribution, and of others of its name."""
    there = {found.name: found for found in _distribution.installed()}
    found, own, former = [], there.get(_distribution.NAME), there.get(_distribution.FORMER)
    if own is not None:
        found.append(Finding(own.name, "ok", own.version))
    if former is not None and former.ours:
        text = f"{former.version}, the former name of {_distribution.NAME}"
        fix = f"pip uninstall {' '.join(there)}, then install {_distribution.NAME} again"
        found.append(Finding(former.name, "note", text, fix))
    elif own is None:
        found.append(Finding(_distribution.NAME, "broken", "not installed", install_command()))
    if former is not None and not former.ours:
        found.append(_stranger(former))
    return found


def _stranger(other: _distribution.Installed) -> Finding:
    """Return what to do about another project's distribution of the name of our package."""
    text = f"{other.version} is a distribution of another project, not this one"
    fix = f"pip uninstall {other.name}"
    if not other.overlaps:
        return Finding(other.name, "note", text, fix)
    again = f"{fix} && pip install --force-reinstall --no-deps {_distribution.NAME}"
    return Finding(other.name, "broken", f"{text}, and its files lie among ours", again)


def _version(*distributions: str) -> str | None:
    """Return the version of the first of these distributions that is installed."""
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _configuration() -> tuple[str, list[Finding]]:
    """Return the backend that Keras will use, and where that is said."""
    path, chosen, there = _backends.settings_path(), _backends.choice(), _backends.installed()
    found = []
    if chosen.trouble:
        text = f"{path} can't be read ({chosen.trouble})"
        found.append(Finding("keras.json", "broken", text, f"mend {path}, or remove it"))
    elif path.is_file():
        settings = json.loads(path.read_text(encoding="utf-8"))
        said = ", ".join(f"{key} {value}" for key, value in sorted(settings.items()))
        found.append(Finding("keras.json", "ok", f"{path}: {said}"))
    else:
        found.append(Finding("keras.json", "note", f"none at {path}; Keras uses its defaults"))
    backend = chosen.backend
    if os.environ.get("KERAS_BACKEND"):
        found.append(Finding("KERAS_BACKEND", "ok", f"{backend}; it goes before keras.json"))
    else:
        found.append(Finding("KERAS_BACKEND", "note", f"not set, so the backend is {backend}"))
    if backend not in (*BACKENDS, *INFERENCE):
        text = f"cellkit does not run on {backend!r}, but on {', '.join((*BACKENDS, *INFERENCE))}"
        found.append(Finding("backend", "broken", text, _backends.advice(backend, there)))
    return backend, found


def _backend(name: str, configured: str, timeout: float) -> list[Finding]:
    """Return what is to be said of a backend; the first finding says whether it works."""
    if name not in _backends.installed():
        if name == configured:
            there = _backends.installed()
            text = "not installed, but it is the configured backend"
            line = f"{install_command(name)}, or " if there else ""
            return [Finding(name, "broken", text, line + _backends.advice(name, there))]
        return [Finding(name, "absent", f"not installed ({install_command(name)})")]
    version = _version(*BACKENDS[name]) or "unknown version"
    result, trouble = _run(_PROBE, name, timeout)
    if trouble is not None:
        text = f"{version}, but Keras can't use it: {trouble}"
        return [Finding(name, "broken", text, f"install {name} again, or uninstall it")]
    mark = ", the configured backend" if name == configured else ""
    found = [Finding(name, "ok", f"{version}{mark}; devices: {', '.join(result['devices'])}")]
    if result["x64"] is False:
        found.append(
            Finding(
                "jax x64",
                "note",
                "off, so float64 layers compute in float32",
                "for float64 on JAX: export JAX_ENABLE_X64=1",
            )
        )
    return found


def _for_inference(name: str, configured: str, timeout: float) -> list[Finding]:
    """Return what is to be said of a backend without gradients, which is tried where it is set."""
    if importlib.util.find_spec(name) is None:
        if name != configured:
            return [Finding(name, "absent", f"not installed (pip install {name}); inference alone")]
        text = "not installed, but it is the configured backend"
        return [Finding(name, "broken", text, f"pip install {name}")]
    text = f"{_version(*INFERENCE[name]) or 'unknown version'}"
    if name != configured:
        return [Finding(name, "ok", f"{text}; inference alone: nothing is trained on it")]
    result, trouble = _run(_PROBE, name, timeout)
    if trouble is not None:
        broken = f"{text}, but Keras can't use it: {trouble}"
        return [Finding(name, "broken", broken, f"install {name} again, or set another backend")]
    text += f", the configured backend; devices: {', '.join(result['devices'])}"
    note = "it has no gradients: set torch, jax or tensorflow to train"
    return [Finding(name, "ok", text), Finding(f"{name} trains nothing", "note", note)]


def _plugins(backend: str | None, timeout: float) -> list[Finding]:
    """Return one finding per cell that has trouble, and one for all that have none."""
    declared = registry.declarations()
    if not declared:
        return [Finding("cells", "broken", "no distribution declares any", install_command())]
    if backend is None:
        return [Finding("cells", "note", f"{len(declared)} declared; not tried without a backend")]
    problems, trouble = _run(_PROBE_PLUGINS, backend, timeout)
    if trouble is not None:
        return [
            Finding(
                "cells",
                "broken",
                f"importing the plugins failed: {trouble}",
                "run `cellkit list --verbose` to see which one it is, and update or uninstall it",
            )
        ]
    found = []
    by_distribution: dict[str, list[str]] = {}
    for name, declarations in declared.items():
        if problems.get(name):
            fix = problems[name].partition("How to fix: ")[2]
            found.append(Finding(name, "broken", problems[name], fix))
        else:
            by_distribution.setdefault(declarations[0].distribution, []).append(name)
    fine = [
        Finding(distribution, "ok", f"{len(names)} cells: {', '.join(names)}")
        for distribution, names in by_distribution.items()
    ]
    return [*fine, *found]


def _run(code: str, backend: str, timeout: float) -> tuple[Any, str | None]:
    """Run code on a backend in a process of its own.

    Returns:
        What its last line says, as JSON, and None; or None, and what went wrong.
    """
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # The process sees the modules that this one sees.
        "PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer in {timeout:g} seconds"
    if done.returncode < 0:
        return None, f"the process was ended by signal {-done.returncode}"
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return None, lines[-1] if lines else f"exit code {done.returncode}"
    return json.loads(done.stdout.strip().splitlines()[-1]), None
