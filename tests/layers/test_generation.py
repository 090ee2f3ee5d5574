"""A decoder runs on: greedy and beam search against NumPy, draws, stops, constants, errors."""

import keras
import numpy as np
import pytest
from three_parts import raised

import cellkit

V, B, STEPS = 6, 4, 9
START = np.array([0, 1, 2, 5])
STOPS = np.full(B, -7)  # set to what the rows say: see `decoder`


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Oracle:
    """The decoder in float64: a standard GRU, Keras' weights, and a dense head."""

    def __init__(self, layer, head):
        self.kernel, self.recurrent, bias = (np.float64(w) for w in layer.get_weights())
        self.bias, self.recurrent_bias = bias
        self.head, self.head_bias = (np.float64(w) for w in head.get_weights())

    def step(self, token, h):
        x = np.eye(V)[token]
        z, r, n = np.split(x @ self.kernel + self.bias, 3)
        uz, ur, un = np.split(h @ self.recurrent + self.recurrent_bias, 3)
        z, n = sigmoid(z + uz), np.tanh(n + sigmoid(r + ur) * un)
        h = z * h + (1 - z) * n
        logits = h @ self.head + self.head_bias
        return logits - np.log(np.exp(logits).sum()), h

    def greedy(self, token, stop, h):
        said, score = [], 0.0
        while len(said) < STEPS and (not said or said[-1] != stop):
            logp, h = self.step(token, h)
            token = int(logp.argmax())
            said.append(token)
            score += logp[token]
        return said, score, h

    def beam(self, token, stop, h, width, alpha):
        def value(score, said):
            return score / ((5 + len(said)) / 6) ** alpha

        beams = [(0.0, [], h)]
        for _ in range(STEPS):
            grown = []
            for score, said, h in beams:
                if said and said[-1] == stop:
                    grown.append((score, said, h))
                    continue
                logp, new = self.step(said[-1] if said else token, h)
                grown += [(score + logp[k], [*said, k], new) for k in range(V)]
            beams = sorted(grown, key=lambda b: -value(b[0], b[1]))[:width]
        return [(value(score, said), said, h) for score, said, h in beams]


def numpy(x):
    return np.asarray(keras.ops.convert_to_numpy(x))


@pytest.fixture(scope="module")
def decoder():
    layer = cellkit.RNN(keras.layers.GRUCell(5))
    head = keras.layers.Dense(V)
    layer.build((None, None, V))
    head.build((None, 5))
    rng = np.random.default_rng(4)
    for part in (layer, head):
        part.set_weights([1.5 * rng.normal(size=w.shape) for w in part.get_weights()])
    oracle, states = Oracle(layer, head), rng.normal(size=(B, 5)).astype("float32")
    for b, place in enumerate((2, 4, 0)):  # the last row never ends
        STOPS[b] = oracle.greedy(START[b], -7, states[b].astype("float64"))[0][place]
    return layer, head, oracle, states


def padded(said):
    return said + [V + 1] * (STEPS - len(said))


def test_greedy_agrees_with_numpy(decoder):
    layer, head, oracle, states = decoder
    found = cellkit.generate(
        layer, head, START, STEPS, initial_state=[states], stop=STOPS, pad=V + 1
    )
    for b in range(B):
        said, score, h = oracle.greedy(START[b], STOPS[b], states[b].astype("float64"))
        assert numpy(found.tokens)[b].tolist() == padded(said)
        assert int(numpy(found.lengths)[b]) == len(said)
        np.testing.assert_allclose(numpy(found.scores)[b], score, rtol=1e-4)
        np.testing.assert_allclose(numpy(found.states[0])[b], h, atol=1e-4)
    lengths = numpy(found.lengths)
    assert lengths.min() < STEPS and lengths[3] == STEPS  # rows that end, and one that does not
    assert found.beams is None


