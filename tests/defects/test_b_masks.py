"""Table B of docs/keras-defects.md: masks."""

import itertools

import keras
import numpy as np
import pytest
from defect_classes import (
    RNN,
    Bidirectional,
    conv_lstm,
    gru,
    gru_cell,
    lstm,
    lstm_cell,
)
from defect_tools import (
    MASK,
    Probe,
    TanhCell,
    WideCell,
    built,
    cell_step,
    close,
    data,
    differ,
    loop,
    loss_and_gradients,
    lstm_step,
    npy,
    randomise,
    serializable,
    tanh_step,
    wide_step,
)
from keras import layers, ops

ZERO = np.zeros((3, 4))
PARTS = "(?s)Received.*Expected.*How to fix"


def stack_of(name):
    """Recurrent layers of which all but the last return sequences."""
    if name == "lstm":
        return [lstm(4, return_sequences=True), lstm(4, return_sequences=True), lstm(4)]
    if name == "bidirectional":
        return [Bidirectional(gru(4, return_sequences=True)), Bidirectional(gru(4))]
    if name == "custom":
        return [RNN(TanhCell(4), return_sequences=True), RNN(WideCell(4))]
    wrapped = layers.TimeDistributed(layers.Dense(4))
    # A layer of Keras between ours, which says for itself whether it hands a mask on: a Dense layer
    # does, and its wrapper did so up to Keras 3.15.
    between = wrapped if wrapped.supports_masking else layers.Dense(4)
    return [lstm(4, return_sequences=True), between, RNN(TanhCell(4))]


@pytest.mark.parametrize("name", ["lstm", "bidirectional", "custom", "time distributed"])
def test_b1_mask_goes_through_a_stack_of_layers(name):
    """Keras 3.15: right; later: the second layer reads the padding."""
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(9, 3, mask_zero=True),
            *stack_of(name),
        ]
    )
    randomise(model)
    ids = np.array([[3, 4, 5, 0, 0], [1, 7, 2, 0, 0]])
    close(model(ids), npy(model(ids[:, :3])))
    assert differ(npy(model(ids)), npy(model(np.where(ids == 0, 6, ids))))


def test_b1_mask_goes_through_a_stack_in_predict():
    """Keras 3.15: right; later: the second layer reads the padding."""
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(9, 3, mask_zero=True),
            *stack_of("custom"),
        ]
    )
    randomise(model)
    ids = np.array([[3, 4, 5, 0, 0], [1, 7, 2, 0, 0]])
    close(model.predict(ids, verbose=0), npy(model(ids[:, :3])))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sequence", [True]),
        ("sequence and state", [True, False, False]),
        ("last", [False]),
        ("bidirectional sequence", [True]),
        ("bidirectional sequence and state", [True, False, False, False, False]),
        ("bidirectional, no merging", [True, True]),
        ("stack, sequence and state", [True, False, False, False]),
    ],
)
def test_b1_mask_is_on_the_sequences_and_on_nothing_else(name, expected):
    """Keras 3.15: right; later: on nothing."""
    layer = {
        "sequence": lambda: lstm(4, return_sequences=True),
        "sequence and state": lambda: lstm(4, return_sequences=True, return_state=True),
        "last": lambda: lstm(4),
        "bidirectional sequence": lambda: Bidirectional(lstm(4, return_sequences=True)),
        "bidirectional sequence and state": lambda: Bidirectional(
            lstm(4, return_sequences=True, return_state=True)
        ),
        "bidirectional, no merging": lambda: Bidirectional(
            lstm(4, return_sequences=True), merge_mode=None
        ),
        "stack, sequence and state": lambda: RNN(
            [lstm_cell(4), TanhCell(4)], return_sequences=True, return_state=True
        ),
    }[name]()
    ids = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 0]])
    outputs = layer(layers.Embedding(9, 3, mask_zero=True)(ids))
    for tensor, masked in zip(keras.tree.flatten(outputs), expected, strict=True):
        probe = Probe()
        probe(tensor)
        if masked:
            close(probe.mask, ids != 0)
        else:
            assert probe.mask is None


