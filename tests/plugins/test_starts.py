"""Weights as they start: no two of one cell are equal, whatever initializers a user passes."""

import itertools

import keras
import numpy as np
import pytest

import cellkit
from cellkit.cells.initializers import ChronoInitializer, Draws

pytestmark = pytest.mark.one_backend


def normal(seed=None):
    return keras.initializers.RandomNormal(stddev=0.7, seed=seed)


CHOICES = {
    "unseeded": lambda: normal(),
    "seeded": lambda: normal(seed=11),
    "generator": lambda: normal(seed=keras.random.SeedGenerator(11)),
}


def sizes(inputs):
    """Return the shapes of one step's inputs with all named sizes 4, which states have as well."""
    if isinstance(inputs, dict):
        return {k: sizes(v) for k, v in inputs.items()}
    if any(isinstance(d, (dict, list, tuple)) for d in inputs):
        return type(inputs)(sizes(v) for v in inputs)
    return (None, *(d if isinstance(d, int) else 4 for d in inputs))


def made(name, **options):
    _, spec = cellkit.get(name)
    case = dict(next(iter(spec.cases.values())))
    if isinstance(case.get("units"), int):
        case["units"] = 4
    cell = cellkit.create(name, **{**case, **options})
    return cell, sizes(spec.inputs)


def blocks(cell):
    """Return the trainable weights and the blocks of the joined ones, by name."""
    found = {}
    for weight in cell.trainable_weights:
        value = np.asarray(keras.ops.convert_to_numpy(weight))
        found[weight.path] = value
        gates = getattr(cell, "gates", ())
        count = len(gates) if isinstance(gates, dict) else 0
        if count > 1 and value.ndim and value.shape[-1] % count == 0:
            for i, part in enumerate(np.split(value, count, axis=-1)):
                found[f"{weight.path}[gate {i}]"] = part
    if isinstance(cell, cellkit.CellWrapper):  # the biases of cells inside start as these say
        found = {k: v for k, v in found.items() if not k.endswith("bias")}
    return {k: v for k, v in found.items() if v.size > 1 and np.unique(v).size > 1}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", sorted(cellkit.list_cells()))
def test_no_two_weights_or_gates_of_a_cell_start_equal(name, choice):
    shared = CHOICES[choice]()
    options = {f"{kind}_initializer": shared for kind in ("kernel", "recurrent", "bias")}
    cell, shape = made(name, **options)
    cellkit.RNN(cell).build(with_time(shape))
    found = blocks(cell)
    for (a, x), (b, y) in itertools.combinations(found.items(), 2):
        if x.shape == y.shape:
            assert not np.array_equal(x, y), f"{a} and {b} of {name} start equal"


def with_time(shape):
    if isinstance(shape, dict):
        return {k: with_time(v) for k, v in shape.items()}
    if any(isinstance(d, (dict, list, tuple)) for d in shape):
        return type(shape)(with_time(v) for v in shape)
    return (2, 3, *shape[1:])


@pytest.mark.parametrize("name", ["lstm", "conv_lstm"])
def test_the_first_weight_of_a_seed_keeps_its_numbers(name):
    cell, shape = made(name, kernel_initializer=normal(seed=5))
    cell.build(shape)
    expected = normal(seed=5)(tuple(cell.kernel.shape), dtype="float32")
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(cell.kernel), keras.ops.convert_to_numpy(expected)
    )


def test_gates_of_a_convolutional_cell_start_apart():
    cell = cellkit.create("conv_gru", filters=6, kernel_size=3, bias_initializer=normal(seed=3))
    cell.build((None, 5, 5, 2))
    z, r, n = np.split(keras.ops.convert_to_numpy(cell.bias), 3)
    assert not np.allclose(z, r) and not np.allclose(r, n) and not np.allclose(z, n)


def test_a_pair_of_gates_that_shares_a_seed_by_design_still_does():
    cell = cellkit.create("peephole_lstm", units=5, max_time=50, seed=2)
    cell.build((None, 3))
    i, f, _, _ = np.split(keras.ops.convert_to_numpy(cell.bias), 4)
    np.testing.assert_allclose(i, -f, rtol=1e-6)
    assert np.unique(f).size > 1


def test_gates_of_one_chrono_initializer_draw_apart():
    cell = cellkit.create("gru", units=5, bias_initializer=ChronoInitializer(50))
    cell.build((None, 3))
    rows = np.reshape(keras.ops.convert_to_numpy(cell.bias), (-1, 5))
    assert len({tuple(row) for row in rows}) == len(rows)


def test_learned_initial_states_of_one_initializer_start_apart():
    start = normal(seed=4)

    class Two(cellkit.Cell):
        @property
        def state_size(self):
            return [cellkit.TensorSpec(3, initializer=start, trainable=True)] * 2

        def step(self, inputs, states):
            return states[0], states

    cell = Two()
    cell.build((None, 3))
    a, b = cell.initial_state_variables.values()
    assert not np.allclose(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b))


def test_an_initializer_without_a_config_is_used_as_it_is():
    class Ramp(keras.initializers.Initializer):
        def __init__(self, scale=1.0):
            self.scale = scale

        def __call__(self, shape, dtype=None):
            return self.scale * keras.ops.ones(shape, dtype)

    ramp = Ramp(3.0)
    assert Draws().next(ramp, (2,)) is ramp


def test_seeds_go_up_only_where_shape_and_options_repeat():
    draws = Draws()
    seeds = [draws.next(normal(seed=1), shape).seed for shape in ((2, 3), (3, 2), (2, 3))]
    assert seeds[:2] == [1, 1] and seeds[2] != 1
    other = keras.initializers.RandomNormal(stddev=0.1, seed=1)
    assert draws.next(other, (2, 3)).seed == 1
