"""Training over several devices, as each backend does it: on virtual ones, or in two processes.

JAX has `keras.distribution`, TensorFlow `tf.distribute.MirroredStrategy`, and PyTorch
`DistributedDataParallel` in processes that are forked from this one. Over two processes, JAX goes
by `jax.distributed`, and PyTorch can divide the weights as well.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

import cellkit
from cellkit.registry import cell_weights
from cellkit_conformance.outcome import NotApplicable
from cellkit_conformance.places import devices
from cellkit_conformance.run import lifeline
from cellkit_conformance.subject import backend
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.trees import leaves, map_trees

REPLICAS = 2
ROWS = 4
STEPS = 3
RATE = 0.1
TIMEOUT = 120.0
"""Seconds that a process may take."""


@dataclass(frozen=True)
class Trained:
    """What training has left.

    Attributes:
        weights: Trainable weights by the name in their layer.
        states: Stored states `(rows, ...)`, each row that of its replica; empty where none are.
    """

    weights: dict[str, np.ndarray]
    states: list[np.ndarray]


Make = Callable[[], tuple[Any, Any]]
"""Makes a model, and the recurrent layer in it."""

MakeForRows = Callable[[int], tuple[Any, Any]]
"""Makes them for a number of rows, which a stateful layer has to know."""


def alone(make: Make, inputs: Any) -> Trained:
    """Train on one device.

    Args:
        make: Makes the model.
        inputs: NumPy arrays (ROWS, T, ...).
    """
    if keras.backend.backend() == "torch":
        return _train_torch(make, inputs, lambda model: model)
    model, layer = make()
    return fit(model, layer, inputs)


def data_parallel(make: MakeForRows, inputs: Any) -> Trained:
    """Train with the rows of a batch divided between two replicas.

    Args:
        make: Makes the model, for the rows that a replica sees; called where its variables are to
            be placed.
        inputs: NumPy arrays (ROWS, T, ...).

    Raises:
        NotApplicable: There are no two devices or processes here.
    """
    name = keras.backend.backend()
    if name == "torch":
        return _forked(lambda: make(ROWS // REPLICAS), inputs, _wrapped)
    first = _two_devices()
    if name == "tensorflow":
        import tensorflow as tf

        # Collective operations of two strategies in one process take each other's numbers.
        add = tf.distribute.ReductionToOneDevice()
        strategy = tf.distribute.MirroredStrategy(first, cross_device_ops=add)
        with strategy.scope():
            model, layer = make(ROWS // REPLICAS)
        return fit(model, layer, inputs, strategy.experimental_local_results)
    with distributed(keras.distribution.DataParallel(devices=first, auto_shard_dataset=False)):
        model, layer = make(ROWS)  # JAX divides the rows of one program
        return fit(model, layer, inputs)


def model_parallel(make: Make, inputs: Any) -> Trained:
    """Train with the kernels divided between two devices.

    Args:
        make: Makes the model.
        inputs: NumPy arrays (ROWS, T, ...).

    Raises:
        NotApplicable: The backend divides no weights, or the cell has none that can be divided.
    """
    if keras.backend.backend() != "jax":
        raise NotApplicable("Keras divides weights between devices on JAX alone")
    mesh = keras.distribution.DeviceMesh((1, REPLICAS), ("batch", "model"), _two_devices())
    layouts = cellkit.layout_map(make()[0], mesh)
    if not len(layouts):
        raise NotApplicable("no kernel of the cell has a width that two devices can share")
    parallel = keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False
    )
    with distributed(parallel):
        model, layer = make()
        divided = [v for v in layer.trainable_variables if not _whole(v.value)]
        if not divided:
            raise RuntimeError("no weight was divided")
        return fit(model, layer, inputs)


def over_processes(subject: Subject, inputs: Any) -> Trained:
    """Train in two processes: on JAX each has half of the rows, on PyTorch half of the weights too.

    Args:
        subject: The cell.
        inputs: NumPy arrays (ROWS, T, ...).

    Raises:
        NotApplicable: The backend has no such thing, or the cell cannot go into another process.
    """
    name = keras.backend.backend()
    if name == "tensorflow":
        raise NotApplicable("Keras trains in several processes on JAX and PyTorch")
    if name == "jax":
        return _fresh(subject, inputs)
    scalars = [v.path for v in subject.cell.variables if not v.shape]
    if scalars:
        raise NotApplicable(f"`fully_shard` divides no single number, such as {scalars[0]}")
    return _forked(lambda: model_of(subject), inputs, _shards)


def _whole(tensor: Any) -> bool:
    return bool(tensor.sharding.is_fully_replicated)


@contextlib.contextmanager
def distributed(distribution: Any) -> Iterator[None]:
    """Let Keras place what is made in here by a distribution."""
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(distribution)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def _two_devices() -> list[str]:
    found = devices()
    kind = found[-1].partition(":")[0]  # an accelerator, where there are two of them
    first = [name for name in found if name.startswith(kind)][:REPLICAS]
    if len(first) < REPLICAS:
        raise NotApplicable("this backend reports one device only")
    return first


def fit(
    model: Any,
    layer: Any,
    inputs: Any,
    of_replicas: Any = lambda value: [value],
    part: int | None = None,
) -> Trained:
    """Train a model by its `fit`, a batch of all rows at a time.

    Args:
        model: The model.
        layer: The recurrent layer in it.
        inputs: NumPy arrays (ROWS, T, ...).
        of_replicas: Returns what each replica has of a variable, or the whole.
        part: Number of this process, which trains with its part of the rows; None for all of them.
    """
    outputs = model.outputs
    model.compile(keras.optimizers.SGD(RATE), loss=[_half_square] * len(outputs))
    rows = _rows(part, REPLICAS) if part is not None else slice(None)
    inputs = map_trees(lambda a: a[rows], inputs)
    targets = [_target(y.shape, number)[rows] for number, y in enumerate(outputs)]
    data = targets if len(targets) > 1 else targets[0]
    model.fit(inputs, data, batch_size=len(targets[0]), epochs=STEPS, shuffle=False, verbose=0)
    return _trained(layer, of_replicas)


def _rows(rank: int, count: int) -> slice:
    """Return the rows of one of several processes."""
    return slice(rank * ROWS // count, (rank + 1) * ROWS // count)


def _target(shape: Any, number: int) -> np.ndarray:
    full = (ROWS, *(3 if size is None else size for size in shape[1:]))
    return np.cos(np.arange(np.prod(full)) + number).reshape(full).astype("float32")


def _half_square(y_true: Any, y_pred: Any) -> Any:
    """Return a loss per row, so that the mean over a batch is that over its parts."""
    axes = tuple(range(1, len(y_pred.shape)))
    return keras.ops.sum(keras.ops.square(y_pred - y_true), axis=axes) / 2


def _trained(layer: Any, of_replicas: Any = lambda value: [value]) -> Trained:
    weights = {v.path.partition("/")[2]: _numpy(v) for v in layer.trainable_variables}
    stored = layer.states if layer.stateful else []
    rows = [of_replicas(state.value) for state in keras.tree.flatten(stored)]
    return Trained(weights, [np.concatenate([_numpy(part) for part in parts]) for parts in rows])


def _numpy(value: Any) -> np.ndarray:
    value = value.value if isinstance(value, keras.Variable) else value
    return np.array(backend.to_numpy(keras.ops.convert_to_tensor(value)))


def _train_torch(make: Make, inputs: Any, wrap: Callable[[Any], Any]) -> Trained:
    """Train by hand: Keras' own trainer knows no wrapped model."""
    import torch

    model, layer = make()
    x = map_trees(backend.to_tensor, inputs)
    wrapped = wrap(model)
    trained = [tensor for tensor in wrapped.parameters() if tensor.requires_grad]
    for _ in range(STEPS):
        found = leaves(wrapped(x))
        losses = [
            keras.ops.mean(_half_square(backend.to_tensor(target), y))
            for target, y in zip(_targets(found), found, strict=True)
        ]
        for tensor in trained:
            tensor.grad = None
        sum(losses).backward()
        with torch.no_grad():
            for tensor in trained:
                if tensor.grad is not None:
                    tensor.sub_(RATE * tensor.grad)
    if hasattr(wrapped, "make_whole"):
        wrapped.make_whole()
    return _trained(layer)