@serializable
class TwoStates(TanhCell):
    """Two states, the output is the first."""

    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.state_size = [units, units]

    def call(self, inputs, states):
        h, [new] = super().call(inputs, states[:1])
        return h, [new, states[1] * 0.5 + new]


CUSTOM_STACKS = {
    "equal widths": lambda: [TanhCell(4), TanhCell(4)],
    "other widths": lambda: [TanhCell(4), TanhCell(5)],
    "two states below": lambda: [TwoStates(4), TanhCell(4)],
    "wide output on top": lambda: [TanhCell(4), WideCell(4)],
}


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("name", CUSTOM_STACKS)
def test_b2_stack_of_custom_cells_with_a_mask(name, unroll):
    """JAX: holds the first cell's state, or a row of the batch, as if it were the output."""
    layer = built(
        RNN(CUSTOM_STACKS[name](), return_sequences=True, return_state=True, unroll=unroll),
        3,
        5,
        3,
    )
    x = data(3, 5, 3)
    lower, upper = layer.cell.cells
    below = tanh_step(lower)

    def two_states(inputs, states):
        h, new = below(inputs, states[:1])
        return h, [h, states[1] * 0.5 + h]

    if name == "two states below":
        below_step, initial = two_states, [ZERO, ZERO]
    else:
        below_step, initial = below, [ZERO]
    above = wide_step(upper) if name == "wide output on top" else tanh_step(upper)

    def step(inputs, states):
        h, low = below_step(inputs, states[0])
        out, high = above(h, states[1])
        return out, [low, high]

    top = [np.zeros((3, upper.units))]
    sequence, _, states = loop(step, x, [initial, top], mask=MASK)
    close(layer(x, mask=MASK), [sequence, *keras.tree.flatten(states)])


@pytest.mark.parametrize("name", ["gru gru", "gru gru wider", "lstm gru"])
def test_b2_stack_of_stock_cells_with_a_mask(name):
    """Keras is right here since 3.10: the last output is the last valid one."""
    cells = {
        "gru gru": lambda: [gru_cell(4), gru_cell(4)],
        "gru gru wider": lambda: [gru_cell(4), gru_cell(5)],
        "lstm gru": lambda: [lstm_cell(4), gru_cell(4)],
    }[name]()
    layer = built(RNN(cells), 2, 5, 3)
    x = data(2, 5, 3)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
    y = npy(layer(x, mask=mask))
    close(y[1], npy(layer(x[:, :3]))[1])
    close(y[0], npy(layer(x))[0])


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
def test_b3_conv_lstm_with_a_mask(unroll, sequences):
    """JAX: crash with any mask."""
    layer = conv_lstm(2, 2, return_sequences=sequences, return_state=True, unroll=unroll)
    built(layer, 3, 5, 6, 3)
    x = data(3, 5, 6, 3)
    initial = [np.zeros((3, 5, 2), "float32")] * 2
    sequence, last, states = loop(cell_step(layer.cell), x, initial, mask=MASK)
    close(layer(x, mask=MASK), [sequence if sequences else last, *states])


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("lstm", np.nan),
        ("custom", np.nan),
        ("custom", np.inf),
        ("unroll", np.nan),
        ("bidirectional", np.nan),
        ("stack", np.inf),
    ],
)
def test_b4_nan_in_masked_steps_reaches_nothing(name, bad):
    """All backends: the loss is finite, the gradients are NaN."""
    layer = {
        "lstm": lambda: lstm(4),
        "custom": lambda: RNN(WideCell(4)),
        "unroll": lambda: RNN(TanhCell(4), unroll=True),
        "bidirectional": lambda: Bidirectional(lstm(4)),
        "stack": lambda: RNN([lstm_cell(4), TanhCell(4)]),
    }[name]()
    built(layer, 3, 5, 3)
    clean = data(3, 5, 3)
    dirty = np.where(MASK[..., None], clean, np.float32(bad))
    results = []
    for x in (clean, dirty):
        x, mask = ops.convert_to_tensor(x), ops.convert_to_tensor(MASK)

        def loss(x=x, mask=mask):
            return ops.sum(ops.square(layer(x, mask=mask)))

        value, grads = loss_and_gradients(loss, layer.trainable_variables)
        results.append([value, *grads])
    assert all(np.isfinite(g).all() for g in results[1])
    assert all(g.any() for g in results[1])
    close(results[1], results[0])


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("unroll", [False, True])
def test_b5_zero_output_for_mask_concerns_sequences_only(unroll, go_backwards):
    """TF, Torch, JAX (not unrolled): the last output is zeroed although no sequence is returned."""
    x = data(3, 5, 3)
    options = {"zero_output_for_mask": True, "unroll": unroll, "go_backwards": go_backwards}
    layer = built(RNN(WideCell(4), return_state=True, **options), 3, 5, 3)
    sequence, last, states = loop(wide_step(layer.cell), x, [ZERO], MASK, go_backwards, True)
    close(layer(x, mask=MASK), [last, *states])
    # One row ends, in the order processed, with a masked step.
    assert last[0 if go_backwards else 1].any() and not sequence[2 if go_backwards else 1, 4].any()

    layer = built(RNN(WideCell(4), return_sequences=True, **options), 3, 5, 3)
    close(layer(x, mask=MASK), sequence)


