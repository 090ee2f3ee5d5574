"""Transformations of PyTorch's, for which engines step back to operations that it can see.

Each way of taking a layer apart must give with every engine what it gives with the plain loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import cellkit

if keras.backend.backend() != "torch":
    pytest.skip("these transformations are PyTorch's", allow_module_level=True)

import torch  # noqa: E402 - where it is the backend, it is there
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402


class Dispatched(TorchDispatchMode):
    """Somebody's mode that looks at every operation."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        return function(*args, **(kwargs or {}))


class Called(TorchFunctionMode):
    """Somebody's mode that looks at every function."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        return function(*args, **(kwargs or {}))


class Own(torch.Tensor):
    """Somebody's kind of tensor."""


class Module(torch.nn.Module):
    """A layer as PyTorch's tools want it."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Any) -> Any:
        """Call the layer."""
        return self.layer(x)


def made(names: Any) -> Any:
    """Return a cell, or a stack of two."""
    cells = [cellkit.create(name, units=4) for name in names.split()]
    return cells[0] if len(cells) == 1 else cells


def jit_trace(layer: Any, x: Any) -> Any:
    return torch.jit.trace(Module(layer), (x,), check_trace=False)(x)


def export(layer: Any, x: Any) -> Any:
    return torch.export.export(Module(layer), (x,), strict=False).module()(x)


def graph(layer: Any, x: Any) -> Any:
    return make_fx(layer)(x)(x)


def fake(layer: Any, x: Any) -> Any:
    with FakeTensorMode(allow_non_fake_inputs=True):
        shape = tuple(layer(torch.empty(tuple(x.shape))).shape)
    return torch.zeros(shape)


def within(context: Callable[[], Any]) -> Callable[[Any, Any], Any]:
    """Return a function that calls a layer in a context."""

    def call(layer: Any, x: Any) -> Any:
        with context():
            return layer(x)

    return call


def dual(layer: Any, x: Any) -> Any:
    with forward_ad.dual_level():
        y = layer(forward_ad.make_dual(x, torch.cos(x)))
        return torch.cat(forward_ad.unpack_dual(y))


def subclass(layer: Any, x: Any) -> Any:
    return layer(x.as_subclass(Own)).as_subclass(torch.Tensor)


def inference_first(layer: Any, x: Any) -> Any:
    with torch.inference_mode():
        layer(x)
    x = x.clone().requires_grad_()
    return torch.autograd.grad(layer(x).square().sum(), x)[0]


def many_gradients(layer: Any, x: Any) -> Any:
    x = x.clone().requires_grad_()
    y = layer(x).sum((0, 1))
    leaves = [x, *(v.value for v in layer.trainable_variables)]
    found = torch.autograd.grad(y, leaves, torch.eye(len(y)), is_grads_batched=True)
    return torch.cat([g.flatten() for g in found])


def jacobian(**options: Any) -> Callable[[Any, Any], Any]:
    return lambda layer, x: torch.autograd.functional.jacobian(
        lambda z: layer(z).sum((0, 1)), x, **options
    )


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "torch.jit.trace": jit_trace,
    "torch.export": export,
    "make_fx": graph,
    "FakeTensorMode": fake,
    "TorchDispatchMode": within(Dispatched),
    "TorchFunctionMode": within(Called),
    "torch.device": within(lambda: torch.device("cpu")),
    "inference_mode": within(torch.inference_mode),
    "inference, then training": inference_first,
    "autocast": within(lambda: torch.autocast("cpu", torch.bfloat16)),
    "anomaly mode": within(torch.autograd.detect_anomaly),
    "forward_ad": dual,
    "subclass": subclass,
    "is_grads_batched": many_gradients,
    "jacobian": jacobian(),
    "jacobian, vectorized": jacobian(vectorize=True),
    "jacobian, forward mode": jacobian(vectorize=True, strategy="forward-mode"),
    "hessian": lambda layer, x: torch.autograd.functional.hessian(
        lambda z: layer(z).square().sum(), x[:1, :2], vectorize=True
    ),
    "vmap": lambda layer, x: torch.func.vmap(lambda z: layer(z[None])[0])(x),
    "jvp": lambda layer, x: torch.func.jvp(layer, (x,), (torch.cos(x),))[1],
    "jacrev": lambda layer, x: torch.func.jacrev(lambda z: layer(z).sum((0, 1)))(x),
    "jacfwd": lambda layer, x: torch.func.jacfwd(lambda z: layer(z).sum((0, 1)))(x),
    "func.hessian": lambda layer, x: torch.func.hessian(lambda z: layer(z).square().sum())(
        x[:1, :2]
    ),
    "saved_tensors_hooks": lambda layer, x: _saved(layer, x),
}


def _saved(layer: Any, x: Any) -> Any:
    x = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        y = layer(x).square().sum()
    return torch.autograd.grad(y, x)[0]


LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "kernel": ("lstm", {"engine": "kernel"}),
    "fused": ("mgu", {"engine": "fused"}),
    "scan": ("min_gru", {"engine": "scan"}),
    "projected": ("mgu", {"engine": "projected"}),
    "stack": ("mgu gru", {"engine": "stack"}),
    "loop, remat": ("mgu", {"engine": "loop", "remat": 2}),
    "auto, remat": ("min_gru", {"remat": 2}),
    "truncated": ("mgu", {"truncate_gradient": 4}),
}


@pytest.mark.part(2)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of operations without a batching rule
def test_every_engine_takes_every_transformation(name: str, way: str) -> None:
    """The results are those of the plain loop."""
    names, options = LAYERS[name]
    layer = cellkit.RNN(made(names), return_sequences=True, **options)
    x = torch.tensor(np.random.RandomState(1).randn(3, 4, 5).astype("float32"))
    truncate = options.get("truncate_gradient")
    layer.build(tuple(x.shape))
    for variable in layer.trainable_variables:  # no two alike, biases too
        seed = len(variable.path)
        variable.assign(np.random.RandomState(seed).randn(*variable.shape) * 0.5)
    loop = cellkit.RNN(layer.cell, engine="loop", return_sequences=True, truncate_gradient=truncate)
    loop.build(tuple(x.shape))
    have, want = WAYS[way](layer, x), WAYS[way](loop, x)
    assert have.shape == want.shape
    np.testing.assert_allclose(have.detach(), want.detach(), rtol=1e-4, atol=2e-5)
    # The layer works as before.
    y = layer(x).detach().numpy()
    np.testing.assert_allclose(y, loop(x).detach(), rtol=1e-4, atol=1e-5)
    usual = {"auto, remat": "scan", "loop, remat": "loop", "truncated": "fused"}.get(name, name)
    assert layer.engine_report().engine == usual


def test_the_report_says_why_a_named_engine_stepped_back() -> None:
    """A layer that names an engine can be traced."""
    layer = cellkit.RNN(made("mgu"), engine="fused")
    x = torch.zeros(2, 3, 4)
    with Dispatched():
        layer(x)
    report = layer.engine_report()
    assert report.engine == "loop"
    assert "dispatcher" in report.reasons["fused"]
    layer(x)
    assert layer.engine_report().engine == "fused"
