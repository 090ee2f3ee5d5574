"""First steps with recurrent layers: the shapes, parameters and states that the tutorials show.

Keras' guide "Working with RNNs" (https://keras.io/guides/working_with_rnns), step by step, with the
layers of Keras and with `cellkit.RNN` around the cells of the same names. It shows

- layers on top of each other, `return_sequences` and `return_state`, bidirectional layers, cells
  stacked in one layer: the shapes and parameter counts of both, and those that the guide prints;
- a sequence in three pieces, with `stateful=True` and without, and the state handed to another
  layer;
- an encoder whose state is the `initial_state` of a decoder: together they learn to say five digits
  backwards, which a decoder that starts from zeros can only guess.

It ends with exit code 1 if a number differs from the guide's, if the pieces differ from the whole,
or if the decoder doesn't make use of the encoder's state.

    python examples/first_steps.py --backend torch
"""

from __future__ import annotations

import sys

import _options
import numpy as np

options = _options.parse(__doc__, plot="first_steps.png")

import _show  # noqa: E402
import keras  # noqa: E402

import cellkit  # noqa: E402

DIGITS, LENGTH = 10, 5
EPOCHS = 6 if options.quick else 16
ROWS = 1500 if options.quick else 3000
LAYERS = {
    "simple_rnn": keras.layers.SimpleRNN,
    "lstm": keras.layers.LSTM,
    "gru": keras.layers.GRU,
}


def pair(name: str, units: int, **arguments) -> tuple[keras.layers.Layer, cellkit.RNN]:
    """Return Keras' layer and cellkit's."""
    cell = cellkit.create(name, units=units)
    return LAYERS[name](units, **arguments), cellkit.RNN(cell, **arguments)


def shapes(output) -> str:
    """Write the shapes of an output, with its states if there are any."""
    return " ".join(str(tuple(x.shape)) for x in keras.tree.flatten(output))


# --- shapes and parameters -----------------------------------------------------------------------


def compare(what: str, layers, inputs, guide: int, **call) -> dict:
    """Call both layers on symbolic inputs and return their shapes and parameters."""
    found = [shapes(layer(inputs, **call)) for layer in layers]
    counts = [layer.count_params() for layer in layers]
    row = {"what": what, "shape": found[0], "keras": counts[0], "cellkit": counts[1]}
    return {**row, "guide": guide, "same": found[0] == found[1] and {*counts} == {guide}}


def first_layers() -> list[dict]:
    """Return the guide's layers, with the parameter counts that it prints."""
    words = keras.Input((None, 64))  # what Embedding(1000, 64) makes of texts of any length
    vectors = keras.Input((None, 256))
    steps = keras.Input((5, 10))
    wide = keras.Input((5, 128))
    both = keras.layers.Bidirectional, cellkit.Bidirectional
    rows = [
        compare("LSTM(128)", pair("lstm", 128), words, 98_816),
        compare("GRU(256), sequences", pair("gru", 256, return_sequences=True), words, 247_296),
        compare("SimpleRNN(128) on it", pair("simple_rnn", 128), vectors, 49_280),
        compare("encoder, LSTM(64), state", pair("lstm", 64, return_state=True), words, 33_024),
        compare(
            "decoder, LSTM(64)",
            pair("lstm", 64),
            words,
            33_024,
            initial_state=[keras.Input((64,)), keras.Input((64,))],
        ),
        compare(
            "Bidirectional, sequences",
            [w(x) for w, x in zip(both, pair("lstm", 64, return_sequences=True), strict=True)],
            steps,
            38_400,
        ),
        compare(
            "Bidirectional on it",
            [w(x) for w, x in zip(both, pair("lstm", 32), strict=True)],
            wide,
            41_216,
        ),
    ]
    cells = [keras.layers.LSTMCell(n) for n in (32, 16)]
    ours = [cellkit.create("lstm", units=n) for n in (32, 16)]
    stacks = keras.layers.RNN(cells), cellkit.RNN(ours)
    # No number of the guide: 4 (x + units + 1) units for each cell.
    counted = 4 * (10 + 32 + 1) * 32 + 4 * (32 + 16 + 1) * 16
    return [*rows, compare("two cells in one layer", stacks, steps, counted)]


# --- a sequence in pieces ------------------------------------------------------------------------


def in_pieces() -> tuple[list[dict], dict[str, np.ndarray]]:
    """Run three paragraphs as one sequence, carried on, and each afresh; hand the state on."""
    random = np.random.default_rng(1)
    paragraphs = [random.normal(size=(20, n, 50)).astype("float32") for n in (10, 12, 14)]
    rows, curves = [], {}
    for whose, layer in zip(("keras", "cellkit"), pair("lstm", 64), strict=True):
        cell = layer.cell
        make = keras.layers.RNN if whose == "keras" else cellkit.RNN
        whole = make(cell, return_sequences=True)
        carried = make(cell, return_sequences=True, stateful=True)
        one = _show.array(whole(np.concatenate(paragraphs, axis=1)))
        found = np.concatenate([_show.array(carried(p)) for p in paragraphs], axis=1)
        afresh = np.concatenate([_show.array(whole(p)) for p in paragraphs], axis=1)
        # The state after the second paragraph is the first of another layer.
        carried.reset_state()
        for p in paragraphs[:2]:
            carried(p)
        states = [_show.array(s) for s in keras.tree.flatten(carried.states)]
        handed = _show.array(make(cell)(paragraphs[2], initial_state=states))
        off = {
            "carried on": found - one,
            "state handed on": handed - one[:, -1],
            "afresh": afresh - one,
        }
        rows.append({"layer": whose, **{k: float(np.abs(v).max()) for k, v in off.items()}})
        curves[whose] = np.abs(afresh - one).max(axis=(0, 2))
        curves[f"{whose}, carried on"] = np.abs(found - one).max(axis=(0, 2))
    return rows, curves


