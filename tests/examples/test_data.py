"""The data of the examples: what is in it, and what its loader does with bad input."""

import hashlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from three_parts import raised

EXAMPLES = Path(__file__).parents[2] / "examples"


def module(path):
    """Import a script of the examples, which are no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = found
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def data():
    """The loader, fresh: nothing checked or printed yet."""
    return module(EXAMPLES / "_data.py")


@pytest.mark.parametrize("split", ["train", "test"])
def test_basic_motions_has_the_documented_arrays(data, split):
    inputs, labels = data.load("basic_motions", split)
    assert list(inputs) == ["acc", "gyro"]
    for values in inputs.values():
        assert values.shape == (40, 100, 3)
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
    assert labels.dtype == np.int32
    assert np.bincount(labels).tolist() == [10, 10, 10, 10]
    assert data.class_names("basic_motions") == ("Standing", "Running", "Walking", "Badminton")


def test_basic_motions_holds_the_first_values_of_the_original_files(data):
    # BasicMotions_TRAIN.ts, first recording: the first steps of channels 0 (acc x) and 1 (acc y).
    inputs, labels = data.load("basic_motions", "train")
    assert np.allclose(inputs["acc"][0, :4, 0], [0.079106, 0.079106, -0.903497, 1.116125])
    assert np.allclose(inputs["acc"][0, :4, 1], [0.394032, 0.394032, -3.666397, -0.656101])
    assert labels[0] == 0


@pytest.mark.parametrize(("split", "images"), [("train", 1200), ("test", 597)])
def test_digits_have_the_documented_arrays(data, split, images):
    inputs, labels = data.load("digits", split)
    assert inputs.shape == (images, 8, 8)
    assert inputs.dtype == np.float32
    assert (inputs.min(), inputs.max()) == (0, 1)
    assert labels.dtype == np.int32
    assert len(np.bincount(labels)) == len(data.class_names("digits")) == 10
    assert np.bincount(labels).min() >= images // 11


def test_digits_hold_the_first_values_of_the_original_file(data):
    inputs, labels = data.load("digits", "train")
    assert (inputs[0, 0] * 16).tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert (inputs[0, 1] * 16).tolist() == [0, 0, 13, 15, 10, 15, 5, 0]
    assert labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


@pytest.mark.parametrize(("split", "utterances"), [("train", 270), ("test", 370)])
def test_japanese_vowels_have_the_documented_arrays(data, split, utterances):
    inputs, labels = data.load("japanese_vowels", split)
    values, lengths = inputs["values"], inputs["lengths"]
    assert values.shape == (utterances, 29, 12)
    assert values.dtype == np.float32
    assert lengths.dtype == labels.dtype == np.int32
    assert 7 <= lengths.min() <= lengths.max() <= 29
    used = np.arange(29) < lengths[:, None]
    assert values[used].all(axis=-1).mean() > 0.99
    assert not values[~used].any()
    counts = np.bincount(labels)
    assert len(counts) == len(data.class_names("japanese_vowels")) == 9
    assert (counts.min(), counts.max()) == ((30, 30) if split == "train" else (24, 88))


def test_japanese_vowels_hold_the_first_values_of_the_original_file(data):
    # JapaneseVowels_TRAIN.ts, first utterance: 20 steps of coefficients 0 and 1.
    inputs, labels = data.load("japanese_vowels", "train")
    assert np.allclose(inputs["values"][0, :3, 0], [1.860936, 1.891651, 1.939205])
    assert np.allclose(inputs["values"][0, 18:20, 1], [-0.612291, -0.63835])
    assert inputs["lengths"][0] == 20
    assert labels[0] == 0


def test_activities_look_as_they_should(data):
    # Standing moves least and running most, on both sensors: labels and recordings belong together.
    inputs, labels = data.load("basic_motions", "train")
    for values in inputs.values():
        spread = [values[labels == k].std(axis=1).mean() for k in range(4)]
        assert np.argmin(spread) == 0
    acc = [inputs["acc"][labels == k].std(axis=1).mean() for k in range(4)]
    assert np.argmax(acc) == 1


def test_train_and_test_do_not_share_recordings(data):
    seen = [
        {recording.tobytes() for recording in data.load("basic_motions", split)[0]["acc"]}
        for split in ("train", "test")
    ]
    assert len(seen[0]) == len(seen[1]) == 40
    assert not seen[0] & seen[1]


def test_loading_twice_gives_arrays_of_its_own(data):
    first, labels = data.load("basic_motions", "train")
    first["acc"][:] = 0
    labels[:] = 0
    second, again = data.load("basic_motions", "train")
    assert second["acc"].any()
    assert again.any()


def test_source_is_printed_once(data, capsys):
    data.load("basic_motions", "train")
    data.load("basic_motions", "test")
    text = capsys.readouterr().out
    assert text.count("BasicMotions") == 1
    assert "LICENSES.md" in text


def test_unknown_set(data):
    what, received, expected, fix = raised(data.load, "basic_motion", "train")
    assert "'basic_motion'" in received
    assert "'basic_motions'" in expected


def test_unknown_split(data):
    what, received, expected, fix = raised(data.load, "basic_motions", "valid")
    assert "'valid'" in received
    assert expected == "'train' or 'test'"


def test_missing_file(data, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "DIRECTORY", tmp_path)
    what, received, expected, fix = raised(data.load, "basic_motions", "train")
    assert str(tmp_path) in received
    assert "make_basic_motions.py" in fix


def test_changed_file(data, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "DIRECTORY", tmp_path)
    changed = (EXAMPLES / "data" / "basic_motions.npz").read_bytes() + b"\0"
    (tmp_path / "basic_motions.npz").write_bytes(changed)
    what, received, expected, fix = raised(data.load, "basic_motions", "train")
    assert hashlib.sha256(changed).hexdigest() in received
    assert data.DATASETS["basic_motions"].sha256 in expected


def test_every_set_has_its_terms_and_the_script_that_made_it(data):
    terms = (EXAMPLES / "data" / "LICENSES.md").read_text()
    for name, dataset in data.DATASETS.items():
        assert f"## {dataset.file}" in terms
        assert (EXAMPLES / "data" / f"make_{name}.py").is_file()


def test_ts_reader_reads_channels_steps_and_labels():
    make = module(EXAMPLES / "data" / "make_basic_motions.py")
    text = "#c\n@problemName P\n@data\n1,2,3:4,5,6:Walking\n\n-1,0.5,0:7,8,9:Running\n"
    values, labels = make.read_ts(text)
    assert labels == ["Walking", "Running"]
    assert values.tolist() == [[[1, 4], [2, 5], [3, 6]], [[-1, 7], [0.5, 8], [0, 9]]]


def test_a_wheel_with_other_files_is_refused(tmp_path):
    import zipfile

    make = module(EXAMPLES / "data" / "make_basic_motions.py")
    wheel = tmp_path / "aeon.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for member, _ in make.MEMBERS.values():
            archive.writestr(member, "@data\n1:2:Walking\n")
    what, received, expected, fix = raised(make.build, wheel)
    assert "BasicMotions_TRAIN.ts" in what
    assert make.DISTRIBUTION in expected
