"""`torch.compile(fullgraph=True)`: one graph, with the numbers and gradients of the plain call."""

import itertools

import keras
import numpy as np
import pytest
from cell_numbers import random_weights
from exporting import BACKEND, chosen, constants_of, nested, shapes_of, shapes_of_constants

import cellkit

pytestmark = pytest.mark.skipif(BACKEND != "torch", reason="torch.compile is PyTorch's")

FEW = ("lstm",)
SAMPLE = (*FEW, "min_gru", "layer_norm_lstm", "clockwork", "s5", "conv_lstm", "nested", "gru_d")
CELLS = chosen(FEW, SAMPLE)
STEPS = 3


def data(leaves, structure):
    import torch

    rng = np.random.default_rng(1)
    arrays = [np.abs(rng.normal(size=(3, STEPS, *s))).astype("float32") for s in leaves]
    xs = [torch.tensor(a, requires_grad=True) for a in arrays]
    return xs, nested(structure, xs)


def differentiated(call, leaves, structure, layer, constants=()):
    """Return outputs, and the gradients of inputs and weights."""
    given = {"constants": list(constants)} if constants else {}
    xs, inputs = data(leaves, structure)
    for v in layer.trainable_variables:
        v.value.grad = None
    ys = keras.tree.flatten(call(inputs, **given))
    sum((y**2).sum() for y in ys).backward()
    grads = [x.grad for x in xs] + [v.value.grad for v in layer.trainable_variables]
    return [y.detach().numpy() for y in ys] + [g.numpy().copy() for g in grads if g is not None]


def cases():
    """Give cells with what they are asked: all in every way, those of the sample in turn in one."""
    ways = list(itertools.product((False, True), repeat=2))
    for place, name in enumerate(CELLS):
        alone = CELLS == SAMPLE and name not in FEW
        for way in [ways[place % 4]] if alone else ways:
            yield name, *way


@pytest.mark.slow
@pytest.mark.part(2)
@pytest.mark.parametrize(("name", "warm", "dynamic"), [*cases()])
def test_a_layer_is_one_graph(name, warm, dynamic):
    import torch

    torch._dynamo.reset()
    found = cellkit.get(name)
    cell = found.cls(**next(iter(found.spec.cases.values())))
    layer = cellkit.RNN(cell, return_sequences=True)
    leaves, structure = shapes_of(name)
    constants = [torch.tensor(a) for a in constants_of(name, 3)]
    shapes = [(None, *s) for s in shapes_of_constants(name)]
    sequences = nested(structure, [(None, None, *s) for s in leaves])
    layer.build(sequences, constants_shape=shapes or None)
    random_weights(cell, np.random.default_rng(0))
    if warm:
        layer(data(leaves, structure)[1], constants=constants or None)
    # A break of the graph is an error; what is compiled runs operation by operation.
    compiled = torch.compile(layer, fullgraph=True, backend="eager", dynamic=dynamic)
    got = differentiated(compiled, leaves, structure, layer, constants)
    want = differentiated(layer, leaves, structure, layer, constants)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
