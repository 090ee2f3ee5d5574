"""Handwriting from a seeded generator: how a pen moves, and how hard it presses. Imports no Keras.

    strokes = write(seed=1, digits=100)

Each digit is a curve through a few points, drawn with a slant, size and speed of its own. The pen
is quick where the curve is straight and slow in its bends, where it presses harder; it comes down
and goes up softly, and between two strokes it moves without touching the paper.
"""

from __future__ import annotations

import dataclasses

import numpy as np

STEPS = 60  # of the longest digit

# Points on a square of side one, y upwards. A digit of two strokes lifts the pen in between.
SHAPES = {
    "0": [[(0.5, 1), (0.1, 0.7), (0.1, 0.3), (0.5, 0), (0.9, 0.3), (0.9, 0.7), (0.5, 1)]],
    "1": [[(0.3, 0.75), (0.55, 1), (0.55, 0.5), (0.55, 0)]],
    "2": [[(0.15, 0.75), (0.5, 1), (0.85, 0.75), (0.5, 0.35), (0.1, 0), (0.5, 0.05), (0.9, 0)]],
    "3": [[(0.2, 0.9), (0.7, 0.95), (0.5, 0.55), (0.85, 0.3), (0.5, 0), (0.15, 0.1)]],
    "4": [[(0.4, 1), (0.1, 0.4), (0.5, 0.35), (0.9, 0.4)], [(0.65, 0.7), (0.6, 0.35), (0.6, 0)]],
    "5": [[(0.25, 1), (0.2, 0.55), (0.8, 0.5), (0.75, 0.1), (0.15, 0.05)], [(0.25, 1), (0.8, 1)]],
    "6": [[(0.75, 1), (0.25, 0.6), (0.15, 0.2), (0.5, 0), (0.8, 0.25), (0.5, 0.45), (0.2, 0.3)]],
    "7": [[(0.1, 1), (0.5, 0.97), (0.9, 1), (0.6, 0.5), (0.4, 0)]],
    "8": [[(0.5, 0.5), (0.15, 0.8), (0.5, 1), (0.85, 0.8), (0.5, 0.5), (0.15, 0.2), (0.5, 0)]],
    "9": [[(0.8, 0.75), (0.45, 1), (0.2, 0.7), (0.5, 0.5), (0.8, 0.8), (0.8, 0.4), (0.6, 0)]],
}


@dataclasses.dataclass(frozen=True)
class Writing:
    """Digits as a pen writes them.

    Args:
        xy: Movement of the pen per step, `(digits, STEPS, 2)` float32; zero after the end.
        pressure: From 0 (in the air) to 1, `(digits, STEPS, 1)` float32.
        lengths: Number of steps of each digit, int32.
        labels: Digits, int32.
    """

    xy: np.ndarray
    pressure: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


def write(seed: int, digits: int) -> Writing:
    """Return that many digits, the same for the same seed."""
    random = np.random.default_rng(seed)
    labels = random.integers(10, size=digits)
    xy = np.zeros((digits, STEPS, 2), "float32")
    pressure = np.zeros((digits, STEPS, 1), "float32")
    lengths = np.zeros(digits, "int32")
    for k, label in enumerate(labels):
        points, pressed = _written(SHAPES[str(label)], random)
        lengths[k] = n = min(len(points) - 1, STEPS)
        xy[k, :n] = np.diff(points, axis=0)[:n]
        pressure[k, :n, 0] = pressed[1 : n + 1]
    return Writing(xy, pressure, lengths, labels.astype("int32"))


def _written(strokes: list, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return where the pen is at each step, and how hard it presses."""
    slant, width, height = random.normal(0.1, 0.15), *random.uniform(0.8, 1.2, 2)
    weight, pace = random.uniform(0.5, 0.9), random.uniform(0.055, 0.085)
    turn = np.array([[width, 0], [slant, height]])
    points, pressed = [], []
    for number, stroke in enumerate(strokes):
        corners = (np.array(stroke) + random.normal(0, 0.02, (len(stroke), 2))) @ turn
        if number:  # through the air to the next stroke
            air = np.linspace(points[-1][-1], corners[0], 6)[1:-1]
            points.append(air)
            pressed.append(np.zeros(len(air)))
        curve, bend = _even(corners, pace)
        ends = np.minimum(np.arange(len(curve)), np.arange(len(curve))[::-1])
        soft = 1 - np.exp(-(ends + 1) / 1.5)
        points.append(curve)
        pressed.append(np.clip(weight * soft * (0.8 + 0.6 * bend), 0, 1))
    return np.concatenate(points), np.concatenate(pressed)


def _even(corners: np.ndarray, pace: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a smooth curve through the corners, slower where it bends, and how much it bends."""
    padded = np.concatenate([corners[:1], corners, corners[-1:]])
    t = np.linspace(0, 1, 40, endpoint=False)[:, None]
    pieces = [
        # Catmull and Rom: through b and c, in the direction from a to c and from b to d.
        b
        + t * (c - a) / 2
        + t**2 * (a - 2.5 * b + 2 * c - d / 2)
        + t**3 * (3 * (b - c) + d - a) / 2
        for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False)
    ]
    fine = np.concatenate([*pieces, corners[-1:]])
    moves = np.diff(fine, axis=0)
    angles = np.unwrap(np.arctan2(moves[:, 1], moves[:, 0]))
    bend = np.abs(np.gradient(angles))
    bend = np.convolve(bend / (bend.max() + 1e-9), np.ones(15) / 15, mode="same")
    time = np.cumsum(np.linalg.norm(moves, axis=1) * (0.7 + 1.5 * bend) / pace)
    steps = np.arange(0, time[-1])
    places = np.searchsorted(time, steps)
    return fine[places], bend[places]
