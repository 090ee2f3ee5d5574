"""Packed sequences: where they stand, and that a layer treats each as if it were alone."""

import keras
import numpy as np
import pytest
from three_parts import raised

import cellkit

LENGTHS = (3, 7, 1, 4, 2, 5)
rng = np.random.default_rng(2)
SEQUENCES = [rng.normal(size=(n, 3)).astype("float32") for n in LENGTHS]


def numpy(x):
    return np.asarray(keras.ops.convert_to_numpy(x))


@pytest.mark.one_backend
@pytest.mark.parametrize(("rows", "length"), [(None, None), (None, 9), (5, None), (4, 12)])
def test_every_step_stands_in_one_place(rows, length):
    packed = cellkit.pack(SEQUENCES, rows=rows, length=length)
    assert packed.mask.shape[1] == (length or 7)
    assert rows is None or len(packed.mask) == rows
    assert packed.mask.sum() == sum(LENGTHS)
    again = cellkit.unpack(packed.inputs, packed)
    for got, want in zip(again, SEQUENCES, strict=True):
        np.testing.assert_array_equal(got, want)
    assert not packed.inputs[~packed.mask].any()
    segments = cellkit.unpack(packed.segments, packed)
    assert [len(set(s.tolist())) for s in segments] == [1] * len(LENGTHS)
    marks = {(p.row, int(s[0])) for p, s in zip(packed.places, segments, strict=True)}
    assert len(marks) == len(LENGTHS)
    # Longest first, in the first row with room: no two rows could be joined.
    if rows is None:
        filled = packed.mask.sum(axis=1)
        assert all(a + b > packed.mask.shape[1] for a, b in zip(filled, filled[1:], strict=False))


@pytest.mark.one_backend
def test_structures_and_dtypes_are_kept():
    sequences = [
        {"ids": np.arange(n), "x": rng.normal(size=(n, 2, 2)).astype("float32")} for n in LENGTHS
    ]
    packed = cellkit.pack(sequences, length=8)
    assert packed.inputs["ids"].dtype == np.arange(1).dtype
    assert packed.inputs["x"].dtype == np.float32
    for got, want in zip(cellkit.unpack(packed.inputs, packed), sequences, strict=True):
        keras.tree.map_structure(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize("make", ["forwards", "backwards", "both", "stack"])
def test_a_layer_treats_each_sequence_as_if_it_were_alone(make):
    options = {"return_sequences": True}
    layer = {
        "forwards": lambda: cellkit.RNN("gru", units=4, **options),
        "backwards": lambda: cellkit.RNN("gru", units=4, go_backwards=True, **options),
        "both": lambda: cellkit.Bidirectional(cellkit.RNN("lstm", units=4, **options)),
        "stack": lambda: cellkit.RNN(
            [cellkit.create("residual", inner="gru", units=3), cellkit.create("lstm", units=4)],
            **options,
        ),
    }[make]()
    packed = cellkit.pack(SEQUENCES)
    outputs = layer(packed.inputs, mask=packed.mask, segments=packed.segments)
    if make == "backwards":  # its steps come in the order processed
        outputs = keras.ops.flip(outputs, axis=1)
    for got, x in zip(cellkit.unpack(outputs, packed), SEQUENCES, strict=True):
        want = numpy(layer(x[None]))[0]
        want = want[::-1] if make == "backwards" else want
        np.testing.assert_allclose(numpy(got), want, rtol=1e-4, atol=1e-5)
    last = numpy(cellkit.unpack(outputs, packed, last=True))
    ends = [numpy(y)[-1] for y in cellkit.unpack(outputs, packed)]
    np.testing.assert_array_equal(last, np.stack(ends))


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("sequences", "options", "said"),
    [
        ([], {}, "no sequences"),
        ([np.ones((2, 3)), np.ones((2, 4))], {}, "Sequence 1"),
        ([np.ones((2, 3)), np.ones((0, 3))], {}, "Sequence 1"),
        ([np.float32(3.0)], {}, "Sequence 0"),
        (SEQUENCES, {"length": 6}, "7 steps"),
        (SEQUENCES, {"rows": 3}, "4 rows"),
        (SEQUENCES, {"rows": 0}, "rows=0"),
        (SEQUENCES, {"length": 2.5}, "length=2.5"),
    ],
)
def test_what_does_not_fit_is_refused(sequences, options, said):
    assert said in " ".join(raised(cellkit.pack, sequences, **options))


@pytest.mark.one_backend
def test_other_results_are_refused():
    packed = cellkit.pack(SEQUENCES)
    said = raised(cellkit.unpack, packed.inputs[:, :3], packed)
    assert f"{len(packed.mask)} rows of 7 steps" in said[2]