@pytest.mark.parametrize(("width", "alpha"), [(1, 0.0), (3, 0.0), (4, 1.0), (6, 2.5)])
def test_beam_search_agrees_with_numpy(decoder, width, alpha):
    layer, head, oracle, states = decoder
    found = cellkit.generate(
        layer,
        head,
        START,
        STEPS,
        initial_state=[states],
        method="beam",
        beams=width,
        length_penalty=alpha,
        stop=STOPS,
        pad=V + 1,
    )
    for b in range(B):
        want = oracle.beam(START[b], STOPS[b], states[b].astype("float64"), width, alpha)
        got = numpy(found.beams)[b].tolist()
        assert got == [padded(said) for _, said, _ in want]
        scores = [score for score, _, _ in want]
        np.testing.assert_allclose(numpy(found.beam_scores)[b], scores, rtol=1e-4)
        np.testing.assert_allclose(numpy(found.scores)[b], scores[0], rtol=1e-4)
        np.testing.assert_allclose(numpy(found.states[0])[b], want[0][2], atol=1e-4)
        assert int(numpy(found.lengths)[b]) == len(want[0][1])
    if width == 1:
        greedy = cellkit.generate(
            layer, head, START, STEPS, initial_state=[states], stop=STOPS, pad=V + 1
        )
        np.testing.assert_array_equal(numpy(greedy.tokens), numpy(found.tokens))


def test_draws_follow_the_probabilities(decoder):
    layer, head, oracle, states = decoder
    many, row = 4000, np.repeat(states[:1], 4000, axis=0)
    logp, _ = oracle.step(0, states[0].astype("float64"))

    def shares(**options):
        found = cellkit.generate(
            layer,
            head,
            np.zeros(many, int),
            1,
            initial_state=[row],
            method="sample",
            seed=3,
            **options,
        )
        return np.bincount(numpy(found.tokens)[:, 0], minlength=V) / many

    def softmax(logits):
        return np.exp(logits) / np.exp(logits).sum()

    np.testing.assert_allclose(shares(), np.exp(logp), atol=0.04)
    np.testing.assert_allclose(shares(temperature=3.0), softmax(logp / 3), atol=0.04)
    kept = np.argsort(-logp)[:2]
    want = np.zeros(V)
    want[kept] = softmax(logp[kept])
    np.testing.assert_allclose(shares(top_k=2), want, atol=0.04)
    flat = softmax(logp / 3)
    ranked = np.sort(flat)[::-1]
    nucleus = flat >= ranked[np.searchsorted(np.cumsum(ranked), 0.7)]
    want = np.where(nucleus, flat, 0) / flat[nucleus].sum()
    np.testing.assert_allclose(shares(temperature=3.0, top_p=0.7), want, atol=0.04)
    np.testing.assert_allclose(shares(top_p=1e-6), np.eye(V)[logp.argmax()])


def test_seeds_make_draws_repeatable(decoder):
    layer, head, _, _ = decoder

    def draw(seed):
        options = {"method": "sample", "temperature": 2.0, "seed": seed}
        return numpy(cellkit.generate(layer, head, START, STEPS, **options).tokens)

    np.testing.assert_array_equal(draw(1), draw(1))
    assert (draw(1) != draw(2)).any()


@pytest.mark.parametrize("method", ["greedy", "sample", "beam"])
def test_states_and_options_may_be_of_any_float_dtype(decoder, method):
    layer, head, _, states = decoder
    found = [
        cellkit.generate(
            layer,
            head,
            START,
            STEPS,
            initial_state=state,
            method=method,
            temperature=number(0.5),
            top_p=number(0.75),
            length_penalty=number(0.5),
            beams=2,
            seed=1,
        )
        for state, number in ((states, float), (states.astype("float64"), np.float32))
    ]
    for one, other in zip(*map(keras.tree.flatten, found), strict=True):
        np.testing.assert_array_equal(numpy(one), numpy(other))


