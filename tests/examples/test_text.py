"""Texts as ids: words, padding, splits, and the baseline that counts words."""

import _data
import _text
import keras
import numpy as np
import pytest

pytestmark = pytest.mark.one_backend


def corpus(train, test, classes=2):
    parts = [(np.array(ids, "int32"), np.array(labels, "int32")) for ids, labels in (train, test)]
    return _text.Corpus("texts", 6, tuple(map(str, range(classes))), *parts)


def test_vocabulary_comes_from_the_training_texts_alone(monkeypatch):
    texts = {
        "train": (["Good, good film!", "a BAD film", "good"], np.array([1, 0, 1])),
        "test": (["unseen good unseen", "it's bad"], np.array([1, 0])),
    }
    monkeypatch.setattr(_data, "load", lambda name, split: texts[split])
    monkeypatch.setattr(_data, "class_names", lambda name: ("bad", "good"))
    found = _text._tokenised("reviews", "texts", 4, 3, 10)
    ids, labels = found.test
    # good and film are the most frequent: ids 2 and 3; the rest is unknown, 0 is padding.
    assert ids.tolist() == [[1, 2, 1], [1, 1, 0]]
    assert labels.tolist() == [1, 0]
    rows = {tuple(row) for row in found.train[0].tolist()}
    assert rows == {(2, 2, 3), (1, 1, 3), (2, 0, 0)}
    for row, label in zip(found.train[0].tolist(), found.train[1], strict=True):
        assert label == (2 in row)


def test_counting_words_is_naive_bayes():
    found = corpus(
        ([[2, 2, 0], [2, 3, 0], [4, 4, 4], [4, 3, 0]], [0, 0, 1, 1]),
        ([[2, 2, 3], [4, 0, 0], [2, 4, 4]], [0, 1, 0]),
    )
    # Counts with one added: class 0 has word 2 four times in ten, class 1 five times in eleven.
    assert found.counted == pytest.approx(2 / 3)
    assert found.majority == pytest.approx(2 / 3)


def test_generated_reviews_can_be_told_by_their_verdict():
    found = _text.sentiment("generated", 0, 25, 300)
    for ids, labels in (found.train, found.test):
        assert ids.shape == (300, 25)
        assert ids.max() < found.words
        for row, label in zip(ids, labels, strict=True):
            (place,) = np.flatnonzero((row >= 2) & (row < 18))
            good = row[place] < 10
            assert label == (good != (row[place - 1] == 18))
    assert 0.4 < found.train[1].mean() < 0.6
    assert 0.6 < found.counted < 0.85
    assert not np.array_equal(found.train[0], found.test[0])


def test_generated_newswires_are_the_same_every_time():
    first, second = (_text.topics("generated", 0, 40, 200) for _ in range(2))
    assert np.array_equal(first.train[0], second.train[0])
    assert first.counted > first.majority + 0.3


def test_classic_texts_are_used_where_keras_has_them(monkeypatch):
    def load_data(num_words, oov_char):
        assert (num_words, oov_char) == (50, _text.UNKNOWN)
        return (([[5, 6, 7, 8], [9]], [1, 0]), ([[5, 6]], [1]))

    monkeypatch.setattr(keras.datasets.imdb, "load_data", load_data)
    monkeypatch.setattr(keras.datasets.reuters, "load_data", load_data)
    # A review keeps its end, a newswire its beginning.
    assert _text.sentiment(None, 50, 3, 10).train[0].tolist() == [[6, 7, 8], [9, 0, 0]]
    found = _text.topics("reuters", 50, 3, 10)
    assert found.train[0].tolist() == [[5, 6, 7], [9, 0, 0]]
    assert len(found.classes) == 46


def test_without_classic_texts_the_others_stand_in_and_it_is_said(monkeypatch, capsys):
    def load_data(**_):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.datasets.imdb, "load_data", load_data)
    monkeypatch.setattr(_data, "load", lambda name, split: ([f"{name} {split}"], np.array([0])))
    assert _text.sentiment(None, 50, 3, 10).name == "sentences of reviews"
    assert "URL fetch failure" in capsys.readouterr().out
    with pytest.raises(Exception, match="URL fetch failure"):
        _text.sentiment("imdb", 50, 3, 10)
