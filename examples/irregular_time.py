"""Will a patient live? Visits at irregular times, at which not everything was measured.

312 patients came to the Mayo Clinic every year or so, sooner when they were worse; each time some
of twelve measurements were taken, seldom all. From the visits up to a day, the question is who dies
within the next three years. One patient gives up to six questions, so folds are made of patients:
who was seen in training is never asked about in the test. It shows

- three cells for which time is an input: `gru_d`, `cfc` and `phased_lstm`, each with its own form;
- next to them Keras' GRU, which is given the gaps and what is observed as ordinary features;
- cross-validation in folds of patients: the mean AUC and its spread, next to that of a logistic
  regression on the last visit.

Who was transplanted or lost from sight within those three years is not asked about. That is a
choice, and one that makes the numbers no forecast for a clinic.

It ends with exit code 1 if the best of the three cells is no better than the last visit's
bilirubin alone, or if a cell is no better than guessing.

    python examples/irregular_time.py --backend jax
"""

from __future__ import annotations

import sys

import _data
import _options
import numpy as np

options = _options.parse(__doc__, plot="irregular_time.png")

import _show  # noqa: E402
import keras  # noqa: E402

import cellkit  # noqa: E402

YEAR = 365.25
ASKED = (1, 2, 3, 4, 5, 6)  # years after the first visit
AHEAD = 3  # years
FOLDS = 2 if options.quick else 5
TRIED = ("GRU of Keras", "gru_d", "cfc", "phased_lstm")[: 3 if options.quick else 4]
EPOCHS = 6
UNITS, BATCH = 8, 64
SKEWED = (0, 1, 3, 4, 5, 6)  # measurements of which the logarithm is taken
BILIRUBIN = 0


# --- data ----------------------------------------------------------------------------------------


def questions() -> dict[str, np.ndarray]:
    """Return one row per question: the visits so far, padded, and whether the patient died."""
    visits, outcome = _data.load("cirrhosis", "all")
    values = visits["values"].copy()
    values[:, SKEWED] = np.log(values[:, SKEWED])
    rows = []
    for patient in np.unique(visits["patient"]):
        own = visits["patient"] == patient
        followed, status = outcome["followed"][own][0] / YEAR, outcome["status"][own][0]
        for year in ASKED:
            seen = own & (visits["day"] <= year * YEAR)
            died = status == 2 and followed <= year + AHEAD
            if followed > year and (died or followed >= year + AHEAD):
                rows.append((patient, died, visits["day"][seen] / YEAR, values[seen]))
    steps = max(len(times) for _, _, times, _ in rows)
    found = {
        "patient": np.array([row[0] for row in rows]),
        "died": np.array([row[1] for row in rows], "float32"),
        "mask": np.zeros((len(rows), steps), bool),
        "time": np.zeros((len(rows), steps, 1), "float32"),
        "values": np.full((len(rows), steps, values.shape[1]), np.nan, "float32"),
    }
    for k, (_, _, times, measured) in enumerate(rows):
        found["mask"][k, : len(times)] = True
        found["time"][k, : len(times), 0] = times
        found["values"][k, : len(times)] = measured
    return found


