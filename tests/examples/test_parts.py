"""Parts of the examples: windows, folds, streams, pens, ants, dates, tables."""

import datetime
import importlib.util
import sys
from pathlib import Path

import _dates
import _desert
import _pen
import _show
import keras
import numpy as np
import pytest

pytestmark = pytest.mark.one_backend

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    """Import an example as its own command line would, without running it."""

    def load(name):
        monkeypatch.setattr(sys, "argv", [name, "--quick", "--backend", keras.backend.backend()])
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
        return found

    return load


def test_a_window_ends_before_what_it_foretells(example):
    temperature = example("temperature")
    windows = temperature.Windows("validation")
    values, degrees = temperature.features("validation")
    assert len(windows) == -(-len(windows.now) // temperature.BATCH)
    x, y = windows[1]
    assert x.shape == (temperature.BATCH, 40, 10)
    now = temperature.BATCH + 119  # of the first window of the second batch
    assert np.array_equal(x[0], values[now - 117 : now + 1 : 3])
    assert y[0, 0] == degrees[now + 24] - degrees[now]
    # The first window begins in this part of the year, the last one foretells its last hour.
    assert windows.now[0] - 117 >= 0
    assert windows.now[-1] + 24 == len(degrees) - 1
    assert sum(len(windows[k][1]) for k in range(len(windows))) == len(windows.now)


def test_windows_are_shuffled_between_epochs_only_when_asked(example):
    temperature = example("temperature")
    for shuffle in (True, False):
        windows = temperature.Windows("test", thin=5, shuffle=shuffle)
        before = windows.now.copy()
        windows.on_epoch_end()
        assert np.array_equal(np.sort(windows.now), before)
        assert np.array_equal(windows.now, before) is not shuffle


def test_scaling_knows_the_training_part_alone(example):
    temperature = example("temperature")
    train, test = (temperature.features(split)[0][:, :8] for split in ("train", "test"))
    assert np.allclose(train.mean(axis=0), 0, atol=1e-3)
    assert np.allclose(train.std(axis=0), 1, atol=1e-3)
    assert abs(test[:, 0].mean()) > 0.2


def test_no_patient_is_in_two_folds_and_nothing_is_seen_after_the_question(example):
    irregular = example("irregular_time")
    data = irregular.questions()
    tested = []
    for train, test in irregular.folds(data):
        assert not set(data["patient"][train]) & set(data["patient"][test])
        assert len(train) + len(test) == len(data["died"])
        tested.extend(test)
    assert sorted(tested) == list(range(len(data["died"])))
    asked = np.array(irregular.ASKED)
    last = data["time"][np.arange(len(tested)), data["mask"].sum(axis=1) - 1, 0]
    _, counts = np.unique(data["patient"], return_counts=True)
    assert counts.max() == len(asked)
    assert last.max() <= asked.max()
    # The first patient died on day 400: one question, after a year, with two visits before it.
    assert (data["patient"] == 1).sum() == 1
    assert data["died"][0] == 1
    assert data["mask"][0].sum() == 2


def test_standardising_knows_the_training_questions_alone(example):
    irregular = example("irregular_time")
    data = irregular.questions()
    train, test = irregular.folds(data)[0]
    before = irregular.standardised(data, train)
    data["values"][test] += 100
    after = irregular.standardised(data, train)
    for name in before:
        assert np.array_equal(before[name][train], after[name][train])
    assert before["observed"].min() == 0
    steps = np.cumsum(before["dt"][..., 0], axis=1)[before["mask"]]
    assert np.allclose(steps, data["time"][..., 0][before["mask"]], atol=1e-4)


def test_auc_counts_pairs(example):
    irregular = example("irregular_time")
    assert irregular.auc(np.array([1.0, 2, 3, 2]), np.array([0, 1, 1, 0])) == 3.5 / 4
    assert irregular.auc(np.array([3.0, 1]), np.array([0, 1])) == 0


def test_logistic_regression_finds_its_weights(example):
    irregular = example("irregular_time")
    random = np.random.default_rng(0)
    x = np.pad(random.normal(size=(4000, 2)), ((0, 0), (0, 1)), constant_values=1)
    wanted = np.array([1.5, -0.7, 0.3])
    y = random.random(4000) < 1 / (1 + np.exp(-(x @ wanted)))
    assert np.allclose(irregular.logistic(x, y), wanted, atol=0.15)


def test_pieces_keep_every_stream_in_its_row(example):
    long_stream = example("long_stream")
    values, running = long_stream.stream(1, 200)
    cut = long_stream.pieces(values)
    rows = long_stream.STREAMS
    assert cut.shape == (rows * 4, 50, 2)
    assert np.array_equal(cut[rows + 3], values[3, 50:100])
    # The direction of the last pulse says whether the machine runs.
    for x, y in zip(values[0, :, 0], running[0, :, 0], strict=True):
        state = (x > 0) if x else state  # noqa: F821  # a stream begins with a pulse
        assert y == state


def test_a_pen_writes_the_same_digits_for_the_same_seed():
    first, second = (_pen.write(4, 50) for _ in range(2))
    assert np.array_equal(first.xy, second.xy)
    assert not np.array_equal(first.xy, _pen.write(5, 50).xy)
    after = np.arange(_pen.STEPS) >= first.lengths[:, None]
    assert not first.xy[after].any()
    assert not first.pressure[after].any()
    assert len(set(first.lengths)) > 10
    assert 0 <= first.pressure.min() <= first.pressure.max() <= 1
    assert set(first.labels) == set(range(10))


def test_a_pen_is_lifted_in_a_four_and_not_in_a_one():
    writing = _pen.write(4, 80)
    inside = np.arange(_pen.STEPS) < writing.lengths[:, None]
    lifted = ((writing.pressure[..., 0] == 0) & inside).any(axis=1)
    assert lifted[writing.labels == 4].all()
    assert not lifted[writing.labels == 1].any()


def walk(desert, steps, told):
    seen = [(*desert.step(told(desert)), desert.home) for _ in range(steps)]
    return [np.stack(x, axis=1) for x in zip(*seen, strict=True)]


def test_the_way_home_is_what_an_ant_felt_since_its_walk_began():
    moves = np.random.default_rng(0).normal(size=(6, 2))
    moved, began, home = walk(_desert.Desert(6, 1), 300, lambda desert: moves)
    assert began[:, 0].all()
    assert began.sum() > 30
    for ant in range(6):
        sums = np.zeros(2)
        for t in range(300):
            sums = (0 if began[ant, t] else sums) + moved[ant, t]
            np.testing.assert_allclose(-sums, home[ant, t], atol=1e-4)
    assert np.linalg.norm(moved, axis=-1).max() < 1 + 1e-6
    again = walk(_desert.Desert(6, 1), 300, lambda desert: moves)
    other = walk(_desert.Desert(6, 2), 300, lambda desert: moves)
    assert np.array_equal(again[0], moved)
    assert not np.array_equal(other[0], moved)


def test_ants_come_home_that_know_the_way_and_give_up_that_go_the_other_way():
    knowing, lost = _desert.Desert(40, 1), _desert.Desert(40, 1)
    walk(knowing, 200, lambda desert: desert.home)
    walk(lost, 200, lambda desert: -desert.home)
    assert knowing.ends["given up"] == 0
    assert knowing.ends["home"] > 200
    assert lost.ends["given up"] > 100
    assert lost.ends["home"] < 20  # that found food in sight of the nest
    share = knowing.ends["carried off"] / sum(knowing.ends.values())
    assert 0.2 < share < 0.5


def test_windows_of_ants_can_be_put_together_again(example):
    ants = example("ants_go_home")
    data = ants.walks(1, 3 * ants.WINDOW)
    cut = ants.windows(data["moved"])
    assert cut.shape == (3 * ants.ANTS, ants.WINDOW, 2)
    second = data["moved"][5, ants.WINDOW : 2 * ants.WINDOW]
    assert np.array_equal(cut[ants.ANTS + 5], second)
    for values in data.values():
        assert np.array_equal(ants.joined(ants.windows(values)), values)


def test_dates_are_written_as_each_format_says():
    day = datetime.date(2026, 3, 1)
    written = {name: form(day) for name, form in (_dates.FORMATS | _dates.AMBIGUOUS).items()}
    assert written["English, weekday"] == "Sunday, March the 1st '26"
    assert written["French"] == "le 1er mars 2026"
    assert written["roman"] == "1.III.2026"
    assert written["month first"] == "3/1/26"
    assert len(set(written.values())) == len(written)
    ordinals = [_dates.ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 22, 31)]
    assert ordinals == "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 31st".split()


