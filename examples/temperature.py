"""How warm will it be tomorrow? Hourly weather, five days back and one day ahead.

The tutorials' series: from the weather of the last five days, every third hour, say how much warmer
or colder it will be in 24 hours. The year is cut in time: trained on January to August, the epoch
chosen on August and September, tested on October to December. It shows

- windows that a pipeline (`keras.utils.PyDataset`) cuts when a batch is asked for; nothing is
  copied, and no window reaches over the borders of the split;
- the tutorials' models: the naive forecast, a dense network, a GRU, one with recurrent dropout, a
  stack with dropout, a bidirectional one, and cells of cellkit in the same places;
- the error of each in degrees.

It ends with exit code 1 if no recurrent model is better than the naive forecast, which says that
tomorrow is like today, or if one is much worse.

    python examples/temperature.py --backend jax
"""

from __future__ import annotations

import sys

import _data
import _options
import numpy as np

options = _options.parse(__doc__, plot="temperature.png")

import _show  # noqa: E402
import keras  # noqa: E402

import cellkit  # noqa: E402

PAST, AHEAD, EVERY = 120, 24, 3  # hours
STEPS = PAST // EVERY
UNITS, BATCH = 16, 128
EPOCHS = 3 if options.quick else 6
THIN = 4 if options.quick else 2  # trains on every so many windows: neighbours hardly differ
DROP = {"dropout": 0.2, "recurrent_dropout": 0.2}


# --- data ----------------------------------------------------------------------------------------


