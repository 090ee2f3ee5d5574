"""Episodes in a stream: ants that find home, if their network is told where a walk begins.

The environment, `_desert.py`, is our own: ants wander about in a desert, find food, and have to go
straight back to their nest. They feel each step that they make and see nothing else, so a recurrent
policy has to keep the sum of all steps since the nest. Now and then a gust carries an ant off to
another nest, which it doesn't feel. It shows

- training with `fit` on windows cut from a stream of walks, that end anywhere in a window: the
  state goes on from window to window with `stateful=True`, and `resets=`, an input of the model,
  begins anew where a walk does, whose gradient stays inside the walk;
- the same without resets, from the same data and seed: it can't know what to forget. Told by a flag
  among its inputs, it has to learn to forget, and does so less exactly;
- the policy at work: `layer.stream` in a live environment, `stream(x, resets=began)`, with the
  numbers of `layer.step` and of the windows.

It ends with exit code 1 if resets don't make the error on new walks three times smaller, if fewer
than nine in ten ants with food come home with them, or more than three in four without them, or if
streams, steps and windows differ.

    python examples/ants_go_home.py --backend torch
"""

from __future__ import annotations

import sys

import _options
import numpy as np
from _desert import NEAR, Desert

options = _options.parse(__doc__, plot="ants_go_home.png")

import _show  # noqa: E402
import keras  # noqa: E402

import cellkit  # noqa: E402

ANTS, WINDOW, WINDOWS = 64, 32, 40
EPOCHS = 8 if options.quick else 20
UNITS, SCALE = 32, 10.0  # the model counts in tens of steps
LIVE = 8 * WINDOW  # steps in which a policy is at work
WAYS = {"resets": _show.CELLKIT, "no resets": _show.KERAS, "a flag as input": _show.GREY}
if options.quick:
    WAYS.pop("a flag as input")


def walks(seed: int, steps: int) -> dict[str, np.ndarray]:
    """Return what ants feel that know the way home, where walks begin, and the way itself.

    Returns:
        `moved` and `home`, `(ants, steps, 2)` float32, and `began`, `(ants, steps)` bool.
    """
    desert, seen = Desert(ANTS, seed), []
    for _ in range(steps):
        seen.append((*desert.step(desert.home), desert.home.astype("float32")))
    names = ("moved", "began", "home")
    return {k: np.stack(v, axis=1) for k, v in zip(names, zip(*seen, strict=True), strict=True)}


def windows(values: np.ndarray) -> np.ndarray:
    """Cut streams into windows, every ant's first window first: the order that `stateful` wants."""
    cut = values.reshape(ANTS, -1, WINDOW, *values.shape[2:]).swapaxes(0, 1)
    return cut.reshape(-1, *cut.shape[2:])


def joined(values: np.ndarray) -> np.ndarray:
    """Put windows together into streams again."""
    cut = values.reshape(-1, ANTS, WINDOW, *values.shape[2:]).swapaxes(0, 1)
    return cut.reshape(ANTS, -1, *cut.shape[3:])


def build(way: str) -> keras.Model:
    """Return a compiled model that says after each step where home is."""
    inputs = {"moved": keras.Input(batch_shape=(ANTS, WINDOW, 2), name="moved")}
    layer = cellkit.RNN("gru", units=UNITS, return_sequences=True, stateful=True, name="memory")
    if way == "no resets":
        h = layer(inputs["moved"])
    else:
        began = keras.Input(batch_shape=(ANTS, WINDOW), dtype="bool", name="began")
        inputs["began"] = began
        h = layer(inputs["moved"], resets=began) if way == "resets" else layer(flagged(**inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="home")(h))
    slower = keras.optimizers.schedules.CosineDecay(0.01, EPOCHS * WINDOWS)
    model.compile(keras.optimizers.Adam(slower), "mse", jit_compile=_show.COMPILED)
    return model


