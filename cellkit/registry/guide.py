"""Advice when to use a cell: its family, one sentence, and tags out of a closed vocabulary."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

from cellkit.errors import problem
from cellkit.registry.names import did_you_mean, is_text, listed

__all__ = ["FAMILIES", "TAGS", "Guide", "check_family", "check_tag"]

FAMILIES: Mapping[str, str] = {
    "plain": "one state that is carried on without gates, or with fixed ones",
    "gru": "one state, and gates that choose how much of it is renewed",
    "lstm": "a memory that gates write and erase, beside the output that is read from it",
    "linear": "linear in a state of numbers, so that all steps can be computed at once",
    "linear attention": "linear in a state that is a matrix of keys and values",
    "memory": "a compressed history of the inputs, kept by fixed or structured equations",
    "continuous": "differential equations, or states that change in the time between steps",
    "oscillator": "coupled oscillators and other systems whose gradients have known bounds",
    "spiking": "neurons that add up their inputs and fire",
    "convolution": "states with axes in space, and convolutions for products of matrices",
    "reservoir": "random fixed recurrent weights, of which only what reads them is trained",
    "several inputs": "a structure of inputs at each step, each with a part of its own",
    "wrapper": "cells made of other cells",
}
"""The families, in the order in which they are listed; others have the form ``"kind:detail"``."""

TAGS: Mapping[str, str] = {
    "baseline": "a usual first choice, to compare others with",
    "tiny": "few weights or operations for its number of units",
    "parallel": "all steps can be computed at once, because the recurrence is linear",
    "long memory": "made for dependencies over hundreds of steps and more",
    "time scales": "parts of the state change at speeds of their own",
    "irregular time": "takes the time between steps, or the time itself, as an input",
    "missing values": "takes which values were observed, and fills in the others",
    "images": "inputs and states have axes in space",
    "several inputs": "takes a structure of inputs at each step",
    "spiking": "communicates by spikes",
    "associative recall": "a matrix state that holds values under keys",
    "normalised": "normalises inside the step, which keeps magnitudes in bounds",
    "regularised": "a regulariser that the paper made part of the cell",
    "stable": "its equations bound how fast states or gradients grow",
    "interpretable": "parts of the state mean something that can be read off",
    "hierarchy": "made for sequences with nested parts, such as sentences of phrases",
    "static inputs": "takes inputs that are the same at every step, apart from the others",
    "conservation": "keeps a sum, such as a mass or a budget, over the steps",
    "language": "made for text, or proved on it in its paper",
    "speech": "made for speech, or proved on it in its paper",
    "reinforcement learning": "made for agents that see a part of the world at each step",
    "untrained": "its recurrent weights are drawn once and never trained",
    "depth": "several layers of computation inside one step",
    "wraps cells": "is made of cells that are passed to it",
}
"""Uses and peculiarities of a cell; further tags have the form ``"kind:detail"``."""

_OF_ONES_OWN = r"\w[\w.-]*:\S.*"


def title(family: str) -> str:
    """Return the name of a family as a heading has it."""
    return family.upper() if family in ("gru", "lstm") else family[:1].upper() + family[1:]


def sentence(text: str) -> str:
    """Return a remark as a sentence: names of packages and weights keep their small letter.

    Args:
        text: The remark, such as a departure of a spec.
    """
    first = text.partition(" ")[0]
    plain = first.rstrip(",") in ("a", "an", "biases", "inputs", "no", "one", "the")
    return f"{text[0].upper() if plain else text[0]}{text[1:].rstrip('.')}."


def check_family(family: object) -> str:
    """Return `family`, or raise when it is neither known nor of the form ``"kind:detail"``."""
    return _known(family, FAMILIES, "family", "families")


def check_tag(tag: object) -> str:
    """Return `tag`, or raise when it is neither known nor of the form ``"kind:detail"``."""
    return _known(tag, TAGS, "tag", "tags")


def _known(name: object, known: Mapping[str, str], kind: str, kinds: str) -> str:
    """Return a name of a vocabulary; a hyphen or an underscore may stand for a space."""
    if isinstance(name, str):
        plain = re.sub(r"[\s_-]+", " ", name.strip().lower())
        if plain in known:
            return plain
        if re.fullmatch(_OF_ONES_OWN, name):
            return name
    raise problem(
        f"A {kind} is not known.",
        received=repr(name),
        expected=f"one of {listed(known)}, or 'kind:detail' for one of your own",
        fix=(did_you_mean(name, known) if isinstance(name, str) else "")
        + f"take one of the known {kinds}; write one of your own with a colon, such as "
        "'my_lab:seismic'",
    )


@dataclasses.dataclass(frozen=True)
class Guide:
    """Advice when to use a cell, for people who look for one.

    Args:
        family: The kind of its equations, out of `FAMILIES`, or your own: ``"my_lab:quantum"``.
        use_when: One sentence that begins with "Use it when " and ends with a full stop.
        tags: Its uses and peculiarities, out of `TAGS`, or of the form ``"kind:detail"``.
            They are kept in the order of `TAGS`.

    Example:
    >>> guide = Guide(
    ...     "gru",
    ...     "Use it when values are missing and the gaps tell something.",
    ...     ("missing values", "irregular time"),
    ... )
    >>> guide.tags
    ('irregular time', 'missing values')
    """

    family: str
    use_when: str
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the three fields.

        Raises:
            ValueError: When the family or a tag is not known, or when the sentence is none.
        """
        object.__setattr__(self, "family", check_family(self.family))
        sentence = self.use_when
        if not is_text(sentence) or not re.fullmatch(r"Use it when \S.*[^.\s]\.", sentence):
            raise problem(
                "The sentence of a guide does not say when to use a cell.",
                received=f"use_when={sentence!r}",
                expected="one line that begins with 'Use it when ' and ends with a full stop",
                fix="write for example use_when='Use it when memory is short and steps are few.'",
            )
        if is_text(self.tags) or not isinstance(self.tags, Iterable):
            raise problem(
                "The tags of a guide must be a collection of texts.",
                received=f"tags={self.tags!r}",
                expected="a tuple of tags, which may be empty",
                fix="write tags=('long memory',)",
            )
        tags = list(dict.fromkeys(map(check_tag, self.tags)))
        order = {tag: place for place, tag in enumerate(TAGS)}
        tags.sort(key=lambda tag: order.get(tag, len(order)))
        object.__setattr__(self, "tags", tuple(tags))
