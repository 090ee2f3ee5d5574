"""Contestants on PyTorch; its own layers also run beside JAX and TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from cellkit_bench import contestants
from cellkit_bench.contestants import Contestant
from cellkit_bench.plan import Work

XP = SimpleNamespace(
    sigmoid=torch.sigmoid,
    tanh=torch.tanh,
    mean=lambda x: x.mean(-1, keepdim=True),
    split=lambda x, n: torch.chunk(x, n, -1),
)


def device() -> torch.device:
    """Return where Keras puts its tensors on PyTorch."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_numpy(x: Any) -> np.ndarray[Any, Any]:
    """Copy a tensor to the host."""
    return x.detach().cpu().numpy()


def make(work: Work, engines: tuple[str, ...] = ()) -> Iterator[Contestant]:
    """Yield the contestants one after the other."""
    x = torch.as_tensor(contestants.data(work), device=device())
    for name, layer in contestants.layers(work, engines):
        yield _layer(name, layer, x)
    hand = contestants.hand_step(work)
    if hand is not None:
        yield _by_hand(work, *hand, x)
    yield from peers(work)


def peers(work: Work) -> Iterator[Contestant]:
    """Yield the layers of PyTorch and of torchrecurrent."""
    x = torch.as_tensor(contestants.data(work), device=device())
    if work.cell in contestants.TORCH:
        name = contestants.TORCH[work.cell]
        module = getattr(torch.nn, name)(work.width, work.width, batch_first=True)
        _copy_weights(module, contestants.weights(contestants.make_cell(work)))
        module.to(device())
        yield _module(f"torch.nn.{name}", lambda: module(x)[0][:, -1], module)
    if work.cell in contestants.TORCHRECURRENT and contestants.installed("torchrecurrent"):
        import torchrecurrent

        name = contestants.TORCHRECURRENT[work.cell]
        other = getattr(torchrecurrent, name)(work.width, work.width, batch_first=True)
        other.to(device())
        found = _module(f"torchrecurrent.{name}", lambda: other(x)[0][:, -1], other)
        found.comparable = False
        yield found


def product(work: Work) -> Callable[[], Any]:
    """Return a function that runs the product whose rate is measured."""
    a, b = (torch.randn(shape, device=device()) for shape in contestants.product_shapes(work))
    return lambda: wait(a @ b)


def streams(work: Work) -> Iterator[tuple[str, Callable[[int], Any]]]:
    """Yield functions that run so many steps, each on the states of the step before."""
    (x,) = torch.as_tensor(contestants.data(work), device=device())[:, :1].unbind(1)
    for name, step, start in contestants.layer_steps(work):
        yield name, _stream(step, x, start)
    if work.cell in ("lstm", "gru"):
        name = f"{contestants.TORCH[work.cell]}Cell"
        cell = getattr(torch.nn, name)(work.width, work.width).to(device())

        def step(x: Any, states: Any) -> Any:
            states = cell(x, states)
            return states, states

        yield f"torch.nn.{name}", _stream(step, x, lambda: None)


def wait(result: Any) -> Any:
    """Wait for the device, and return `result`."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result


def _stream(step: Callable[..., Any], x: Any, start: Callable[[], Any]) -> Callable[[int], Any]:
    def run(count: int) -> Any:
        with torch.no_grad():
            states, output = start(), None
            for _ in range(count):
                output, states = step(x, states)
        return wait(output)

    return run


def _layer(name: str, layer: Any, x: Any) -> Contestant:
    parameters = [v.value for v in layer.trainable_variables]
    return Contestant(
        name,
        lambda: _forward(lambda: layer(x)),
        _training(lambda: layer(x, training=True), parameters),
        layer=layer,
    )


def _module(name: str, call: Callable[[], Any], module: Any) -> Contestant:
    return Contestant(name, lambda: _forward(call), _training(call, list(module.parameters())))


def _forward(call: Callable[[], Any]) -> Any:
    with torch.no_grad():
        return wait(call())


def _training(call: Callable[[], Any], parameters: list[Any]) -> Callable[[], Any]:
    def run() -> Any:
        for parameter in parameters:
            parameter.grad = None
        y = call()
        (y * y).sum().backward()
        return wait([parameter.grad for parameter in parameters])

    return run


def _by_hand(work: Work, states: int, step: Any, x: Any) -> Contestant:
    values = contestants.weights(contestants.make_cell(work))
    w = {k: torch.tensor(v, device=device(), requires_grad=True) for k, v in values.items()}

    def call() -> Any:
        s, y = [torch.zeros(work.batch, work.width, device=device())] * states, None
        for x_t in x.unbind(1):
            y, s = step(XP, w, x_t, s)
        return y

    return Contestant(
        contestants.BY_HAND, lambda: _forward(call), _training(call, list(w.values()))
    )


def _copy_weights(module: Any, w: dict[str, Any]) -> None:
    """Give a layer of PyTorch the weights of the cell; its GRU has r before z."""
    bias = w["bias"] if w["bias"].ndim == 2 else np.stack([w["bias"], np.zeros_like(w["bias"])])
    values = [w["kernel"].T, w["recurrent_kernel"].T, bias[0], bias[1]]
    if isinstance(module, torch.nn.GRU):
        values = [np.concatenate([np.split(v, 3)[i] for i in (1, 0, 2)]) for v in values]
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), values, strict=True):
            parameter.copy_(torch.tensor(np.ascontiguousarray(value)))
