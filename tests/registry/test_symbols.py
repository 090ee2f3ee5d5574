"""The map between the symbols of a paper and the weights of a cell."""

import numpy as np
import pytest
from three_parts import raised

import cellkit
from cellkit.registry import (
    WeightMap,
    blocks,
    cell_weights,
    configured,
    custom,
    gate_blocks,
    rename,
)
from cellkit_conformance.subject.subject import Subject
from cellkit_conformance.subject.targets import resolve

pytestmark = pytest.mark.one_backend

GATES = ["i", "f", "g", "o"]


def random(*shape):
    return np.random.default_rng(shape).normal(size=shape)


def gated_weights(units=2, features=3):
    return {
        "kernel": random(features, 4 * units),
        "recurrent_kernel": random(units, 4 * units),
        "bias": random(4 * units),
    }


def both_ways(a_map, weights, config):
    """Check that the directions are inverse to each other, and return the symbols."""
    symbols = a_map.to_symbols(weights, config)
    back = a_map.from_symbols(symbols, config)
    assert back.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype
    again = a_map.to_symbols(back, config)
    for name, array in symbols.items():
        np.testing.assert_array_equal(again[name], array)
    return symbols


def test_gates_are_blocks_of_the_last_axis_in_their_order():
    weights = gated_weights()
    symbols = both_ways(gate_blocks(GATES), weights, {})
    assert sorted(symbols) == sorted(f"{letter}_{gate}" for letter in "WUb" for gate in GATES)
    np.testing.assert_array_equal(symbols["W_f"], weights["kernel"][:, 2:4])
    np.testing.assert_array_equal(symbols["U_o"], weights["recurrent_kernel"][:, 6:])
    np.testing.assert_array_equal(symbols["b_g"], weights["bias"][4:6])


def test_gates_of_a_convolution_and_of_float32():
    weights = {
        "kernel": random(3, 3, 2, 8).astype("float32"),
        "recurrent_kernel": random(3, 3, 2, 8).astype("float32"),
        "bias": random(8).astype("float32"),
    }
    assert both_ways(gate_blocks(GATES), weights, {})["W_i"].shape == (3, 3, 2, 2)


def test_gate_blocks_with_other_letters_and_without_some():
    weights = {"kernel": random(3, 4)}
    a_map = gate_blocks(["z", "n"], kernel="A", recurrent_kernel=None, bias=None)
    assert sorted(both_ways(a_map, weights, {})) == ["A_n", "A_z"]


def test_an_absent_bias_is_zeros_one_way_and_nothing_the_other_way():
    weights = gated_weights()
    del weights["bias"]
    config = {"use_bias": False}
    symbols = both_ways(gate_blocks(GATES), weights, config)
    for gate in GATES:
        np.testing.assert_array_equal(symbols[f"b_{gate}"], np.zeros(2))
        del symbols[f"b_{gate}"]
    assert gate_blocks(GATES).from_symbols(symbols, config).keys() == weights.keys()


def test_an_absent_bias_of_a_plain_cell_is_zeros_too():
    weights = {"kernel": random(3, 2), "recurrent_kernel": random(2, 2)}
    a_map = rename({"kernel": "W", "recurrent_kernel": "U", "bias": "b"})
    symbols = both_ways(a_map, weights, {"use_bias": False})
    np.testing.assert_array_equal(symbols["b"], np.zeros(2))


def test_a_bias_for_a_cell_without_one_is_an_error():
    symbols = gate_blocks(GATES).to_symbols(gated_weights(), {})
    what, received, expected, fix = raised(
        gate_blocks(GATES).from_symbols, symbols, {"use_bias": False}
    )
    assert "'b_i' is a bias" in what and "use_bias=False" in received
    assert "zeros" in expected and "use_bias=True" in fix


def test_a_bias_that_is_merely_forgotten_is_an_error():
    weights = gated_weights()
    del weights["bias"]
    what, received, _, _ = raised(gate_blocks(GATES).to_symbols, weights, {"use_bias": True})
    assert "weight 'bias' is missing" in what and "'kernel'" in received


def test_a_missing_symbol_is_named():
    symbols = gate_blocks(GATES).to_symbols(gated_weights(), {})
    symbols["U_x"] = symbols.pop("U_o")
    what, received, expected, fix = raised(gate_blocks(GATES).from_symbols, symbols, {})
    assert "symbol 'U_o' is missing" in what and "'U_x'" in received
    assert "'U_o'" in expected and "pass 'U_o'" in fix


