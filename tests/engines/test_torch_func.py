"""Functions that PyTorch's users wrap around a module: per-sample gradients, checkpoints."""

import keras
import numpy as np
import pytest
from engine_runs import BATCH, FEATURES, TIME, data, layer_of, npy

if keras.backend.backend() != "torch":
    pytest.skip("`torch.func` is PyTorch's", allow_module_level=True)

import torch  # noqa: E402 - where it is the backend, it is there
from torch.utils.checkpoint import checkpoint  # noqa: E402

CELLS = ["lstm", "gru", "peephole_lstm", "layer_norm_lstm", "simple_rnn", "min_gru", "lru"]


def squares(results):
    return sum((y.abs() ** 2).sum() for y in keras.tree.flatten(results))


@pytest.mark.parametrize("name", CELLS)
def test_gradients_of_single_rows_add_up(name):
    layer = layer_of((name, {"units": 4}), return_sequences=True)
    x = torch.tensor(data((BATCH, TIME, FEATURES)))
    layer(x)
    # PyTorch's `functional_call` does not reach a Keras variable, which keeps its own tensor.
    weights = [v.value.detach() for v in layer.trainable_variables]
    others = [v.value for v in layer.non_trainable_variables]

    def loss(weights, x):
        return squares(layer.stateless_call(weights, others, x)[0])

    whole = torch.func.grad(loss)(weights, x)
    single = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x[:, None])
    for rows, want in zip(single, whole, strict=True):
        scale = max(1.0, float(want.abs().max()))
        np.testing.assert_allclose(npy(rows.sum(0)), npy(want), atol=1e-5 * scale)
        assert float(want.abs().max()) > 0


@pytest.mark.parametrize("name", CELLS)
def test_a_layer_in_a_checkpoint_has_the_gradients_that_it_has_outside(name):
    layer = layer_of((name, {"units": 4}), return_sequences=True)
    x = torch.tensor(data((BATCH, TIME, FEATURES)), requires_grad=True)
    layer(x)
    leaves = [x, *(v.value for v in layer.trainable_variables)]
    want = torch.autograd.grad(squares(layer(x, training=True)), leaves)
    inside = checkpoint(lambda x: layer(x, training=True), x, use_reentrant=False)
    for a, b in zip(want, torch.autograd.grad(squares(inside), leaves), strict=True):
        np.testing.assert_allclose(npy(b), npy(a), rtol=1e-5, atol=1e-6)