def test_no_day_is_meant_in_training_and_in_the_test():
    train, test = map(set, _dates.split(0))
    assert not train & test
    assert len(train | test) == len(_dates.DAYS) == 36525


def test_dates_are_the_same_for_the_same_seed_and_can_be_told_apart():
    formats = _dates.FORMATS | _dates.AMBIGUOUS
    written, iso, names = _dates.dates(3, 3000, _dates.DAYS, formats)
    assert (written, iso, names) == _dates.dates(3, 3000, _dates.DAYS, formats)
    assert set(names) == set(formats)
    assert set("".join(written)) <= set(_dates.LETTERS)
    meant = {}
    for text, date, name in zip(written, iso, names, strict=True):
        found = _dates.readings(text, name)
        assert len(found) in (0, 2)
        assert not found or date in found
        if not found:  # a text of one reading means one date, whoever wrote it
            assert meant.setdefault(text, date) == date
    assert _dates.readings("3/4/05", "day first") == {"2005-04-03", "2005-03-04"}
    assert _dates.readings("3/14/55", "month first") == set()


def test_letters_and_tokens_go_there_and_back(example):
    dates = example("dates_attention")
    everything = _dates.FORMATS | _dates.AMBIGUOUS
    written, iso, _ = _dates.dates(3, 500, _dates.DAYS, everything)
    numbers, said = dates.encoded(written), dates.tokens(iso)
    assert [(row > 0).sum() for row in numbers] == [len(text) for text in written]
    back = ["".join(_dates.LETTERS[k - 1] for k in row if k) for row in numbers]
    assert back == written
    assert dates.words(said) == iso
    assert (said[:, -1] == dates.STOP).all()
    told = dates.before(said)
    assert (told[:, 0] == dates.START).all()
    assert np.array_equal(told[:, 1:], said[:, :-1])


def test_a_claim_that_fails_is_the_exit_code(capsys):
    assert _show.verdict({"one": True, "two": True}) == 0
    assert _show.verdict({"one": True, "two": False}) == 1
    assert "FAILS two" in capsys.readouterr().out


def test_a_table_is_empty_where_a_row_knows_nothing(capsys):
    _show.table("T", {"a": "{a}", "b": "{b:.1f}"}, [{"a": "x", "b": 1.25}, {"a": "y"}])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["x", "1.2"] in lines
    assert ["y"] in lines