def test_an_unknown_symbol_and_an_unknown_weight_are_named():
    symbols = gate_blocks(GATES).to_symbols(gated_weights(), {})
    symbols["p_i"] = random(2)
    what, received, expected, fix = raised(gate_blocks(GATES).from_symbols, symbols, {})
    assert "does not know a symbol" in what and received == "'p_i'"
    assert "'W_i'" in expected and "leave out" in fix
    weights = {**gated_weights(), "recurent_kernel": random(2)}
    what, received, expected, fix = raised(gate_blocks(GATES).to_symbols, weights, {})
    assert "does not know a weight" in what and received == "'recurent_kernel'"
    assert "'bias'" in expected and "did you mean 'recurrent_kernel'" in fix


def test_blocks_of_different_shape_are_an_error():
    symbols = gate_blocks(GATES).to_symbols(gated_weights(), {})
    symbols["W_g"] = symbols["W_g"].T
    what, received, expected, fix = raised(gate_blocks(GATES).from_symbols, symbols, {})
    assert "'kernel' differ in shape" in what and "W_g: (2, 3)" in received
    assert "W_i: (3, 2)" in received and "one shape" in expected and "(in, out)" in fix


def test_a_weight_that_cannot_be_divided_is_an_error():
    for bad in (random(3, 7), np.float64(3.0)):
        what, received, expected, fix = raised(
            gate_blocks(GATES).to_symbols, {**gated_weights(), "kernel": bad}, {}
        )
        assert "'kernel' can't be divided" in what and str(bad.shape) in received
        assert "4 blocks" in expected and "cell_weights" in fix


def test_rename_maps_any_shape():
    weights = {"alpha": np.float64(0.5), "norm/gamma": random(4), "cube": random(2, 3, 4)}
    a_map = rename({"alpha": "alpha", "norm/gamma": "g", "cube": "C"})
    assert sorted(both_ways(a_map, weights, {})) == ["C", "alpha", "g"]


def test_optional_weights_may_be_absent_altogether():
    a_map = rename({"kernel": "W"}) | blocks("peephole", ["p_i", "p_f"], optional=True)
    assert sorted(both_ways(a_map, {"kernel": random(2, 2)}, {})) == ["W"]
    weights = {"kernel": random(2, 2), "peephole": random(4)}
    assert sorted(both_ways(a_map, weights, {})) == ["W", "p_f", "p_i"]
    what, _, _, _ = raised(a_map.from_symbols, {"W": random(2, 2), "p_i": random(2)}, {})
    assert "'p_f' is missing" in what


def test_blocks_along_another_axis():
    weights = {"kernel": random(6, 2)}
    symbols = both_ways(blocks("kernel", ["A", "B", "C"], axis=0), weights, {})
    np.testing.assert_array_equal(symbols["B"], weights["kernel"][2:4])


def reset_after():
    """The map of a GRU with two biases in one weight, as its author writes it."""

    def to_symbols(weights, config):
        z, r, n = np.split(weights["kernel"], 3, axis=-1)
        (b_z, b_r, b_n), (c_z, c_r, b_hn) = (np.split(b, 3) for b in weights["bias"])
        return {"W_z": z, "W_r": r, "W_n": n, "b_z": b_z + c_z, "b_r": b_r + c_r} | {
            "b_n": b_n,
            "b_hn": b_hn,
        }

    def from_symbols(symbols, config):
        first = [symbols["b_z"], symbols["b_r"], symbols["b_n"]]
        second = [np.zeros_like(first[0]), np.zeros_like(first[0]), symbols["b_hn"]]
        return {
            "kernel": np.concatenate([symbols[f"W_{gate}"] for gate in "zrn"], axis=-1),
            "bias": np.stack([np.concatenate(first), np.concatenate(second)]),
        }

    return custom(to_symbols=to_symbols, from_symbols=from_symbols)


def test_custom_maps_carry_what_blocks_cannot():
    bias = random(2, 6)
    bias[1, :4] = 0.0
    symbols = both_ways(reset_after(), {"kernel": random(3, 6), "bias": bias}, {})
    np.testing.assert_array_equal(symbols["b_hn"], bias[1, 4:])


