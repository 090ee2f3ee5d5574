"""Dates as people write them into ISO 8601: an encoder, and a decoder that looks at what it read.

After the tutorials on translation with attention: "Sunday, March the 29th '26", "29. März 2026" and
"le 29 mars 2026" are all 2026-03-29. The texts are made by `_dates.py`, in many formats and four
languages. It shows

- an encoder, `cellkit.Bidirectional` under a mask, whose outputs are the memory of the decoder, a
  GRU with attention around it: `cellkit.RNN("attention", inner="gru")`, called with
  `constants=(memory, memory_mask)`, next to a decoder that is handed the last state alone;
- training by teacher forcing: what should have been said is the next input;
- `cellkit.generate`, in which it is what was said, greedy and by beam search. A text like 3/4/05 is
  two dates, and these should be the two best of a beam;
- where the decoder looks at each step, from the same cell with `return_weights=True`.

It ends with exit code 1 if too few dates are exactly right that no training text meant (half of
them in the quick form, nine in ten in the full one), if beam search finds less probable dates than
greedy choice, or if the scores aren't those of teacher forcing.

    python examples/dates_attention.py --backend jax
"""

from __future__ import annotations

import sys

import _dates
import _options
import numpy as np

options = _options.parse(__doc__, plot="dates_attention.png")

import _show  # noqa: E402
import keras  # noqa: E402

import cellkit  # noqa: E402

TEXTS, NEW = 2000 if options.quick else 6000, 500 if options.quick else 1000
EPOCHS, BATCH = (6, 32) if options.quick else (10, 64)
UNITS, BEAMS = 64, 4
LONGEST = 34  # letters of a text
SAID = "0123456789-"  # the tokens of the decoder, then the end and the beginning
STOP, START = len(SAID), len(SAID) + 1
STEPS = len("2026-03-29") + 1  # and the end
SHOWN = ("English, weekday", "German", "Spanish")
FORMATS = (*SHOWN, "English", "dots") if options.quick else tuple(_dates.FORMATS)


def encoded(written: list[str]) -> np.ndarray:
    """Return the numbers of letters `(texts, LONGEST)`, 0 behind the end."""
    numbers = np.zeros((len(written), LONGEST), "int32")
    for row, text in zip(numbers, written, strict=True):
        row[: len(text)] = [1 + _dates.LETTERS.index(letter) for letter in text]
    return numbers


def tokens(iso: list[str]) -> np.ndarray:
    """Return what the decoder is to say, `(texts, STEPS)`."""
    return np.array([[*map(SAID.index, date), STOP] for date in iso], "int32")


def before(said: np.ndarray) -> np.ndarray:
    """Return the inputs of the decoder that belong to what it says: each token a step later."""
    return np.pad(said[:, :-1], ((0, 0), (1, 0)), constant_values=START)


def words(said: np.ndarray) -> list[str]:
    """Return tokens as text, up to the end."""
    return ["".join(SAID[k] for k in row if k < STOP) for row in said]