def test_new_weights_are_used_in_a_loop_that_is_kept(decoder):
    layer, head, _, _ = decoder
    before = cellkit.generate(layer, head, START, STEPS)
    weights = head.get_weights()
    head.set_weights([w[..., ::-1] for w in weights])
    flipped = cellkit.generate(layer, head, START, 1)
    head.set_weights(weights)
    again = cellkit.generate(layer, head, START, STEPS)
    np.testing.assert_array_equal(numpy(again.tokens), numpy(before.tokens))
    want = V - 1 - numpy(before.tokens)[:, 0]
    np.testing.assert_array_equal(numpy(flipped.tokens)[:, 0], want)
    by_function = cellkit.generate(layer, lambda y: head(y), START, STEPS)
    np.testing.assert_array_equal(numpy(by_function.tokens), numpy(before.tokens))


def test_constants_and_an_embedding_are_handed_on():
    cell = cellkit.create("attention", inner="lstm", memory_units=3, units=5)
    layer, head, embed = cellkit.RNN(cell), keras.layers.Dense(V), keras.layers.Embedding(V, 4)
    rng = np.random.default_rng(0)
    memory = rng.normal(size=(B, 7, 3)).astype("float32")
    mask = np.arange(7)[None] < np.array([[7], [2], [5], [1]])
    layer(np.zeros((B, 2, 4), "float32"), constants=(memory, mask))
    head.build((None, 8))
    embed.build((None,))
    for part in (layer, head):
        part.set_weights([2 * rng.normal(size=w.shape) for w in part.get_weights()])
    for method in ("greedy", "beam"):
        options = {"embed": embed, "method": method, "beams": 3, "stop": 2}
        whole = cellkit.generate(layer, head, START, 6, constants=(memory, mask), **options)
        for b in range(B):
            constants = (memory[b : b + 1, : mask[b].sum()], mask[b : b + 1, : mask[b].sum()])
            alone = cellkit.generate(
                layer, head, START[b : b + 1], 6, constants=constants, **options
            )
            np.testing.assert_array_equal(numpy(alone.tokens)[0], numpy(whole.tokens)[b])


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ({"steps": 0}, {}, "steps=0"),
        ({"start": [[0]]}, {}, "integers (batch,)"),
        ({"start": [0.5]}, {}, "float64"),
        ({"start": [0, 1, 2, V]}, {}, "from 0 to 6"),
        ({"start": [0, 1, -2, 3]}, {}, "from -2 to 3"),
        ({}, {"method": "best"}, "'best'"),
        ({}, {"temperature": 0.0}, "temperature=0.0"),
        ({}, {"top_k": 0}, "top_k=0"),
        ({}, {"top_p": 1.5}, "top_p=1.5"),
        ({}, {"method": "beam", "beams": 7}, "beams=7"),
        ({}, {"method": "beam", "length_penalty": "0.6"}, "length_penalty='0.6'"),
        ({}, {"method": "beam", "constants": np.ones((3, 2))}, "(3, 2) for 4 rows"),
        ({}, {"initial_state": np.ones((3, 5))}, "(3, 5)"),
        ({}, {"pad": 1.5}, "pad=1.5"),
        ({}, {"stop": [1, 2]}, "(4,)"),
        ({"head": lambda y: y[:, None]}, {}, "(batch, vocabulary)"),
        ({"layer": keras.layers.GRU(3)}, {}, "cellkit.RNN"),
    ],
)
def test_what_does_not_fit_is_refused(decoder, arguments, options, said):
    layer, head, _, _ = decoder
    given = {"layer": layer, "head": head, "start": START, "steps": 3, **arguments}
    assert said in " ".join(raised(cellkit.generate, *given.values(), **options))


@pytest.mark.one_backend
def test_a_layer_that_is_not_built_is_refused():
    layer, head = cellkit.RNN("gru", units=3), keras.layers.Dense(V)
    assert f"'{layer.name}'" in raised(cellkit.generate, layer, head, START, 3)[1]
    layer.build((None, None, V))
    assert f"'{head.name}'" in raised(cellkit.generate, layer, head, START, 3)[1]