def test_custom_maps_report_missing_and_unused_entries():
    weights = {"kernel": random(3, 6), "bias": random(2, 6)}
    symbols = reset_after().to_symbols(weights, {})
    what, received, expected, _ = raised(reset_after().to_symbols, {"bias": weights["bias"]}, {})
    assert "weight 'kernel' is missing" in what and received == "'bias'" and "'kernel'" in expected
    del symbols["b_hn"]
    what, received, _, _ = raised(reset_after().from_symbols, symbols, {})
    assert "symbol 'b_hn' is missing" in what and "'b_n'" in received
    symbols = {**reset_after().to_symbols(weights, {}), "q": random(2)}
    what, received, _, _ = raised(reset_after().from_symbols, symbols, {})
    assert "does not know a symbol" in what and received == "'q'"


def test_an_error_inside_a_custom_map_is_not_taken_for_a_missing_entry():
    a_map = custom(to_symbols=lambda w, c: {"W": w["kernel"] * c["scale"]}, from_symbols=dict)
    with pytest.raises(KeyError, match="scale"):
        a_map.to_symbols({"kernel": random(2)}, {})


def test_maps_are_joined_with_a_bar():
    a_map = (
        gate_blocks(GATES)
        | rename({"projection": "P"})
        | custom(
            to_symbols=lambda w, c: {"t": 2 * w["tau"]},
            from_symbols=lambda s, c: {"tau": s["t"] / 2},
        )
    )
    weights = {**gated_weights(), "projection": random(2, 1), "tau": random(2)}
    symbols = both_ways(a_map, weights, {})
    assert len(symbols) == 14 and {"P", "t", "W_i"} <= symbols.keys()
    assert isinstance(a_map, WeightMap) and "projection = P" in repr(a_map)
    with pytest.raises(TypeError):
        gate_blocks(GATES) | {"projection": "P"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: rename({"kernel": "W"}) | rename({"kernel": "A"}), "names a weight twice"),
        (lambda: rename({"kernel": "W", "other": "W"}), "names a symbol twice"),
        (lambda: gate_blocks(["i", "i"]), "names a symbol twice"),
        (lambda: gate_blocks("ifgo"), "names in their order"),
        (lambda: gate_blocks([]), "names in their order"),
        (lambda: blocks("kernel", [1, 2]), "names in their order"),
        (lambda: rename(["kernel"]), "dict of names"),
        (lambda: rename({"kernel": 3}), "dict of names"),
        (lambda: custom(to_symbols=None, from_symbols=dict), "to_symbols"),
        (lambda: custom(to_symbols=dict, from_symbols=3), "from_symbols"),
    ],
)
def test_a_malformed_map_is_refused_when_it_is_made(make, said):
    what, received, expected, fix = raised(make)
    assert said in what and received and expected and fix


def test_arrays_come_by_name():
    what, received, expected, fix = raised(gate_blocks(GATES).to_symbols, [random(2)], {})
    assert "by name" in what and "list" in received and "dict" in expected and "W_i" in fix


def test_blocks_of_different_sizes():
    a_map = gate_blocks({"q": 3, "i": 1}, recurrent_kernel=None)
    weights = {"kernel": random(2, 4), "bias": random(4)}
    symbols = both_ways(a_map, weights, {})
    assert {name: array.shape for name, array in symbols.items()} == {
        "W_q": (2, 3), "W_i": (2, 1), "b_q": (3,), "b_i": (1,),
    }  # fmt: skip
    weights = {"kernel": random(2, 4)}
    symbols = both_ways(a_map, weights, {"use_bias": False})
    assert symbols["b_q"].shape == (3,) and not symbols["b_q"].any()


def test_one_block_takes_what_the_others_leave():
    a_map = blocks("kernel", {"W_o": 2, "W_i": None, "W_r": 1})
    assert both_ways(a_map, {"kernel": random(3, 7)}, {})["W_i"].shape == (3, 4)


@pytest.mark.parametrize("width", [3, 5])
def test_a_weight_of_another_size_than_its_blocks_is_an_error(width):
    a_map = blocks("kernel", {"W_q": 3, "W_i": 1})
    what, received, expected, fix = raised(a_map.to_symbols, {"kernel": random(2, width)}, {})
    assert "'kernel'" in what and f"(2, {width})" in received and "3, 1" in expected and fix


def test_a_weight_smaller_than_its_blocks_leaves_nothing_for_the_rest():
    a_map = blocks("kernel", {"W_o": 3, "W_i": None})
    what, _, expected, _ = raised(a_map.to_symbols, {"kernel": random(2, 2)}, {})
    assert "divided" in what and "3, any" in expected