def flagged(moved, began):
    """Return the steps with one feature more, 1 where a walk begins."""
    flag = keras.ops.expand_dims(keras.ops.cast(began, "float32"), -1)
    return keras.ops.concatenate([moved, flag], axis=-1)


def inputs_of(model: keras.Model, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the inputs that a model takes, in windows."""
    return {name: windows(data[name]) for name in model.input}


def trained(bars, way: str, train: dict[str, np.ndarray]) -> tuple[keras.Model, dict]:
    """Return a trained model and its curves; each epoch goes along the stream once."""
    keras.utils.set_random_seed(3)
    model = build(way)
    layer = model.get_layer("memory")
    start = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: layer.reset_state())
    run = {"epochs": EPOCHS, "batch_size": ANTS, "shuffle": False, "callbacks": [start]}
    target = windows(train["home"]) / SCALE
    return model, _show.fit(bars, way, model, inputs_of(model, train), target, **run)


def told(model: keras.Model, data: dict[str, np.ndarray]) -> np.ndarray:
    """Return where home is after each step of a stream, as a model says."""
    model.get_layer("memory").reset_state()
    found = model.predict(inputs_of(model, data), batch_size=ANTS, verbose=0)
    return SCALE * joined(found)


def live(model: keras.Model, way: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Let a policy act.

    Returns:
        What happened, by name, `(ants, steps, ...)`, and how many walks ended how.
    """
    desert, head = Desert(ANTS, seed), model.get_layer("home")
    stream = model.get_layer("memory").stream(ANTS)
    said, seen = np.zeros((ANTS, 2)), []
    for _ in range(LIVE):
        carries = desert.carries.copy()
        moved, began = desert.step(said)
        x = _show.array(flagged(moved, began)) if way == "a flag as input" else moved
        said = SCALE * _show.array(head(stream(x, resets=began if way == "resets" else None)))
        seen.append((moved, began, carries, desert.position.copy(), said))
    names = ("moved", "began", "carries", "position", "said")
    seen = {k: np.stack(v, axis=1) for k, v in zip(names, zip(*seen, strict=True), strict=True)}
    return seen, desert.ends


def by_steps(model: keras.Model, seen: dict[str, np.ndarray]) -> np.ndarray:
    """Return what `layer.step` says, where the states are handed from call to call."""
    layer, head, states, found = model.get_layer("memory"), model.get_layer("home"), None, []
    for t in range(LIVE):
        h, states = layer.step(seen["moved"][:, t], states, resets=seen["began"][:, t])
        found.append(SCALE * _show.array(head(h)))
    return np.stack(found, axis=1)


def main() -> int:
    """Train all ways, let them act, compare, draw; return the exit code."""
    train, test = walks(1, WINDOW * WINDOWS), walks(2, 10 * WINDOW)
    rows, seen = [], {}
    with _show.progress() as bars:
        for way in WAYS:
            model, curves = trained(bars, way, train)
            error = np.linalg.norm(told(model, test) - test["home"], axis=-1)
            seen[way], ends = live(model, way, seed=3)
            sought = ends["home"] + ends["given up"]
            row = {"way": way, **curves, "error": error.mean(), "errors": error, "sought": sought}
            rows.append({**row, "home": ends["home"] / sought})
            if way == "resets":
                said = seen[way]["said"]
                apart = {
                    "layer.step": np.abs(by_steps(model, seen[way]) - said).max() / SCALE,
                    "windows": np.abs(told(model, seen[way]) - said).max() / SCALE,
                }
    here = np.linalg.norm(test["home"], axis=-1)
    _show.table(
        f"The way home, {test['began'].sum():,} new walks of {here.size:,} steps",
        {
            "told where a walk begins by": "{way}",
            "error, in steps": "{error:.2f}",
            "walks with food, live": "{sought:,}",
            "of these, came home": "{home:.3f}",
            "seconds": "{seconds:.1f}",
        },
        [{"way": "says that home is here", "error": here.mean()}, *rows],
        caption=f"An ant is home within {NEAR:g} step of its nest; gusts end the other walks.",
    )
    draw(rows, seen, test)

    resets, without = rows[:2]
    claims = {
        f"off by {resets['error']:.2f} steps with resets, {without['error']:.2f} without": (
            resets["error"] < without["error"] / 3
        ),
        f"with resets {resets['home']:.3f} of the ants with food come home, "
        f"{without['home']:.3f} without": resets["home"] > 0.9 and without["home"] < 0.75,
        f"a live stream differs by {apart['layer.step']:.1e} from layer.step and by "
        f"{apart['windows']:.1e} from windows": max(apart.values()) < 1e-5,
    }
    return _show.verdict(claims)


def draw(rows: list[dict], seen: dict, test: dict[str, np.ndarray]) -> None:
    """Draw walks with and without resets, the error along a stream, and the training."""
    title = "Ants that keep the sum of their steps"
    with _show.figure(options.plot, title, 2, 2, figsize=(11, 9)) as axes:
        for axis, way in zip(axes[0], ("resets", "no resets"), strict=True):
            draw_walks(axis, seen[way], WAYS[way])
            axis.set(title=f"Ways home of 12 ants, {way}", xlim=(-20, 20), ylim=(-15, 15))
            axis.set(xlabel="steps east of the nest", ylabel="steps north")
        axes[0, 0].legend(frameon=False, loc="upper left", fontsize=9)
        ant = rows[1]["errors"].mean(axis=1).argsort()[ANTS // 2]
        for step in np.flatnonzero(test["began"][ant]):
            axes[1, 0].axvline(step, color=_show.GREY, lw=0.8, ls=":")
        for row in rows:
            style = {"color": WAYS[row["way"]], "label": row["way"]}
            axes[1, 0].plot(row["errors"][ant], **style)
            epochs = np.arange(1, EPOCHS + 1)
            axes[1, 1].semilogy(epochs, SCALE * np.sqrt(2 * np.array(row["loss"])), **style)
        axes[1, 0].set(title="One ant: dotted where a walk begins", xlabel="step of the stream")
        axes[1, 0].set(ylabel="error, in steps")
        axes[1, 1].set(title="Training", xlabel="epoch", ylabel="root mean square error, in steps")
        axes[1, 1].set(xticks=epochs[:: 1 if options.quick else 3])
        axes[1, 1].set_yticks((0.3, 0.5, 1, 2, 4, 8), ("0.3", "0.5", "1", "2", "4", "8"))
        axes[1, 1].minorticks_off()
        axes[1, 1].legend(frameon=False)


def draw_walks(axis, seen: dict[str, np.ndarray], color: str) -> None:
    """Draw one walk of each of the first ants: wandering in grey, with food in colour."""
    shown = 0
    for ant in range(ANTS):
        starts = np.append(np.flatnonzero(seen["began"][ant]), LIVE)
        # Late in the stream, where many walks were before; with food, and not cut short by its end.
        for start, end in zip(starts[:-1], starts[1:], strict=True):
            carries = seen["carries"][ant, start:end]
            if start < LIVE // 2 or end == LIVE or carries.sum() < 6:
                continue
            x, y = np.pad(seen["position"][ant, start:end], ((1, 0), (0, 0))).T
            food = int(carries.argmax())
            names = ("_", "_") if shown else ("wanders", "goes home")
            axis.plot(x[: food + 1], y[: food + 1], color=_show.GREY, lw=0.7, label=names[0])
            axis.plot(x[food:], y[food:], color=color, lw=1.6, label=names[1])
            axis.plot(x[-1], y[-1], "o", color=color, ms=4)
            shown += 1
            break
        if shown == 12:
            break
    axis.plot(0, 0, "*", color=_show.COLORS[4], ms=14, label="nest", zorder=3)
    axis.set_aspect("equal")


if __name__ == "__main__":
    sys.exit(main())