MASK_FORMS = {
    "bool": lambda m: m,
    "int32": lambda m: m.astype("int32"),
    "uint8": lambda m: m.astype("uint8"),
    "float32": lambda m: m.astype("float32"),
    "tensor": ops.convert_to_tensor,
    "(B, T, 1)": lambda m: m[..., None],
    "(B, T, 1) int tensor": lambda m: ops.convert_to_tensor(m[..., None].astype("int32")),
    "list": lambda m: m.tolist(),
}


@pytest.fixture(scope="module", params=[False, True], ids=["loop", "unroll"])
def masked(request):
    """One layer for all forms of masks."""
    return built(RNN(WideCell(4), unroll=request.param), 3, 5, 3)


@pytest.mark.parametrize("form", MASK_FORMS)
def test_b6_mask_forms(masked, form):
    """All backends: a list crashes."""
    layer, x = masked, data(3, 5, 3)
    _, last, _ = loop(wide_step(layer.cell), x, [ZERO], MASK)
    close(layer(x, mask=MASK_FORMS[form](MASK)), last)


@pytest.mark.parametrize("unroll", [False, True])
def test_b6_lengths_instead_of_a_mask(unroll):
    """Keras has no such argument; with a mask, both must hold."""
    layer = built(RNN(WideCell(4), unroll=unroll, return_sequences=True), 3, 5, 3)
    x, lengths = data(3, 5, 3), np.array([5, 2, 0])
    mask = np.arange(5) < lengths[:, None]
    sequence, _, _ = loop(wide_step(layer.cell), x, [ZERO], mask)
    close(layer(x, lengths=lengths), sequence)
    close(layer(x, lengths=ops.convert_to_tensor(lengths)), sequence)
    sequence, _, _ = loop(wide_step(layer.cell), x, [ZERO], mask & MASK)
    close(layer(x, lengths=lengths, mask=MASK), sequence)


def test_b6_mask_per_feature_is_refused(masked):
    """TF, Torch: crash; JAX: takes it for a mask of the step if any feature holds."""
    layer, x = masked, data(3, 5, 3)
    with pytest.raises(ValueError, match=PARTS):
        layer(x, mask=np.repeat(MASK[..., None], 3, -1))
    _, last, _ = loop(wide_step(layer.cell), x, [ZERO], MASK)
    close(layer(x, mask=MASK), last)