def test_a_symbol_of_another_size_is_an_error():
    a_map = blocks("kernel", {"W_q": 3, "W_i": 1})
    symbols = {"W_q": random(2, 1), "W_i": random(2, 3)}
    what, received, expected, fix = raised(a_map.from_symbols, symbols, {})
    assert "shape" in what and "W_q: (2, 1)" in received and "3, 1" in expected and fix


@pytest.mark.parametrize("sizes", [{"a": None, "b": None}, {"a": 1.5, "b": 2}, {"a": -1, "b": 2}])
def test_sizes_are_whole_numbers(sizes):
    what, received, expected, fix = raised(blocks, "kernel", sizes)
    assert "sizes" in what and repr(sizes) in received and expected and fix


def test_a_bias_is_as_long_as_the_weight_it_is_like():
    a_map = rename({"kernel": "A", "readout": "C"}) | rename({"bias": "b"}, like="readout")
    weights = {"kernel": random(2, 3), "readout": random(3, 5).astype("float32")}
    zeros = both_ways(a_map, weights, {"use_bias": False})["b"]
    assert zeros.shape == (5,) and zeros.dtype == "float32" and not zeros.any()


def test_a_symbol_may_be_stored_in_another_form():
    a_map = rename({"log_decay": "a"}, to_symbol=np.exp, from_symbol=np.log)
    np.testing.assert_allclose(a_map.to_symbols({"log_decay": np.ones(2)}, {})["a"], np.e)
    np.testing.assert_allclose(a_map.from_symbols({"a": np.ones(2)}, {})["log_decay"], 0)


def test_a_conversion_has_two_directions():
    what, received, expected, fix = raised(rename, {"log_decay": "a"}, to_symbol=np.exp)
    assert "both" in what and "from_symbol=None" in received and expected and fix


def test_a_map_may_depend_on_the_configuration():
    def layers(config):
        return rename({f"kernel_{k}": f"W{k}" for k in range(config["depth"])})

    a_map = configured(layers) | rename({"bias": "b"}, optional=True)
    assert repr(a_map) == "WeightMap(configured, bias = b)"
    for depth in (1, 3):
        weights = {f"kernel_{k}": random(2, k + 1) for k in range(depth)} | {"bias": random(2)}
        assert len(both_ways(a_map, weights, {"depth": depth})) == depth + 1


def test_a_configured_map_needs_a_function():
    what, received, expected, fix = raised(configured, rename({"kernel": "W"}))
    assert "function" in what and "WeightMap" in received and expected and fix


def test_a_custom_map_does_not_lose_a_bias():
    a_map = rename({"kernel": "W"}) | custom(
        to_symbols=lambda weights, config: {"b": np.zeros(2)},
        from_symbols=lambda symbols, config: {"": symbols["b"]} if not symbols["b"].size else {},
    )
    symbols = {"W": random(3, 2), "b": np.zeros(2)}
    assert a_map.from_symbols(symbols, {"use_bias": False}).keys() == {"kernel"}
    symbols["b"] = random(2)
    what, received, _, fix = raised(a_map.from_symbols, symbols, {"use_bias": False})
    assert "'b' is a bias" in what and "use_bias=False" in received and "use_bias=True" in fix


@pytest.mark.parametrize("name", cellkit.list_cells())
def test_the_symbols_of_every_cell_survive_the_way_to_weights_and_back(name):
    target = resolve(name)
    for case in target.cases:
        subject = Subject(target, case, cellkit.RNN)
        subject.set_weights(seed=1)
        weights = cell_weights(subject.cell)
        a_map, config = target.spec.symbols, subject.config
        symbols = a_map.to_symbols(weights, config)
        back = a_map.from_symbols(symbols, config)
        assert back.keys() == weights.keys(), case
        # Biases that are only ever added come back as one, so it is the symbols that are compared.
        for symbol, array in a_map.to_symbols(back, config).items():
            np.testing.assert_allclose(array, symbols[symbol], rtol=1e-4, atol=1e-6, err_msg=case)
        if config.get("use_bias", True):
            continue
        for symbol in symbols:
            if symbol.startswith("b_") and not symbols[symbol].any():
                given = {**symbols, symbol: np.ones_like(symbols[symbol])}
                what, _, _, _ = raised(a_map.from_symbols, given, config)
                assert f"{symbol!r} is a bias" in what
