"""Place where a worker runs: a backend, and one of its devices.

A place is written `torch` for the processor and `torch@gpu:0` for anything else; results, reports
and files of expected failures name it so.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable

from cellkit.errors import problem

CPU = "cpu"

MODULES = {"tensorflow": "tensorflow", "torch": "torch", "jax": "jax"}
"""The module of each backend that trains."""

INFERENCE = {"numpy": "numpy", "openvino": "openvino"}
"""The module of each backend without gradients, which is used where it is named."""

BACKENDS = {**MODULES, **INFERENCE}
"""The module of each backend that Keras can run on."""

NEEDS_TWO = frozenset({"DEV-01", "DEV-04", "DST-01", "DST-02", "DST-03"})
"""Requirements whose checks need a second device."""


def place(backend: str, device: str = CPU) -> str:
    """Name a place.

    Args:
        backend: The Keras backend.
        device: The device, such as "cpu" or "gpu:0".
    """
    return backend if device == CPU else f"{backend}@{device}"


def backend_of(name: str) -> str:
    """Give the backend of a place."""
    return name.partition("@")[0]


def device_of(name: str) -> str:
    """Give the device of a place."""
    return name.partition("@")[2] or CPU


def read_devices(texts: Iterable[str]) -> list[str]:
    """Read what was asked for with `--device`.

    Args:
        texts: Such as `["cpu,gpu"]`.

    Returns:
        Devices, the first of a kind without its number where that is the processor, or "all".

    Raises:
        ValueError: One of them does not name a device.
    """
    asked = [part.strip().lower() for text in texts for part in text.split(",") if part.strip()]
    for name in asked:
        if name != "all" and re.fullmatch(r"[a-z]+(:\d+)?", name) is None:
            raise problem(
                f"{name!r} is not a name of a device.",
                received=f"--device {','.join(texts)}",
                expected="all, or names such as cpu, gpu, gpu:1 or cpu:1",
                fix="leave it out for the processor",
            )
    if "all" in asked:
        return ["all"]
    return list(dict.fromkeys(map(_plain, asked))) or [CPU]


def _plain(name: str) -> str:
    if name == "cpu:0":
        return CPU
    name = name.replace("cuda", "gpu")
    return name if ":" in name or name == CPU else f"{name}:0"


def choose(asked: Iterable[str], reported: Iterable[str], backend: str) -> list[str]:
    """Find the devices of a backend that were asked for.

    Args:
        asked: The result of `read_devices`.
        reported: The result of `devices` in a process of that backend.
        backend: Its name, for the message.

    Returns:
        Devices; of "all" the processor and the first of each other kind.

    Raises:
        ValueError: The backend has no such device.
    """
    reported = list(reported)
    if "all" in asked:
        return [CPU, *unused(reported)]
    for name in asked:
        if name != CPU and name not in reported:
            raise problem(
                f"{backend} reports no device {name}.",
                received=f"--device {name}",
                expected="one or more of " + ", ".join(["all", CPU, *reported[1:]]),
                fix="install the build of the backend that drives it, or leave it out",
            )
    return list(asked)


def unused(reported: Iterable[str]) -> list[str]:
    """List the first device of every kind but the processor."""
    return [name for name in reported if name.endswith(":0") and not name.startswith(CPU)]


def devices() -> list[str]:
    """List the devices of this process's backend, as `keras.device` takes them, "cpu:0" first."""
    import keras

    name = keras.backend.backend()
    if name == "jax":
        import jax

        found = [f"{d.platform}:{d.id}" for d in (*jax.devices("cpu"), *jax.devices())]
    elif name == "tensorflow":
        import tensorflow as tf

        found = [d.name.removeprefix("/device:").lower() for d in tf.config.list_logical_devices()]
        found = [d for d in found if not d.startswith("xla_")]
    elif name == "torch":
        import torch

        found = ["cpu:0", *(f"gpu:{i}" for i in range(torch.cuda.device_count()))]
    else:
        found = []
    return list(dict.fromkeys(["cpu:0", *found]))


def on(device: str) -> contextlib.AbstractContextManager[object]:
    """Run what is in the block on a device.

    Args:
        device: As in a place. The processor needs no scope where there is nothing else.
    """
    import keras

    if device == CPU and all(name.startswith(CPU) for name in devices()):
        return contextlib.nullcontext()
    return keras.device(device)
