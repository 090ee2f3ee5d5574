"""A desert in which ants look for food and go home: an environment of our own. Imports no Keras.

    desert = Desert(ants=8, seed=1)
    moved, began = desert.step(moves)      # one step of all ants

A desert ant finds home by dead reckoning: it feels every step that it makes, sees nothing of where
it is, and keeps the sum. An episode is one walk. It begins at a nest; the ant wanders about, finds
food at some moment, and from then on goes where it is told to, until it is home, or gives up after
twice as many steps as the straight way takes. One walk in three has no end like that: a gust
carries the ant off to another nest, which it doesn't feel. So nothing that an ant feels says that a
new walk has begun.
"""

from __future__ import annotations

import numpy as np

NEAR = 1.0  # how near to the nest an ant sees it
FOOD, GUST = 1 / 15, 1 / 40  # how probable they are in a step of an ant that wanders
SOON = 5  # steps before there is any food


class Desert:
    """Ants side by side, each on a walk of its own; when one ends, the next begins.

    Args:
        ants: How many there are.
        seed: Of all that is drawn; the same walks for the same seed and the same moves.
    """

    def __init__(self, ants: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.heading = self.random.uniform(-np.pi, np.pi, ants)
        self.position = np.zeros((ants, 2))  # as seen from the nest
        self.steps = np.zeros(ants, int)  # of this walk
        self.patience = np.zeros(ants, int)  # steps until an ant with food gives up
        self.carries = np.zeros(ants, bool)
        self.ended = np.ones(ants, bool)  # a walk begins with the next step
        self.ends = {"home": 0, "given up": 0, "carried off": 0}

    @property
    def home(self) -> np.ndarray:
        """The way home of every ant, `(ants, 2)`: what an ant doesn't see."""
        return -self.position

    def step(self, moves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Let every ant make a step.

        Args:
            moves: Where ants with food go, `(ants, 2)`, cut to a length of 1; the others wander.

        Returns:
            What each ant feels of its step, `(ants, 2)` float32, and whether a walk begins with it,
            `(ants,)` bool.
        """
        random, ants = self.random, len(self.heading)
        began = self.ended
        self.position[began], self.carries[began] = 0, False
        self.steps[began] = 0
        self.heading += random.normal(0, 0.35, ants)
        ahead = np.stack([np.cos(self.heading), np.sin(self.heading)], axis=1)
        wandered = random.uniform(0.4, 1, (ants, 1)) * ahead
        told = moves / np.maximum(1, np.linalg.norm(moves, axis=1, keepdims=True))
        moved = np.where(self.carries[:, None], told, wandered)
        self.heading = np.where(self.carries, np.arctan2(*moved.T[::-1]), self.heading)
        self.position = self.position + moved
        self.steps += 1
        self.patience -= self.carries
        distance = np.linalg.norm(self.position, axis=1)
        home = self.carries & (distance < NEAR)
        late = self.carries & ~home & (self.patience == 0)
        blown = ~self.carries & (random.random(ants) < GUST)
        for how, rows in zip(self.ends, (home, late, blown), strict=True):
            self.ends[how] += int(rows.sum())
        self.ended = home | late | blown
        found = ~self.carries & (self.steps >= SOON) & (random.random(ants) < FOOD)
        self.patience = np.where(found, np.ceil(2 * distance).astype(int) + 1, self.patience)
        self.carries = (self.carries | found) & ~self.ended
        return moved.astype("float32"), began