@pytest.mark.parametrize("shape", [(3, 7), (3, 4), (1, 5), (2, 5), (5,)])
def test_b6_masks_of_another_length_or_batch_are_refused(masked, shape):
    """Torch: a longer mask is accepted; Torch, JAX: a mask of one row is accepted."""
    layer, x = masked, data(3, 5, 3)
    with pytest.raises(ValueError, match=PARTS):
        layer(x, mask=np.ones(shape, bool))
    _, last, _ = loop(wide_step(layer.cell), x, [ZERO], MASK)
    close(layer(x, mask=MASK), last)


@pytest.mark.parametrize("zero_output", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
def test_b7_mask_unroll_go_backwards(sequences, zero_output):
    """Torch: crash; JAX: zero_output_for_mask is ignored."""
    layer = RNN(
        WideCell(4),
        return_sequences=sequences,
        return_state=True,
        go_backwards=True,
        unroll=True,
        zero_output_for_mask=zero_output,
    )
    built(layer, 3, 5, 3)
    x = data(3, 5, 3)
    sequence, last, states = loop(wide_step(layer.cell), x, [ZERO], MASK, True, zero_output)
    close(layer(x, mask=MASK), [sequence if sequences else last, *states])


@pytest.mark.parametrize("sequences", [False, True])
def test_b7_unrolled_bidirectional_with_a_mask(sequences):
    """Torch: crash."""
    layer = Bidirectional(lstm(4, return_sequences=sequences, unroll=True))
    built(layer, 3, 5, 3)
    close(layer(data(3, 5, 3), mask=MASK), both_directions(layer, sequences)[0])


def both_directions(layer, sequences, merge="concat"):
    """What a Bidirectional of LSTM cells gives for the masked data, and its four states.

    Bidirectional layers set `zero_output_for_mask` when they return sequences, in Keras too.
    """
    x, zeros = data(3, 5, 3), [ZERO, ZERO]
    forward, last, states = loop(
        lstm_step(layer.forward_layer.cell), x, zeros, MASK, zero_output=sequences
    )
    backward, first, more = loop(
        lstm_step(layer.backward_layer.cell), x, zeros, MASK, True, zero_output=sequences
    )
    outputs = [forward, backward[:, ::-1]] if sequences else [last, first]
    return [np.concatenate(outputs, -1)] if merge == "concat" else outputs, [*states, *more]


@pytest.mark.parametrize(
    ("stateful", "state", "sequences", "merge"),
    list(itertools.product([False, True], [False, True], [False, True], ["concat", None])),
)
def test_b8_bidirectional_stateful_with_a_mask(stateful, state, sequences, merge):
    """All backends: 4 of the 16 crash in compute_mask."""
    layer = Bidirectional(
        lstm(4, stateful=stateful, return_state=state, return_sequences=sequences),
        merge_mode=merge,
    )
    inputs = keras.Input((5, 3), batch_size=3)
    masked = layers.Masking(0.0)(inputs)
    model = keras.Model(inputs, layer(masked))
    randomise(model)
    x = np.where(MASK[..., None], data(3, 5, 3), 0)
    outputs, states = both_directions(layer, sequences, merge)
    close(model(x), [*outputs, *states] if state else outputs)


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("name", ["tanh", "gru", "wide"])
def test_b9_first_steps_masked_with_an_initial_state(name, unroll):
    """JAX: the output at the masked steps is the initial state; elsewhere it is zero."""
    cell = {"tanh": TanhCell, "gru": gru_cell, "wide": WideCell}[name](4)
    layer = built(RNN(cell, return_sequences=True, unroll=unroll), 3, 5, 3)
    x, h0 = data(3, 5, 3), data(3, 4, seed=3)
    step = {"tanh": tanh_step, "gru": cell_step, "wide": wide_step}[name](cell)
    sequence, _, _ = loop(step, x, [h0], MASK)
    close(layer(x, mask=MASK, initial_state=[h0]), sequence)
    assert not sequence[2, :2].any()