def _targets(outputs: Any) -> list[np.ndarray]:
    """Return the targets of the rows of this process."""
    rows = _rows(*_rank())
    return [_target((None, *y.shape[1:]), number)[rows] for number, y in enumerate(outputs)]


def _rank() -> tuple[int, int]:
    import torch

    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def _forked(make: Make, inputs: Any, wrap: Callable[[Any], Any]) -> Trained:
    """Train in two processes that are forked from this one, and talk on the loopback interface."""
    import torch

    if not torch.distributed.is_available() or not hasattr(os, "fork"):
        raise NotApplicable("PyTorch cannot start two processes here")
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("fork")
        processes = [
            context.Process(target=_replica, args=(make, inputs, wrap, rank, folder), daemon=True)
            for rank in range(REPLICAS)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(TIMEOUT)
        return _joined(folder)


def _fresh(subject: Subject, inputs: Any) -> Trained:
    """Train in two new processes, which `jax.distributed` brings together."""
    from cellkit_conformance.subject.fresh_replica import Request

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*free.getsockname())
    shapes, weights = subject.step_shapes(), cell_weights(subject.cell)
    request = Request(
        subject.target.cls, subject.kwargs, shapes, weights, subject.make_layer, inputs, address
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "request")
        try:
            path.write_bytes(pickle.dumps(request))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise NotApplicable(f"the cell cannot be sent to another process: {error}") from error
        paths = os.pathsep.join(p for p in sys.path if p)
        flags = "--xla_force_host_platform_device_count=1"
        variables = {**os.environ, "PYTHONPATH": paths, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "cellkit_conformance.subject.fresh_replica", str(path)]
        with contextlib.ExitStack() as ends:
            processes = [
                ends.enter_context(
                    subprocess.Popen(
                        [*command, str(rank)],
                        env=variables,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        **lifeline.OF_A_WORKER,
                    )
                )
                for rank in range(REPLICAS)
            ]
            for process in processes:
                try:
                    process.wait(TIMEOUT)
                except subprocess.TimeoutExpired:
                    process.kill()
        return _joined(folder)


