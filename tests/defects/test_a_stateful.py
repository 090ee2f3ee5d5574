"""Table A of docs/keras-defects.md: statefulness."""

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
    simple_rnn,
)
from defect_tools import (
    BACKEND,
    LearnedCell,
    TanhCell,
    built,
    cell_step,
    close,
    data,
    differ,
    gradients,
    loop,
    lstm_step,
    model_of,
    npy,
    randomise,
    tanh_step,
)
from keras import layers, ops, tree

ZERO = np.zeros((2, 4))


def states_of(layer):
    return npy(tree.flatten(layer.states))


@pytest.fixture(scope="module")
def stateful_model():
    """A model that does not learn, so that the states after some batches are known."""
    layer = RNN(TanhCell(4), stateful=True)
    model = model_of(
        layer,
        layers.Dense(1),
        input_shape=(5, 3),
        batch_size=2,
        optimizer=keras.optimizers.SGD(0.0),
    )
    randomise(model)
    return model


@pytest.mark.parametrize(
    "way", ["call", "predict", "predict_on_batch", "evaluate", "fit", "train_on_batch"]
)
def test_a1_state_is_carried(stateful_model, way):
    """JAX: predict, evaluate, fit and train_on_batch leave the state at zero."""
    model, layer = stateful_model, stateful_model.layers[0]
    x, y = data(6, 5, 3), data(6, 1)
    batches = [x[i : i + 2] for i in (0, 2, 4)]
    layer.reset_state()
    if way == "predict":
        model.predict(x, batch_size=2, verbose=0)
    elif way == "evaluate":
        model.evaluate(x, y, batch_size=2, verbose=0)
    elif way == "fit":
        model.fit(x, y, batch_size=2, shuffle=False, verbose=0)
    else:
        for batch in batches:
            if way == "call":
                model(batch)
            elif way == "predict_on_batch":
                model.predict_on_batch(batch)
            else:
                model.train_on_batch(batch, y[:2])
    _, _, expected = loop(tanh_step(layer.cell), np.concatenate(batches, 1), [ZERO])
    close(states_of(layer), expected)


def test_a1_outputs_continue():
    """JAX: predict starts each batch from zeros, so its outputs are those of unrelated chunks."""
    layer = RNN(TanhCell(4), stateful=True, return_sequences=True)
    model = randomise(model_of(layer, input_shape=(5, 3), batch_size=2))
    x = data(4, 5, 3)
    outputs = model.predict(x, batch_size=2, verbose=0)
    expected, _, _ = loop(tanh_step(layer.cell), np.concatenate([x[:2], x[2:]], 1), [ZERO])
    close(np.concatenate([outputs[:2], outputs[2:]], 1), expected)


def test_a1_nested_states_are_carried_by_predict():
    """JAX: the states of a stack are dropped by predict as well."""
    layer = RNN([lstm_cell(4), gru_cell(3)], stateful=True)
    model = randomise(model_of(layer, input_shape=(5, 3), batch_size=2))
    x = data(4, 5, 3)
    model.predict(x, batch_size=2, verbose=0)
    lower, upper = layer.cell.cells
    mid, _, (h, c) = loop(lstm_step(lower), np.concatenate([x[:2], x[2:]], 1), [ZERO, ZERO])
    _, _, top = loop(cell_step(upper), mid.astype("float32"), [np.zeros((2, 3), "float32")])
    close(states_of(layer), [h, c, *top])


def test_a1_state_is_tracked(stateful_model):
    """All backends: the stored states are in no list of variables."""
    layer = stateful_model.layers[0]
    (state,) = tree.flatten(layer.states)
    assert any(v is state for v in layer.variables)
    assert any(v is state for v in layer.non_trainable_variables)
    assert any(v is state for v in stateful_model.non_trainable_variables)
    assert not any(v is state for v in layer.trainable_variables)


def test_a1_state_is_no_weight(stateful_model):
    """Keras is right here: a stored state belongs to no weights, and set_weights needs none."""
    layer = stateful_model.layers[0]
    assert len(layer.weights) == 3
    assert len(layer.get_weights()) == 3
    layer.set_weights(layer.get_weights())