def features(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the weather and the time of day, standardised, and the temperature in degrees."""
    inputs, degrees = _data.load("weather", split)
    train = _data.load("weather", "train")[0]["values"]
    scaled = (inputs["values"] - train.mean(axis=0)) / train.std(axis=0)
    angle = inputs["hours"].astype("int64") % 24 * (2 * np.pi / 24)
    times = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return np.concatenate([scaled, times], axis=1).astype("float32"), degrees


class Windows(keras.utils.PyDataset):
    """The windows of one part of the year, cut when they are asked for.

    Args:
        split: Part of the year. A window and what it foretells lie within it.
        thin: Uses one window of so many.
        shuffle: True if the order is another in every epoch.
    """

    def __init__(self, split: str, thin: int = 1, shuffle: bool = False) -> None:
        super().__init__()
        self.values, self.degrees = features(split)
        self.now = np.arange(PAST - 1, len(self.values) - AHEAD, thin)
        self.random = np.random.default_rng(0) if shuffle else None

    def __len__(self) -> int:
        return -(-len(self.now) // BATCH)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        now = self.now[index * BATCH : (index + 1) * BATCH]
        past = np.arange(EVERY - PAST, 1, EVERY)  # up to the hour that is now
        return self.values[now[:, None] + past], self.change(now)

    def change(self, now: np.ndarray) -> np.ndarray:
        """Return by how many degrees it gets warmer within a day, `(n, 1)`."""
        return (self.degrees[now + AHEAD] - self.degrees[now])[:, None]

    def on_epoch_end(self) -> None:
        """Shuffle."""
        if self.random is not None:
            self.random.shuffle(self.now)


# --- models --------------------------------------------------------------------------------------


def ours(name: str, **options) -> keras.layers.Layer:
    """Return a layer of cellkit around the cell of that name."""
    return cellkit.RNN(cellkit.create(name, units=UNITS, **options))


gru = keras.layers.GRU
MODELS = {
    "dense": lambda: [keras.layers.Flatten(), keras.layers.Dense(UNITS, activation="relu")],
    "GRU": lambda: [gru(UNITS)],
    "GRU, recurrent dropout": lambda: [gru(UNITS, **DROP), keras.layers.Dropout(0.2)],
    "two GRUs with dropout": lambda: [
        gru(UNITS, return_sequences=True, **DROP),
        gru(UNITS, **DROP),
    ],
    "bidirectional GRU": lambda: [keras.layers.Bidirectional(gru(UNITS))],
    "ugrnn": lambda: [ours("ugrnn")],
    "mgu, recurrent dropout": lambda: [ours("mgu", **DROP), keras.layers.Dropout(0.2)],
    "bidirectional ugrnn": lambda: [cellkit.Bidirectional(ours("ugrnn"))],
}
if options.quick:
    MODELS = {name: MODELS[name] for name in ("dense", "GRU", "mgu, recurrent dropout")}


def build(name: str) -> keras.Sequential:
    """Return a compiled model that says by how many degrees it gets warmer."""
    inputs = keras.Input((STEPS, features("train")[0].shape[1]))
    model = keras.Sequential([inputs, *MODELS[name](), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.005), "mae", jit_compile=_show.COMPILED)
    return model


def draw(rows: list[dict], test: Windows) -> None:
    """Draw the errors, and two weeks of the best forecast."""
    best = min((row for row in rows if "said" in row), key=lambda row: row["error"])
    with _show.figure(options.plot, "The temperature in 24 hours", 2) as (left, right):
        for place, row in enumerate(rows):
            color = _show.CELLKIT if row.get("cellkit") else _show.KERAS
            left.barh(place, row["error"], color=color if "said" in row else _show.GREY)
            label = {"va": "center", "ha": "right", "color": "white"}
            left.text(row["error"] - 0.05, place, f"{row['error']:.2f}", **label)
        left.set_yticks(range(len(rows)), [row["model"] for row in rows])
        left.invert_yaxis()
        left.axvline(rows[0]["error"], color=_show.GREY, ls=":", lw=1)
        left.set(title="Mean error on October to December", xlabel="degrees Celsius")
        shown = np.arange(24 * 14)
        now = test.now[shown]
        right.plot(shown / 24, test.degrees[now + AHEAD], color=_show.INK, label="measured")
        right.plot(shown / 24, test.degrees[now], color=_show.GREY, lw=1, label="as the day before")
        said = test.degrees[now] + best["said"][shown]
        color = _show.CELLKIT if best["cellkit"] else _show.KERAS
        right.plot(shown / 24, said, color=color, label=f"{best['model']}, a day ahead")
        right.set(title="Two weeks of autumn", xlabel="days", ylabel="degrees Celsius")
        right.legend(frameon=False, fontsize=9)


def main() -> int:
    """Train all models, compare, draw; return the exit code."""
    train, chosen, test = (
        Windows("train", THIN, shuffle=True),
        Windows("validation"),
        Windows("test"),
    )
    truth = test.change(test.now)[:, 0]
    naive = float(np.abs(truth).mean())
    rows = [{"model": "naive: as today", "error": naive}]
    with _show.progress() as bars:
        for name in MODELS:
            keras.utils.set_random_seed(5)
            model = build(name)
            best = keras.callbacks.EarlyStopping(patience=EPOCHS, restore_best_weights=True)
            curves = _show.fit(
                bars, name, model, train, validation_data=chosen, epochs=EPOCHS, callbacks=[best]
            )
            said = model.predict(test, verbose=0)[:, 0]
            rows.append(
                {
                    "model": name,
                    "cellkit": any("cellkit" in type(x).__module__ for x in model.layers),
                    "weights": model.count_params(),
                    "chosen": min(curves["val_loss"]),
                    "error": float(np.abs(said - truth).mean()),
                    "seconds": curves["seconds"],
                    "said": said,
                }
            )
    _show.table(
        f"{len(train.now):,} windows for training, {len(test.now):,} for the test",
        {
            "model": "{model}",
            "parameters": "{weights:,}",
            "error when chosen": "{chosen:.2f}",
            "test error, degrees C": "{error:.2f}",
            "seconds": "{seconds:.1f}",
        },
        rows,
        caption="Mean absolute errors. The weights are those of the best epoch on August and "
        "September.",
    )
    draw(rows, test)
    recurrent = [row for row in rows[1:] if row["model"] != "dense"]
    best, worst = (f(recurrent, key=lambda row: row["error"]) for f in (min, max))
    claims = {
        f"{best['model']}: {best['error']:.2f} degrees, naive {naive:.2f}": best["error"] < naive,
        f"the worst, {worst['model']}: {worst['error']:.2f}": worst["error"] < 1.1 * naive,
    }
    return _show.verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