def _joined(folder: str) -> Trained:
    """Return what the processes have written, once they agree."""
    parts = [_read(Path(folder, f"{rank}.npz"), rank) for rank in range(REPLICAS)]
    first = parts[0]
    for name, value in parts[1].weights.items():
        if not np.array_equal(value, first.weights[name]):
            raise RuntimeError(f"the replicas ended with different weights {name}")
    states = [np.concatenate(rows) for rows in zip(*(part.states for part in parts), strict=True)]
    return Trained(first.weights, states)


def _replica(make: Make, inputs: Any, wrap: Callable[[Any], Any], rank: int, folder: str) -> None:
    """Train in one of the processes, and leave the result in a file."""
    import torch

    try:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=REPLICAS
        )
        part = map_trees(lambda a: a[_rows(rank, REPLICAS)], inputs)
        write(_train_torch(make, part, wrap), Path(folder, f"{rank}.npz"))
    except BaseException as error:  # noqa: BLE001 (told in the parent)
        Path(folder, f"{rank}.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
    finally:
        os._exit(0)  # what the parent registered for its end is the parent's


def _wrapped(model: Any) -> Any:
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model, static_graph=True)


def _shards(model: Any) -> Any:
    from cellkit_conformance.subject.sharded import sharded

    return sharded(model, REPLICAS)


def write(found: Trained, path: Path) -> None:
    """Write what training has left, for the process that waits for it.

    Args:
        found: The result.
        path: Of the file.
    """
    arrays: dict[str, Any] = {f"w{name}": value for name, value in found.weights.items()}
    arrays |= {f"s{number:03}": value for number, value in enumerate(found.states)}
    np.savez(path, **arrays)


def _read(path: Path, rank: int) -> Trained:
    if not path.exists():
        text = path.with_suffix(".txt")
        reason = text.read_text(encoding="utf-8") if text.exists() else "it did not come to an end"
        raise RuntimeError(f"replica {rank}: {reason}")
    with np.load(path) as found:
        weights = {name[1:]: found[name] for name in found.files if name.startswith("w")}
        states = [found[name] for name in sorted(found.files) if name.startswith("s")]
    return Trained(weights, states)


def model_of(subject: Subject, batch: int | None = None, **options: Any) -> tuple[Any, Any]:
    """Make a model of one layer with the subject's weights.

    Args:
        subject: The cell.
        batch: The number of rows, which a stateful layer has to know.
        **options: Of the layer.

    Returns:
        The model, and the layer in it.
    """
    layer = subject.fresh_layer(return_sequences=True, return_state=False, **options)
    symbolic = subject.symbolic_inputs(batch=batch, time=3)
    return keras.Model(symbolic, leaves(layer(symbolic))), layer
