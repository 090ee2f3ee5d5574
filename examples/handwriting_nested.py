"""What will the pen do next? Movement and pressure as two inputs, and as two outputs.

At every step a pen has moved a little and presses more or less. The cell takes both as
{"xy": ..., "pressure": ...} and says both for the next step, in the same structure. The digits are
from a seeded generator (`_pen.py`), of different lengths. It shows

- a cell of one's own in a few lines: `GatedFusionCell` with a readout, and nested outputs;
- two losses, one per output, by their names, and masks for what lies after the end;
- the same task with Keras' GRU, which needs the inputs joined and two more layers;
- writing on: `layer.step` feeds what the cell says back to it, and it finishes a digit.

It ends with exit code 1 if the cell doesn't beat a pen that goes on as it did by a twentieth, in
movement and in pressure.

    python examples/handwriting_nested.py --backend torch
"""

from __future__ import annotations

import sys

import _options
import _pen
import numpy as np

options = _options.parse(__doc__, plot="handwriting_nested.png")

import _show  # noqa: E402
import keras  # noqa: E402

import cellkit  # noqa: E402
from cellkit_nested import GatedFusionCell  # noqa: E402

UNITS, BATCH = 48, 25
DIGITS = 400 if options.quick else 1000
EPOCHS = 6 if options.quick else 10
SIZE = {"xy": 2, "pressure": 1}
SCALE = {"xy": 10.0, "pressure": 1.0}  # one step is about a tenth of a digit
STYLES = {"xy": "-", "pressure": "--"}


@keras.saving.register_keras_serializable(package="examples")
class PenCell(GatedFusionCell):
    """Weighs movement and pressure, and says both for the next step: what changes is added."""

    @property
    def output_size(self):
        """One size per output."""
        return {name: cellkit.TensorSpec(size) for name, size in SIZE.items()}

    def build(self, input_shape):
        """Create the weights of the fusion, and the readout."""
        super().build(input_shape)
        self.readout = self.add_kernel((self.units, sum(SIZE.values())), "readout")

    def project(self, inputs):
        """Keep what the pen does now, beside what the fusion makes of it."""
        return super().project(inputs), inputs

    def step(self, projected, states):
        """Advance one step."""
        fused, now = projected
        h, states = super().step(fused, states)
        change = keras.ops.matmul(h, self.readout)
        said = {"xy": now["xy"] + change[:, :2], "pressure": now["pressure"] + change[:, 2:]}
        return said, states


def task(seed: int, digits: int) -> tuple[dict, dict, np.ndarray]:
    """Return what the pen does, what it does one step later, and which steps count."""
    writing = _pen.write(seed, digits)
    values = {"xy": writing.xy * SCALE["xy"], "pressure": writing.pressure}
    mask = np.arange(_pen.STEPS - 1) < writing.lengths[:, None] - 1
    now = {name: v[:, :-1] for name, v in values.items()}
    return now, {name: v[:, 1:] for name, v in values.items()}, mask


def nested() -> tuple[keras.Model, cellkit.RNN]:
    """Return a model that is one layer, and the layer."""
    inputs = {name: keras.Input((None, size), name=name) for name, size in SIZE.items()}
    layer = cellkit.RNN(PenCell(UNITS), return_sequences=True)
    return keras.Model(inputs, layer(inputs)), layer


def joined() -> keras.Model:
    """Return the same with layers of Keras."""
    inputs = {name: keras.Input((None, size), name=name) for name, size in SIZE.items()}
    now = keras.layers.Concatenate()([inputs[name] for name in SIZE])
    h = keras.layers.GRU(UNITS, return_sequences=True)(now)
    change = {name: keras.layers.Dense(size, use_bias=False)(h) for name, size in SIZE.items()}
    said = {name: keras.layers.Add()([inputs[name], change[name]]) for name in SIZE}
    return keras.Model(inputs, said)


def errors(said: dict, later: dict, mask: np.ndarray) -> dict[str, float]:
    """Return the root mean square error of each output, over the steps that count."""
    return {
        name: float(np.sqrt(np.square(said[name] - later[name])[mask].mean())) / SCALE[name]
        for name in SIZE
    }


def go_on(layer: cellkit.RNN, now: dict, shown: int, steps: int) -> dict[str, np.ndarray]:
    """Let the cell see the first steps, then feed it what it says; return all steps."""
    states, said, told = None, None, []
    for t in range(steps):
        step = {name: v[:, t] for name, v in now.items()} if t < shown else said
        told.append({name: _show.array(v) for name, v in step.items()})
        said, states = layer.step(step, states)
    return {name: np.stack([step[name] for step in told], axis=1) for name in SIZE}


