"""Texts as numbers: which texts there are, words to ids, and what counting words can do.

    corpus = sentiment(None, words=5000, steps=40, texts=6000)

The classic sets come through `keras.datasets`, when it has them or can download them. Else the ones
of `_data.py` stand in: sentences of movie reviews for IMDB, the eight largest topics for Reuters.
The generated texts need no network at all. Imports Keras when it is called.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Sequence

import _data
import numpy as np

UNKNOWN = 1  # the id of a word outside the vocabulary; 0 is the padding, which is masked


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Texts as ids of words.

    Args:
        name: Name of the texts.
        words: Size of the vocabulary, padding and unknown words included.
        classes: Names of the classes.
        train: Ids `(texts, steps)`, padded with zeros at the end, and labels; both int32.
        test: The same, of texts that nothing was taken from.
    """

    name: str
    words: int
    classes: tuple[str, ...]
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    @property
    def majority(self) -> float:
        """Share of the largest class among the test texts: what guessing gets."""
        return float(np.bincount(self.test[1]).max() / len(self.test[1]))

    @functools.cached_property
    def counted(self) -> float:
        """Test accuracy of counting words."""
        return naive_bayes(self)


def sentiment(data: str | None, words: int, steps: int, texts: int) -> Corpus:
    """Return reviews with labels 0 (bad) and 1 (good).

    Args:
        data: `"imdb"`, `"reviews"` or `"generated"`; None: the first that is to be had.
        words: Size of the vocabulary.
        steps: Longest text, in words.
        texts: Largest number of texts per split.
    """
    if data in (None, "imdb") and (found := _classic("imdb", words, data is None)):
        # The verdict of a review stands at its end.
        parts = [([x[-steps:] for x in ids[:texts]], y[:texts]) for ids, y in found]
        return _corpus("IMDB reviews", words, ("bad", "good"), steps, *parts)
    if data == "generated":
        parts = [_generated_reviews(k, min(texts, 2000), steps) for k in (0, 1)]
        return _corpus("generated reviews", 60, ("bad", "good"), steps, *parts)
    return _tokenised("reviews", "sentences of reviews", words, steps, texts)


def topics(data: str | None, words: int, steps: int, texts: int) -> Corpus:
    """Return newswires with their topics; arguments as for `sentiment`, data `"reuters"`, ..."""
    if data in (None, "reuters") and (found := _classic("reuters", words, data is None)):
        parts = [([x[:steps] for x in ids[:texts]], y[:texts]) for ids, y in found]
        names = tuple(f"topic {k}" for k in range(46))
        return _corpus("Reuters newswires", words, names, steps, *parts)
    if data == "generated":
        parts = [_generated_wires(k, min(texts, 2000), steps) for k in (0, 1)]
        return _corpus("generated newswires", 202, tuple("ABCDEFGH"), steps, *parts)
    return _tokenised("topics", "newswires", words, steps, texts)


def naive_bayes(corpus: Corpus) -> float:
    """Return the test accuracy of counting words: multinomial naive Bayes."""

    def counts(ids: np.ndarray) -> np.ndarray:
        flat = np.arange(len(ids))[:, None] * corpus.words + ids
        size = len(ids) * corpus.words
        found = np.bincount(flat.ravel(), minlength=size).reshape(len(ids), corpus.words)
        found[:, 0] = 0  # padding
        return found

    (ids, labels), (test, answers) = corpus.train, corpus.test
    classes = np.eye(len(corpus.classes))[labels]
    per_word = classes.T @ counts(ids) + 1
    logarithms = np.log(per_word / per_word.sum(axis=1, keepdims=True))
    scores = counts(test) @ logarithms.T + np.log(classes.mean(axis=0) + 1e-9)
    return float((scores.argmax(axis=1) == answers).mean())


# --- classic and packaged texts ------------------------------------------------------------------


def _classic(name: str, words: int, optional: bool):
    return _data.classic(name, optional, num_words=words, oov_char=UNKNOWN)


def _tokenised(name: str, shown: str, words: int, steps: int, texts: int) -> Corpus:
    """Encode a set of texts with the most frequent words of its training split."""
    train, test = (_data.load(name, split) for split in ("train", "test"))
    order = np.random.default_rng(7).permutation(len(train[0]))[:texts]
    train = [train[0][k] for k in order], train[1][order]
    test = test[0][:texts], test[1][:texts]
    frequent = collections.Counter(word for text in train[0] for word in _split(text))
    vocabulary = {word: k for k, (word, _) in enumerate(frequent.most_common(words - 2), 2)}
    parts = [
        ([[vocabulary.get(word, UNKNOWN) for word in _split(text)] for text in part], labels)
        for part, labels in (train, test)
    ]
    return _corpus(shown, words, _data.class_names(name), steps, *parts)


def _split(text: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "'" else " " for c in text.lower()).split()


def _corpus(name: str, words: int, classes: tuple[str, ...], steps: int, *parts) -> Corpus:
    train, test = ((_padded(ids, steps), np.asarray(y, "int32")) for ids, y in parts)
    return Corpus(name, words, classes, train, test)


def _padded(texts: Sequence[Sequence[int]], steps: int) -> np.ndarray:
    ids = np.zeros((len(texts), steps), "int32")
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text[:steps]
    return ids


# --- generated texts -----------------------------------------------------------------------------


def _generated_reviews(seed: int, texts: int, steps: int) -> tuple[list[list[int]], list[int]]:
    """Make reviews out of 58 words.

    Words 2 to 9 praise, 10 to 17 blame, 18 is "not", which turns the word after it, and the others
    say nothing. Each has one verdict, and one in four of those is turned, so counting words tells
    three in four.
    """
    random = np.random.default_rng(seed)
    found, labels = [], []
    for _ in range(texts):
        text = random.integers(19, 60, random.integers(steps // 2, steps + 1)).tolist()
        good, turned = random.integers(2), random.random() < 0.25
        verdict = int(random.integers(2, 10) + 8 * (bool(good) == turned))
        place = int(random.integers(len(text) - 1))
        text[place : place + 2] = [18 if turned else 19, verdict]
        found.append(text)
        labels.append(int(good))
    return found, labels


def _generated_wires(seed: int, texts: int, steps: int) -> tuple[list[list[int]], list[int]]:
    """Make texts of eight topics, each with a distribution over 200 words of its own."""
    topics = np.random.default_rng(3).dirichlet(np.full(200, 0.3), size=8)
    random = np.random.default_rng(seed)
    labels = random.choice(8, size=texts, p=np.arange(8, 0, -1) / 36)
    lengths = random.integers(steps // 3, steps + 1, size=texts)
    # Half of the words are those of any text.
    mixed = (topics + topics.mean(axis=0)) / 2
    found = [
        (2 + random.choice(200, size=n, p=mixed[k])).tolist()
        for k, n in zip(labels, lengths, strict=True)
    ]
    return found, labels.tolist()