# --- encoder and decoder -------------------------------------------------------------------------


def digits(seed: int, rows: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return digits, what the decoder has said so far (10 at first), and what it must say."""
    read = np.random.default_rng(seed).integers(DIGITS, size=(rows, LENGTH))
    said = read[:, ::-1]
    so_far = np.pad(said[:, :-1], ((0, 0), (1, 0)), constant_values=DIGITS)
    return {"read": read, "so_far": so_far}, said


def decoder(encode, decode, handed_on: bool) -> keras.Model:
    """Return a compiled encoder and decoder; without `handed_on` the decoder starts from zeros."""
    inputs = {key: keras.Input((LENGTH,), dtype="int32", name=key) for key in ("read", "so_far")}
    _, *states = encode(keras.layers.Embedding(DIGITS, 16)(inputs["read"]))
    vectors = keras.layers.Embedding(DIGITS + 1, 16)(inputs["so_far"])
    h = decode(vectors, initial_state=states) if handed_on else decode(vectors)
    model = keras.Model(inputs, keras.layers.Dense(DIGITS, activation="softmax")(h))
    model.compile(
        keras.optimizers.Adam(0.01),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=_show.COMPILED,
    )
    return model


def backwards() -> list[dict]:
    """Train three encoders with decoders, one of which hands nothing on."""

    def ours(name):
        kinds = ({"return_state": True}, {"return_sequences": True})
        return [cellkit.RNN(cellkit.create(name, units=48), **kind) for kind in kinds]

    stock = keras.layers.GRU(48, return_state=True), keras.layers.GRU(48, return_sequences=True)
    rows = []
    with _show.progress() as bars:
        for name, layers, handed_on in (
            ("nothing handed on", ours("mgu"), False),
            ("GRU of Keras", stock, True),
            ("mgu", ours("mgu"), True),
        ):
            keras.utils.set_random_seed(7)
            model = decoder(*layers, handed_on)
            test = digits(2, 500)
            curves = _show.fit(
                bars,
                name,
                model,
                *digits(1, ROWS),
                validation_data=test,
                epochs=EPOCHS,
                batch_size=50,
            )
            rows.append({"model": name, "curve": curves["val_accuracy"], **curves})
            rows[-1]["accuracy"] = curves["val_accuracy"][-1]
    return rows


def main() -> int:
    """Show everything, compare, draw; return the exit code."""
    layers = first_layers()
    _show.table(
        "Shapes and parameters",
        {
            "layer": "{what}",
            "output, states": "{shape}",
            "Keras": "{keras:,}",
            "cellkit": "{cellkit:,}",
            "the guide": "{guide:,}",
        },
        layers,
    )
    pieces, curves = in_pieces()
    _show.table(
        "Three paragraphs: largest difference from one long sequence",
        {
            "layer": "{layer}",
            "carried on": "{carried on:.0e}",
            "state handed on": "{state handed on:.0e}",
            "afresh": "{afresh:.2f}",
        },
        pieces,
    )
    learnt = backwards()
    _show.table(
        "Five digits backwards",
        {"decoder": "{model}", "test accuracy": "{accuracy:.3f}", "seconds": "{seconds:.1f}"},
        learnt,
    )
    with _show.figure(options.plot, "What states are for", 2) as (left, right):
        steps = np.arange(36)
        left.semilogy(steps, curves["cellkit"] + 1e-9, color=_show.KERAS, label="afresh")
        left.semilogy(
            steps, curves["cellkit, carried on"] + 1e-9, color=_show.CELLKIT, label="carried on"
        )
        for border in (10, 22):
            left.axvline(border, color=_show.GREY, ls=":", lw=1)
        left.set(title="Three paragraphs in pieces, against one sequence", xlabel="step")
        left.set(ylabel="largest difference, 1e-9 for none", ylim=(3e-10, 5))
        left.legend(frameon=False, loc="center right")
        for row, color in zip(learnt, (_show.GREY, _show.KERAS, _show.CELLKIT), strict=True):
            right.plot(range(1, EPOCHS + 1), row["curve"], color=color, label=row["model"])
        right.axhline(1 / DIGITS, color=_show.GREY, ls=":", lw=1)
        right.set(title="Five digits backwards: test accuracy", xlabel="epoch", ylim=(0, 1.02))
        right.text(1, 1 / DIGITS + 0.02, "guessing", color=_show.GREY, fontsize=9)
        right.legend(frameon=False)
    guess, *others = (row["accuracy"] for row in learnt)
    claims = {
        "shapes and parameters are those of Keras and of the guide": all(r["same"] for r in layers),
        "carried on or handed on, the state makes pieces a whole": all(
            row[k] < 1e-5 < row["afresh"]
            for row in pieces
            for k in ("carried on", "state handed on")
        ),
        f"with the encoder's state {min(others):.3f}, without {guess:.3f}": min(others)
        > guess + 0.3,
    }
    return _show.verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