STATEFUL = {
    "lstm": (lambda: [lstm(4, stateful=True)], (5, 3)),
    "gru": (lambda: [gru(4, stateful=True)], (5, 3)),
    "simple_rnn": (lambda: [simple_rnn(4, stateful=True)], (5, 3)),
    "masked lstm": (lambda: [layers.Masking(9.0), lstm(4, stateful=True)], (5, 3)),
    "bidirectional lstm": (lambda: [Bidirectional(lstm(4, stateful=True))], (5, 3)),
    "conv lstm": (
        lambda: [conv_lstm(2, 2, stateful=True), layers.Flatten()],
        (5, 6, 3),
    ),
    "stack": (lambda: [RNN([lstm_cell(4), lstm_cell(4)], stateful=True)], (5, 3)),
    "two layers": (
        lambda: [lstm(4, stateful=True, return_sequences=True), lstm(4, stateful=True)],
        (5, 3),
    ),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_a2_fit_trains(name):
    """Torch: training a stateful LSTM, GRU or Bidirectional crashes on an in-place operation."""
    make, shape = STATEFUL[name]
    model = model_of(*make(), layers.Dense(1), input_shape=shape, batch_size=2)
    randomise(model)
    before = [npy(v.value) for v in model.trainable_variables]
    history = model.fit(
        data(6, *shape), data(6, 1, seed=1), batch_size=2, epochs=2, shuffle=False, verbose=0
    )
    assert np.isfinite(history.history["loss"]).all()
    for old, v in zip(before, model.trainable_variables, strict=True):
        assert differ(old, npy(v.value), 1e-6), v.path


def test_a2_fit_trains_by_the_right_gradient():
    """Torch: crashes; the right step is that of a state handed from batch to batch as a number."""
    layer = lstm(4, stateful=True)
    model = randomise(model_of(layer, input_shape=(5, 3), batch_size=2))
    other = built(lstm(4, return_state=True), 2, 5, 3)
    x, y = data(4, 5, 3), data(4, 4, seed=1)
    model.fit(x, y, batch_size=2, shuffle=False, verbose=0)

    states = [ops.convert_to_tensor(ZERO.astype("float32"))] * 2
    for i in (0, 2):
        xb, yb = ops.convert_to_tensor(x[i : i + 2]), ops.convert_to_tensor(y[i : i + 2])

        def loss(xb=xb, yb=yb, states=states):
            return ops.mean(ops.square(other(xb, initial_state=states)[0] - yb))

        new = [ops.convert_to_tensor(s) for s in npy(other(xb, initial_state=states))[1:]]
        for v, g in zip(
            other.trainable_variables, gradients(loss, other.trainable_variables), strict=True
        ):
            v.assign(npy(v.value) - 0.1 * g)
        states = new
    close([v.value for v in layer.trainable_variables], npy(other.trainable_variables))
    close(states_of(layer), npy(states))


@pytest.mark.parametrize("jit", [False, True])
def test_a3_stateless_call_returns_the_new_state(jit):
    """All backends: the state is lost, a second stateless call repeats the first."""
    layer = built(RNN(TanhCell(4), stateful=True), 2, 5, 3)
    x = data(2, 10, 3)

    def call(ntv, inputs):
        return layer.stateless_call([v.value for v in layer.trainable_variables], ntv, inputs)

    if jit and BACKEND == "jax":
        import jax

        call = jax.jit(call)
    elif jit and BACKEND == "tensorflow":
        import tensorflow as tf

        call = tf.function(call)
    ntv = [ops.convert_to_tensor(v.value) for v in layer.non_trainable_variables]
    first, ntv = call(ntv, ops.convert_to_tensor(x[:, :5]))
    second, ntv = call(ntv, ops.convert_to_tensor(x[:, 5:]))
    sequence, last, _ = loop(tanh_step(layer.cell), x, [ZERO])
    close(first, sequence[:, 4])
    close(second, last)
    close(states_of(layer), [ZERO])


def test_a4_reset_state_with_nested_states():
    """All backends: 'list' object has no attribute 'assign'."""
    layer = built(RNN([lstm_cell(4), lstm_cell(3), TanhCell(2)], stateful=True), 2, 5, 3)
    x = data(2, 5, 3)
    first, second = npy(layer(x)), npy(layer(x))
    assert differ(first, second)
    assert all(s.any() for s in states_of(layer))
    layer.reset_state()
    close(states_of(layer), [np.zeros((2, n)) for n in (4, 4, 3, 3, 2)])
    close(layer(x), first)


def test_a5_reset_state_takes_states():
    """All backends: TypeError, although the docstring says `reset_state(states=...)`."""
    layer = built(lstm(4, stateful=True), 2, 5, 3)
    x, states = data(2, 5, 3), [data(2, 4, seed=5), data(2, 4, seed=6)]
    layer.reset_state(states=states)
    close(states_of(layer), states)
    _, last, new = loop(lstm_step(layer.cell), x, states)
    close(layer(x), last)
    close(states_of(layer), new)


def test_a5_reset_state_takes_nested_states():
    """All backends: TypeError; a stack takes the states cell by cell."""
    layer = built(RNN([lstm_cell(4), TanhCell(3)], stateful=True), 2, 5, 3)
    h, c, top = data(2, 4, seed=5), data(2, 4, seed=6), data(2, 3, seed=7)
    layer.reset_state(states=[[h, c], top])
    close(states_of(layer), [h, c, top])


def test_a5_wrong_states_are_refused_and_change_nothing():
    """All backends: TypeError for right and wrong states alike."""
    layer = built(lstm(4, stateful=True), 2, 5, 3)
    layer(data(2, 5, 3))
    before = states_of(layer)
    for states in ([ZERO], [ZERO, np.zeros((2, 5))], [ZERO, np.zeros((1, 4))], {"h": ZERO}):
        with pytest.raises(ValueError, match="(?s)Received.*Expected.*How to fix"):
            layer.reset_state(states=states)
        close(states_of(layer), before)


def test_a6_learned_initial_state_trains_in_a_stateful_layer():
    """TF, JAX: h0 is never trained; Torch: crash, the stored state shares memory with h0."""
    layer = RNN(LearnedCell(4), stateful=True)
    model = randomise(model_of(layer, input_shape=(5, 3), batch_size=2))
    twin = built(RNN(LearnedCell(4)), 2, 5, 3)
    x, y = data(2, 5, 3), data(2, 4, seed=1)
    layer.reset_state()

    def loss():
        return ops.mean(ops.square(twin(ops.convert_to_tensor(x)) - ops.convert_to_tensor(y)))

    expected = [
        npy(v.value) - 0.1 * g
        for v, g in zip(
            twin.trainable_variables, gradients(loss, twin.trainable_variables), strict=True
        )
    ]
    model.train_on_batch(x, y)
    close([v.value for v in layer.trainable_variables], expected)
    trained = npy(layer.cell.h0.value)
    assert differ(trained, npy(twin.cell.h0.value), 1e-4)

    # The second batch goes on from the first one's states: h0 has no part in it.
    model.train_on_batch(x, y)
    close(layer.cell.h0.value, trained)

    # After a reset it has again.
    layer.reset_state()
    close(states_of(layer), [np.stack([trained, trained])])
    model.train_on_batch(x, y)
    assert differ(npy(layer.cell.h0.value), trained, 1e-4)


def test_a6_stored_state_is_no_alias_of_the_learned_one():
    """Torch: writing the state writes into the learned variable."""
    layer = built(RNN(LearnedCell(4), stateful=True), 2, 5, 3)
    h0 = npy(layer.cell.h0.value)
    layer.reset_state()
    x = data(2, 10, 3)
    layer(x[:, :5])
    close(layer.cell.h0.value, h0)
    _, last, _ = loop(tanh_step(layer.cell), x, [np.stack([h0, h0])])
    close(layer(x[:, 5:]), last)


@pytest.mark.parametrize("cells", ["tanh", "stack"])
def test_a7_state_is_saved_with_the_model(tmp_path, cells):
    """All backends: a loaded model starts from zeros."""
    cell = TanhCell(4) if cells == "tanh" else [lstm_cell(4), TanhCell(3)]
    model = keras.Sequential([keras.Input((5, 3), batch_size=2), RNN(cell, stateful=True)])
    randomise(model)
    x = data(2, 5, 3)
    first = npy(model(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    close(states_of(loaded.layers[0]), states_of(model.layers[0]))
    close(loaded(x), npy(model(x)))
    loaded.layers[0].reset_state()
    close(loaded(x), first)


def test_a7_state_is_in_a_weights_file(tmp_path):
    """All backends: save_weights drops the state."""

    def make():
        return keras.Sequential([keras.Input((5, 3), batch_size=2), gru(4, stateful=True)])

    model, other = randomise(make()), make()
    model(data(2, 5, 3))
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    assert all(s.any() for s in states_of(other.layers[0]))
    close(states_of(other.layers[0]), states_of(model.layers[0]))


@pytest.mark.skipif(BACKEND == "torch", reason="Keras exports no SavedModel from Torch")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a8_exported_model_carries_its_state(tmp_path):
    """JAX: ValueError, the export traces an unknown batch although the batch is fixed."""
    import tensorflow as tf

    layer = RNN(TanhCell(4), stateful=True)
    model = randomise(
        keras.Sequential([keras.Input((5, 3), batch_size=2), layer]),
    )
    x = data(2, 10, 3)
    # Keras replaces the fixed batch by an unknown one unless the signature is given.
    signature = [keras.layers.InputSpec(shape=(2, 5, 3), dtype="float32")]
    options = {"is_static": False} if BACKEND == "jax" else {}
    model.export(
        str(tmp_path / "saved"),
        format="tf_saved_model",
        verbose=False,
        input_signature=signature,
        **options,
    )
    served = tf.saved_model.load(str(tmp_path / "saved"))
    sequence, last, _ = loop(tanh_step(layer.cell), x, [ZERO])
    np.testing.assert_allclose(served.serve(x[:, :5]).numpy(), sequence[:, 4], atol=1e-5)
    np.testing.assert_allclose(served.serve(x[:, 5:]).numpy(), last, atol=1e-5)