def draw(rows: list[dict], layer: cellkit.RNN) -> None:
    """Draw the curves of both losses, and digits that the cell finishes."""
    now, _, mask = task(3, 60)
    longest = np.argsort(-mask.sum(axis=1))
    _, first = np.unique(_pen.write(3, 60).labels[longest], return_index=True)
    chosen = longest[np.sort(first)[:8]]  # eight different digits
    now = {name: v[chosen] for name, v in now.items()}
    ends = mask[chosen].sum(axis=1)
    half = int(ends.min() // 2)
    told = go_on(layer, now, half, int(ends.max()))
    with _show.figure(options.plot, "What will the pen do next?", 2) as (left, right):
        for row, color in zip(rows[1:], (_show.KERAS, _show.CELLKIT), strict=True):
            epochs = np.arange(1, EPOCHS + 1)
            for name, dashes in STYLES.items():
                label = f"{row['model']}: {name}"
                left.plot(epochs, row["curves"][name], color=color, ls=dashes, label=label)
        for name, dashes in STYLES.items():
            left.axhline(rows[0][name], color=_show.GREY, ls=dashes, lw=1)
            words = {"ha": "right", "va": "bottom", "color": _show.GREY, "fontsize": 9}
            left.text(EPOCHS, rows[0][name], f"goes on as it did: {name}", **words)
        left.set(title="Error of one step on test digits", xlabel="epoch", ylim=(0, None))
        left.set(ylabel="root mean square")
        left.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.44))
        for k, end in enumerate(ends):
            for values, drop, color in ((now, 0, _show.INK), (told, 1.8, _show.CELLKIT)):
                place = np.cumsum(values["xy"][k, :end] / SCALE["xy"], axis=0)
                # Four digits beside each other, and the others below: this fills the axes.
                place += [1.5 * (k % 4), -3.6 * (k // 4) - drop] - place.mean(axis=0)
                for t in range(end - 1):
                    width = 5 * float(np.clip(values["pressure"][k, t + 1, 0], 0, 1))
                    shade = color if t >= half or not drop else _show.GREY
                    right.plot(*place[t : t + 2].T, color=shade, lw=width, solid_capstyle="round")
        right.set(title="As written, and below as the cell finishes it (orange)")
        right.set_aspect("equal")
        right.axis("off")


def main() -> int:
    """Train, compare, draw; return the exit code."""
    (now, later, mask), (test, answers, counts) = task(1, DIGITS), task(2, 400)
    rows = [{"model": "goes on as it did", **errors(test, answers, counts)}]
    with _show.progress() as bars:
        for name in ("GRU of Keras", "PenCell"):
            keras.utils.set_random_seed(6)
            model, layer = (joined(), None) if name == "GRU of Keras" else nested()
            model.compile(
                keras.optimizers.Adam(0.01),
                loss={"xy": "mse", "pressure": "mse"},
                loss_weights={"xy": 1.0, "pressure": 3.0},
                jit_compile=_show.COMPILED,
            )
            weights = [{key: m.astype("float32") for key in SIZE} for m in (mask, counts)]
            curves = _show.fit(
                bars,
                name,
                model,
                now,
                later,
                sample_weight=weights[0],
                validation_data=(test, answers, weights[1]),
                epochs=EPOCHS,
                batch_size=BATCH,
            )
            said = model.predict(test, batch_size=200, verbose=0)
            row = {"model": name, "weights": model.count_params(), "seconds": curves["seconds"]}
            # Keras averages over the padding too, whose weight is 0.
            row["curves"] = {
                key: np.sqrt(np.divide(curves[f"val_{key}_loss"], counts.mean())) / SCALE[key]
                for key in SIZE
            }
            rows.append({**row, **errors(said, answers, counts)})
    _show.table(
        f"One step ahead on 400 digits, trained on {DIGITS:,}",
        {
            "model": "{model}",
            "parameters": "{weights:,}",
            "error of xy": "{xy:.4f}",
            "error of pressure": "{pressure:.4f}",
            "seconds": "{seconds:.1f}",
        },
        rows,
        caption="Root mean square errors; a digit is one wide and high, the pressure at most one.",
    )
    draw(rows, layer)
    naive, _, own = rows
    claims = {
        f"{name}: {own[name]:.4f}, a pen that goes on as it did {naive[name]:.4f}": own[name]
        < 0.95 * naive[name]
        for name in SIZE
    }
    return _show.verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