def standardised(data: dict, train: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the models take, scaled by what the training questions say."""
    known = data["values"][train]
    values = (data["values"] - np.nanmean(known, (0, 1))) / np.nanstd(known, (0, 1))
    observed = ~np.isnan(values)
    return {
        "values": np.where(observed, values, 0).astype("float32"),
        "observed": observed.astype("float32"),
        "dt": np.diff(data["time"], axis=1, prepend=0) * data["mask"][..., None],
        "time": data["time"],
        "mask": data["mask"],
    }


def folds(data: dict) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return training and test rows per fold; a patient is in one of them only."""
    patients = np.random.default_rng(0).permutation(np.unique(data["patient"]))
    groups = [np.isin(data["patient"], part) for part in np.array_split(patients, FOLDS)]
    return [(np.flatnonzero(~test), np.flatnonzero(test)) for test in groups]


def auc(scores: np.ndarray, died: np.ndarray) -> float:
    """Return how often someone who died has a higher score than someone who didn't."""
    apart = scores[died > 0][:, None] - scores[died == 0]
    return float((apart > 0).mean() + (apart == 0).mean() / 2)


def logistic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the weights of a logistic regression with a little ridge, by Newton's method."""
    w = np.zeros(x.shape[1])
    for _ in range(10):
        p = 1 / (1 + np.exp(-(x @ w)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.eye(len(w))
        w += np.linalg.solve(hessian, x.T @ (y - p) - w)
    return w


# --- models --------------------------------------------------------------------------------------


def build(name: str, steps: int, features: int) -> keras.Model:
    """Return a compiled model that says how probable it is that a patient dies."""
    size = {"values": features, "observed": features, "dt": 1, "time": 1}
    x = {key: keras.Input((steps, n), name=key) for key, n in size.items()}
    mask = keras.Input((steps,), dtype="bool", name="mask")
    both = keras.layers.Concatenate()([x["values"], x["observed"]])
    if name == "gru_d":
        cell = cellkit.create("gru_d", units=UNITS, gaps="step")
        h = cellkit.RNN(cell)({k: x[k] for k in ("values", "observed", "dt")}, mask=mask)
    elif name == "cfc":
        cell = cellkit.create("cfc", units=UNITS, backbone_units=32)
        h = cellkit.RNN(cell)((both, x["dt"]), mask=mask)
    elif name == "phased_lstm":
        # Rhythms of half a year to ten years, open half of the time: there are few visits.
        cell = cellkit.create("phased_lstm", units=UNITS, period_range=(0.5, 10), ratio_on=0.5)
        h = cellkit.RNN(cell)((both, x["time"]), mask=mask)
    else:
        layer = keras.layers.GRU(UNITS)
        h = layer(keras.layers.Concatenate()([both, x["dt"]]), mask=mask)
    h = keras.layers.Dropout(0.3)(h)
    dies = keras.layers.Dense(1, activation="sigmoid")(h)
    model = keras.Model({**x, "mask": mask}, dies)
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", jit_compile=_show.COMPILED)
    return model


def cross_validated(bars, name: str, data: dict) -> dict:
    """Train and test in every fold; return the AUCs and the scores of all questions."""
    keras.utils.set_random_seed(1)
    model = build(name, *data["values"].shape[1:])
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    start = [_show.array(v) for v in variables]
    found, seconds = [], 0.0
    for k, (train, test) in enumerate(folds(data)):
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)  # every fold starts from the same, compiled only once
        x = standardised(data, train)
        # Whole batches only: one shape, so that the model is compiled once for all folds.
        some = np.random.default_rng(k).permutation(train)[: len(train) // BATCH * BATCH]
        curves = _show.fit(
            bars,
            f"{name}, fold {k + 1} of {FOLDS}",
            model,
            {key: v[some] for key, v in x.items()},
            data["died"][some],
            epochs=EPOCHS,
            batch_size=BATCH,
        )
        seconds += curves["seconds"]
        scores = model.predict(x, batch_size=256, verbose=0)[:, 0]
        found.append(auc(scores[test], data["died"][test]))
    return {"model": name, "weights": model.count_params(), "seconds": seconds, "aucs": found}


def baselines(data: dict) -> list[dict]:
    """Return the AUCs of the last visit: its bilirubin alone, and all of it."""
    rows, last = np.arange(len(data["died"])), data["mask"].sum(axis=1) - 1
    alone, whole = [], []
    for train, test in folds(data):
        x = standardised(data, train)
        values = x["values"][rows, last]
        alone.append(auc(values[test, BILIRUBIN], data["died"][test]))
        parts = [values, x["observed"][rows, last], x["time"][rows, last], np.ones((len(rows), 1))]
        features = np.concatenate(parts, axis=1)
        weights = logistic(features[train], data["died"][train])
        whole.append(auc((features @ weights)[test], data["died"][test]))
    return [
        {"model": "last bilirubin alone", "aucs": alone},
        {"model": "logistic, last visit", "aucs": whole, "weights": features.shape[1]},
    ]


def draw(rows: list[dict], data: dict) -> None:
    """Draw the folds of every model, and a few patients as the models see them."""
    with _show.figure(options.plot, "Who dies within three years?", 2) as (left, right):
        for place, row in enumerate(rows):
            ours = row["model"] in cellkit.list_cells()
            color = (
                _show.CELLKIT if ours else _show.KERAS if "Keras" in row["model"] else _show.GREY
            )
            left.plot(row["aucs"], np.full(FOLDS, place), "o", color=color, alpha=0.45)
            left.errorbar(
                np.mean(row["aucs"]),
                place,
                xerr=np.std(row["aucs"]),
                fmt="D",
                color=color,
                capsize=4,
            )
        left.set_yticks(range(len(rows)), [row["model"] for row in rows])
        left.invert_yaxis()
        left.set(title=f"AUC: mean, spread and each of {FOLDS} folds", xlabel="AUC")
        longest = data["mask"].sum(axis=1) == data["mask"].sum(axis=1).max()
        chosen = [np.flatnonzero(longest & (data["died"] == died))[:4] for died in (0, 1)]
        for k in np.concatenate(chosen):
            seen = data["mask"][k]
            color = "#b5403a" if data["died"][k] else _show.GREY
            times, bilirubin = data["time"][k, seen, 0], data["values"][k, seen, BILIRUBIN]
            right.plot(times, np.exp(bilirubin), "-", color=color, lw=1)
            missing = np.isnan(data["values"][k, seen, 1])
            for where, fill in ((missing, "none"), (~missing, color)):
                right.plot(times[where], np.exp(bilirubin)[where], "o", color=color, mfc=fill)
        right.set(title="Eight patients: bilirubin, in mg/dl", xlabel="years", yscale="log")
        right.yaxis.set_major_formatter("{x:g}")
        for color, label in (("#b5403a", "died within three years"), (_show.GREY, "lived")):
            right.plot([], [], "-", color=color, label=label)
        right.plot([], [], "o", color=_show.INK, mfc="none", label="no cholesterol measured")
        right.legend(frameon=False, fontsize=9)


def main() -> int:
    """Validate all models, compare, draw; return the exit code."""
    data = questions()
    rows = baselines(data)
    with _show.progress() as bars:
        rows += [cross_validated(bars, name, data) for name in TRIED]
    for row in rows:
        row["mean"], row["spread"] = np.mean(row["aucs"]), np.std(row["aucs"])
    _show.table(
        f"{len(data['died']):,} questions about {len(np.unique(data['patient']))} patients, "
        f"{data['died'].mean():.0%} died",
        {
            "model": "{model}",
            "parameters": "{weights:,}",
            "AUC": "{mean:.3f}",
            "spread of folds": "{spread:.3f}",
            "seconds": "{seconds:.1f}",
        },
        rows,
        caption=f"Means and standard deviations over {FOLDS} folds of patients.",
    )
    draw(rows, data)
    best = max(rows[3:], key=lambda row: row["mean"])
    worst = min(rows[3:], key=lambda row: row["mean"])
    claims = {
        f"{best['model']} has {best['mean']:.3f}, bilirubin alone {rows[0]['mean']:.3f}": best[
            "mean"
        ]
        > rows[0]["mean"],
        f"{worst['model']}, the last of these cells, has {worst['mean']:.3f}": worst["mean"] > 0.65,
    }
    return _show.verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