class Translator:
    """An encoder and a decoder with a layer each, as a model to train and as one that goes on.

    Args:
        attention: True if the decoder looks at all outputs of the encoder; else it starts from the
            encoder's last states.
    """

    def __init__(self, attention: bool) -> None:
        letters = keras.Input((LONGEST,), dtype="int32", name="letters")
        said = keras.Input((STEPS,), dtype="int32", name="said")
        vectors = keras.layers.Embedding(len(_dates.LETTERS) + 1, 32, mask_zero=True)(letters)
        encoder = cellkit.Bidirectional(
            cellkit.RNN("gru", units=UNITS // 2, return_sequences=True, return_state=True)
        )
        memory, *states = encoder(vectors)
        handed = {"initial_state": keras.layers.Concatenate()(states)}
        name, extra = "gru", {}
        if attention:
            handed = {"constants": (memory, keras.ops.not_equal(letters, 0))}
            name = "attention"
            extra = {"inner": "gru", "memory_units": UNITS, "score": "multiplicative"}
        self.attention = attention
        self.embed = keras.layers.Embedding(STOP + 2, 16)
        self.decoder = cellkit.RNN(name, units=UNITS, return_sequences=True, **extra)
        self.head = keras.layers.Dense(STOP + 1)
        logits = self.head(self.decoder(self.embed(said), **handed))
        self.model = keras.Model({"letters": letters, "said": said}, logits)
        self.encode = keras.Model(letters, handed)
        slower = keras.optimizers.schedules.CosineDecay(0.005, EPOCHS * -(-TEXTS // BATCH))
        self.model.compile(
            keras.optimizers.Adam(slower),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=_show.COMPILED,
        )

    def handed(self, letters: np.ndarray) -> dict:
        """Return what the decoder is handed by the encoder, as options of a call."""
        return self.encode.predict(letters, verbose=0)

    def translated(self, letters: np.ndarray, method: str) -> cellkit.Generated:
        """Let the decoder run on from what the encoder hands it."""
        return cellkit.generate(
            self.decoder,
            self.head,
            np.full(len(letters), START),
            STEPS,
            embed=self.embed,
            method=method,
            beams=BEAMS,
            stop=STOP,
            pad=STOP,
            **self.handed(letters),
        )

    def looks(self, letters: np.ndarray, said: np.ndarray) -> np.ndarray:
        """Return where the decoder looks as it says something, `(texts, STEPS, LONGEST)`."""
        config = {**self.decoder.cell.get_config(), "return_weights": True}
        cell = type(self.decoder.cell).from_config(config)
        looking = cellkit.RNN(cell, return_sequences=True)
        vectors, handed = self.embed(before(said)), self.handed(letters)
        looking(vectors, **handed)
        looking.set_weights(self.decoder.get_weights())
        return _show.array(looking(vectors, **handed)["weights"])

    def scores(self, letters: np.ndarray, said: np.ndarray) -> np.ndarray:
        """Return the log-probabilities of what is said, by teacher forcing."""
        logits = self.model.predict({"letters": letters, "said": before(said)}, verbose=0)
        logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return np.take_along_axis(logp, said[..., None], axis=-1).sum(axis=(1, 2))


def main() -> int:
    """Train both decoders, translate new dates, draw; return the exit code."""
    days, new_days = _dates.split(0)
    formats = {name: _dates.FORMATS[name] for name in FORMATS} | _dates.AMBIGUOUS
    written, iso, _ = _dates.dates(1, TEXTS, days, formats)
    new, right, names = _dates.dates(2, NEW, new_days, formats)
    readings = [_dates.readings(*pair) for pair in zip(new, names, strict=True)]
    clear = np.array([not found for found in readings])
    letters, said = encoded(new), tokens(iso)
    rows = []
    with _show.progress() as bars:
        for name in ("attention",) if options.quick else ("attention", "the last state"):
            keras.utils.set_random_seed(5)
            translator = Translator(attention=name == "attention")
            data = {"letters": encoded(written), "said": before(said)}
            run = {"epochs": EPOCHS, "batch_size": BATCH}
            row = {"model": name, **_show.fit(bars, name, translator.model, data, said, **run)}
            found = {m: translator.translated(letters, m) for m in ("greedy", "beam")}
            for method, result in found.items():
                texts = words(_show.array(result.tokens))
                row[f"right, {method}"] = np.array(texts) == np.array(right)
                row[method] = row[f"right, {method}"][clear].mean()
            pairs = _show.array(found["beam"].beams)[:, :2]
            both = [set(words(two)) == r for two, r in zip(pairs, readings, strict=True) if r]
            rows.append({**row, "both": np.mean(both), "found": found, "translator": translator})
    _show.table(
        f"{TEXTS:,} dates; {clear.sum():,} of other days, and {(~clear).sum()} of two readings",
        {
            "the decoder is handed": "{model}",
            "exactly right: greedy": "{greedy:.3f}",
            f"{BEAMS} beams": "{beam:.3f}",
            "both readings are the two best": "{both:.3f}",
            "seconds": "{seconds:.1f}",
        },
        rows,
    )
    with_attention = rows[0]
    show_two(with_attention["translator"])
    draw(rows, new, names, clear)

    greedy, beam = (_show.array(with_attention["found"][m].scores) for m in ("greedy", "beam"))
    chosen = _show.array(with_attention["found"]["greedy"].tokens)
    apart = np.abs(with_attention["translator"].scores(letters, chosen) - greedy).max()
    least = min(with_attention[m] for m in ("greedy", "beam"))
    share = (beam >= greedy - 1e-4).mean()
    claims = {
        f"{least:.3f} of the new dates are exactly right": least > (0.5 if options.quick else 0.9),
        f"beams are as probable as greedy choice, or more, in {share:.3f} of the texts": share
        > 0.99,
        f"scores differ by {apart:.1e} from teacher forcing": apart < 1e-3,
    }
    return _show.verdict(claims)


def show_two(translator: Translator) -> None:
    """Print the beams of some texts, with their probabilities."""
    shown = ["3/4/05", "25/12/99", "17 de agosto de 2031", "Friday, May the 13th '44"]
    found = translator.translated(encoded(shown), "beam")
    beams, scores = _show.array(found.beams), np.exp(_show.array(found.beam_scores))
    rows = []
    for text, two, shares in zip(shown, beams[:, :2], scores[:, :2], strict=True):
        first, second = words(two)
        rows.append({"text": text, "a": first, "p": shares[0], "b": second, "q": shares[1]})
    columns = {"written": "{text}", "best": "{a}", "probability": "{p:.2f}"}
    columns |= {"second": "{b}", "its probability": "{q:.2f}"}
    _show.table("The two best of a beam", columns, rows)


def draw(rows: list[dict], new: list[str], names: list[str], clear: np.ndarray) -> None:
    """Draw where the decoder looks, and how many dates of each format are right."""
    title = "Dates: where the decoder looks"
    with _show.figure(options.plot, title, 2, 2, figsize=(12, 10)) as axes:
        best = rows[0]
        for axis, name in zip(axes.flat, SHOWN, strict=False):
            k = names.index(name)
            tokens = _show.array(best["found"]["greedy"].tokens)[k : k + 1]
            weights = best["translator"].looks(encoded([new[k]]), tokens)[0]
            axis.imshow(weights[:-1, : len(new[k])], cmap=_show.shades(), aspect="auto", vmin=0)
            axis.set_xticks(range(len(new[k])), list(new[k]), fontsize=11)
            axis.set_yticks(range(STEPS - 1), list(words(tokens)[0]), fontsize=11)
            axis.set(title=f"{name}: what is read, across", ylabel="what is said, downwards")
            axis.tick_params(length=0)
        formats, labels, axis = FORMATS[::-1], np.array(names), axes[1, 1]
        for place, (row, color) in enumerate(zip(rows, (_show.CELLKIT, _show.GREY), strict=False)):
            right = [row["right, greedy"][(labels == name) & clear].mean() for name in formats]
            height = 0.8 / len(rows)
            heights = np.arange(len(formats)) + 0.4 - height * (place + 0.5)
            axis.barh(heights, right, height, color=color, label=row["model"])
        axis.set_yticks(range(len(formats)), formats, fontsize=9)
        axis.set(title="New dates exactly right, greedy", xlim=(0, 1))
        axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=2)


if __name__ == "__main__":
    sys.exit(main())
